"""The keys of the kohya_ss GUI's LoRA configuration, of every version (facts: kohya_ss `lora_gui.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.config.conversion import Rule
from engine.config.kohya.arguments import CLI_DEFAULTS
from engine.config.kohya.rules import NETWORK_ARGS, NOT_SUPPORTED

GUI_DEFAULTS: dict[str, Any] = {
    **CLI_DEFAULTS, "learning_rate": 1e-4, "lr_scheduler": "cosine", "network_dim": 8,
    "network_alpha": 1.0, "enable_bucket": True, "bucket_no_upscale": True,
    "max_bucket_reso": 2048, "caption_extension": ".txt", "cache_latents": True, "mixed_precision": "fp16",
    "save_precision": "fp16", "sample_sampler": "euler_a", "resolution": 512, "output_name": "last",
}  # fmt: skip
"""Values that the GUI shows and passes on for missing keys."""
DEFAULT_RATE = 1e-4
"""The GUI's default of unet_lr and text_encoder_lr."""
EMPTY_DEFAULTS: dict[str, Any] = {**CLI_DEFAULTS, "bucket_no_upscale": False}
"""The scripts' values where the GUI passes nothing on because a key is empty or off."""
_CONV = ("conv_dim", "conv_alpha")
_SHARED = (*_CONV, "rank_dropout", "module_dropout", "rank_dropout_scale", "train_norm")
_OFT = (*_SHARED, "use_tucker", "constrain", "rescaled")
_PRODUCT = (*_SHARED, "bypass_mode", "dora_wd", "use_scalar")
_OTHER_DROPOUTS = ("rank_dropout", "module_dropout")


@dataclass(frozen=True)
class LoraType:
    """What the GUI passes on for a LoRA_type."""

    module: str = "lycoris.kohya"
    algo: str = ""
    passed: tuple[str, ...] = ()
    """Keys in network_args, beside those of every type of Kohya's own (`NETWORK`)."""


LORA_TYPES: Mapping[str, LoraType] = {
    "Standard": LoraType("networks.lora"),
    "Kohya LoCon": LoraType("networks.lora", passed=_CONV),
    "Flux1": LoraType("networks.lora_flux"),
    "Kohya LoHa": LoraType("networks.loha", passed=(*_CONV, *_OTHER_DROPOUTS, "use_tucker")),
    "Kohya LoKr": LoraType("networks.lokr", passed=(*_CONV, *_OTHER_DROPOUTS, "use_tucker", "factor")),
    "LyCORIS/LoCon": LoraType(algo="locon", passed=(*_PRODUCT, "use_tucker")),
    "LyCORIS/LoHa": LoraType(algo="loha", passed=(*_PRODUCT, "use_tucker")),
    "LyCORIS/LoKr": LoraType(algo="lokr", passed=(*_PRODUCT, "use_cp", "factor", "decompose_both")),
    "LyCORIS/GLoRA": LoraType(algo="glora", passed=_SHARED),
    "LyCORIS/Native Fine-Tuning": LoraType(algo="full", passed=(*_SHARED, "use_tucker", "use_scalar")),
    "LyCORIS/Diag-OFT": LoraType(algo="diag-oft", passed=_OFT),
    "LyCORIS/BOFT": LoraType(algo="boft", passed=_OFT),
    "LyCORIS/iA3": LoraType(algo="ia3", passed=(*_CONV, "train_on_input")),
}
"""By LoRA_type; others cannot be trained here."""
RENAMED: dict[str, str] = {
    "optimizer": "optimizer_type", "max_resolution": "resolution", "sdxl_no_half_vae": "no_half_vae",
    "sdxl_cache_text_encoder_outputs": "cache_text_encoder_outputs", "lora_network_weights": "network_weights",
    "flux1_cache_text_encoder_outputs": "cache_text_encoder_outputs", "flux1_clip_l": "clip_l",
    "flux1_cache_text_encoder_outputs_to_disk": "cache_text_encoder_outputs_to_disk", "flux1_t5xxl": "t5xxl",
}  # fmt: skip
"""Keys of the GUI that have another name as an argument."""
LYCORIS = ("factor", "bypass_mode", "dora_wd", "use_cp", "use_tucker", "use_scalar", "rank_dropout_scale", "rescaled",
           "train_norm", "decompose_both", "train_on_input", "unit", "enable_all_linear", "LyCORIS_preset",
           "constrain")  # fmt: skip
