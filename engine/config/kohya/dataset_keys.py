"""The keys of a dataset configuration by level (facts: sd-scripts `library/config_util.py`)."""

from __future__ import annotations

DATASET_KEYS = frozenset({
    "batch_size", "resolution", "enable_bucket", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps",
    "bucket_no_upscale", "network_multiplier", "validation_split", "validation_seed",
})  # fmt: skip
"""Allowed in [general] and in a dataset."""
SHARED_KEYS = frozenset({
    "num_repeats", "color_aug", "flip_aug", "face_crop_aug_range", "random_crop", "shuffle_caption",
    "caption_separator", "keep_tokens", "keep_tokens_separator", "secondary_separator", "enable_wildcard",
    "caption_prefix", "caption_suffix", "token_warmup_min", "token_warmup_step", "caption_dropout_rate",
    "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "custom_attributes", "caption_extension",
    "class_tokens", "cache_info", "resize_interpolation",
})  # fmt: skip
"""Allowed on every level."""
SUBSET_KEYS = frozenset({"image_dir", "is_reg", "alpha_mask", "metadata_file", "conditioning_data_dir"})
PATHS = ("image_dir", "metadata_file", "conditioning_data_dir")