"""Keys of the GUI that only some types of LoRA have."""
_NO_KEY = frozenset({
    "dropout", "verbose", "train_blocks", "preset", "algo", "full_matrix", "unbalanced_factorization", "constraint",
    "rs_lora", "wd_on_output", "block_size", "use_conv_cp", "include_patterns", "exclude_patterns",
})  # fmt: skip
"""Arguments inside network_args that are no key of the GUI."""
NETWORK = tuple(name for name in NETWORK_ARGS if name not in (*LYCORIS, *_CONV, *_NO_KEY))
"""Keys of the GUI that are passed in network_args."""
NOISE = {
    "Original": ("noise_offset", "adaptive_noise_scale", "noise_offset_random_strength"),
    "Multires": ("multires_noise_iterations", "multires_noise_discount"),
}
"""Keys that are passed on for each noise_offset_type."""
SD3_ONLY = ("weighting_scheme", "logit_mean", "logit_std", "mode_scale", "sigmoid_scale")
"""Arguments that the GUI passes on to the script of Stable Diffusion 3 only."""
ENCODER_RATES = ("text_encoder_lr1", "text_encoder_lr2")
TOGETHER = frozenset({
    "LoRA_type", "conv_dim", "conv_alpha", "lr_warmup", "lr_warmup_steps", "epoch", "noise_offset_type",
    "text_encoder_lr", *ENCODER_RATES, "t5xxl_lr", "unet_lr", "xformers", "sample_prompts", "additional_parameters",
    "sdxl",
    "flux1_checkbox", "max_train_steps", "max_train_epochs", "lr_scheduler_num_cycles", "split_mode", "use_8bit_adam",
    "optimizer_args", "lr_scheduler_args", "use_wandb", "sdxl_checkbox", "num_processes", "ggpo_beta", "ggpo_sigma",
    *(name for names in NOISE.values() for name in names),
})  # fmt: skip
"""Keys that are converted together with others."""
_FINE_TUNING, _INVERSION, _OLD = "of full fine-tuning", "of textual inversion", "an old key that nothing reads"
_NOT_READ, _INDUCTOR = "no LoRA script reads it", "the compiler is inductor"
SILENT: dict[str, str] = {
    "num_cpu_threads_per_process": "threads are chosen by the machine; memory.num_cpu_threads_per_process sets them",
    "model_list": "the list in the window", "train_blocks": "the GUI does not pass it on either",
    "save_as_bool": "of the window", "num_machines": "one machine", "main_process_port": "not needed",
    "gpu_ids": "set CUDA_VISIBLE_DEVICES or memory.device", "multi_gpu": "num_processes decides",
    "extra_accelerate_launch_args": "accelerate is not launched", "show_timesteps": "a tool for looking",
    "lowvram": "an old key",
    **dict.fromkeys(("stop_text_encoder_training", "stop_text_encoder_training_pct", "mem_eff_save",
                     "single_blocks_to_swap", "double_blocks_to_swap"), _NOT_READ),
    **dict.fromkeys(("no_token_padding", "caption_metadata_filename", "latent_metadata_filename", "weights",
                     "conv_dims", "conv_alphas"), _OLD),
    **dict.fromkeys(("template", "token_string", "init_word", "num_vectors_per_token"), _INVERSION),
    **dict.fromkeys(("learning_rate_te", "learning_rate_te1", "learning_rate_te2", "block_lr",
                     "fused_optimizer_groups", "blockwise_fused_optimizers", "flux_fused_backward_pass"), _FINE_TUNING),
    **dict.fromkeys(("dynamo_mode", "dynamo_use_dynamic", "dynamo_use_fullgraph"), _INDUCTOR),
}  # fmt: skip
REFUSED: dict[str, str] = {
    "train_inpainting": NOT_SUPPORTED["train_inpainting"].text,
    "train_lora_ggpo": NETWORK_ARGS["ggpo_sigma"].text,
}
"""Keys that change what is trained, and are not supported here."""
OTHER_FAMILIES = ("sd3", "hunyuan", "anima", "lumina", "clip_g", "clip_l_dropout", "t5_dropout", "qwen", "chroma")
COUNTED = frozenset({".jpg", ".jpeg", ".png", ".webp"})
"""Extensions that the GUI counts as images."""
_ANOTHER = "for another family of models"
_BY_TYPE = "where the GUI passes it on for the LoRA_type"

GUI_RULES: dict[str, Rule] = {
    **{key: Rule("honoured", argument, "as the argument") for key, argument in RENAMED.items()},
    **{key: NETWORK_ARGS[key] for key in NETWORK},
    **{key: Rule("no effect", "", text) for key, text in SILENT.items()},
    **{key: Rule("not supported", "", text) for key, text in REFUSED.items()},
    **dict.fromkeys(ENCODER_RATES, Rule("honoured", "training.text_encoder_lr", "the rates of SDXL's two encoders")),
    **{key: replace(NETWORK_ARGS[key], text=_BY_TYPE) for key in LYCORIS if key in NETWORK_ARGS},
    "enable_all_linear": Rule("no effect", "", "of Flux1 OFT"),
    "LyCORIS_preset": replace(NETWORK_ARGS["preset"], text=f"{NETWORK_ARGS['preset'].text}; {_BY_TYPE}"),
    **{f"{front}*": Rule("no effect", "", f"{_ANOTHER}; its checkbox switched on is an error")
       for front in OTHER_FAMILIES},
    "LoRA_type": Rule("honoured", "network", f"{', '.join(LORA_TYPES)}; others are errors"),
    "conv_dim": Rule("honoured", "network.conv_dim", "not with Standard and Flux1"),
    "conv_alpha": Rule("honoured", "network.conv_alpha", "not with Standard and Flux1"),
    "lr_warmup": Rule("honoured", "training.lr_warmup_steps", "percent"),
    "epoch": Rule("better", "training.max_train_epochs", "where max_train_steps is 0: whole epochs"),
    "noise_offset_type": Rule("honoured", "", "which of the two kinds of noise is passed on"),
    "num_processes": Rule("honoured", "training.num_processes", "above 1"),
    "t5xxl_lr": Rule("no effect", "", "T5 is never trained"),
    "sdxl": Rule("honoured", "model.family"),
    "sdxl_checkbox": Rule("honoured", "model.family", "the old name of sdxl"),
    "flux1_checkbox": Rule("honoured", "model.family"),
    "sample_prompts": Rule("honoured", "sampling.sample_prompts", "the text itself, one prompt a line"),
    "additional_parameters": Rule("honoured", "", "read as a command line"),
    "use_wandb": Rule("honoured", "logging.log_with", "an old key: wandb"),
    **{key: Rule("no effect", "", "the GUI passes it on for Stable Diffusion 3 only") for key in SD3_ONLY},
}  # fmt: skip
"""The GUI's keys that are no argument of the same name, or have another meaning, for the documentation."""
