"""`[dataset]`: the images, and the processing of images and captions (facts: sd-scripts)."""

from __future__ import annotations

from pydantic import field_validator

from engine.config.fields import Table, setting
from engine.config.values import Interpolation, Share


class DatasetTable(Table):
    """`[dataset]`: images, buckets and the caption pipeline."""

    train_data_dir: str = setting(
        "", "Images", "A folder of images, or the parent of <repeats>_<name> folders. Captions are next to them."
    )
    reg_data_dir: str | None = setting(
        None,
        "Regularization images",
        "A folder, or the parent of <repeats>_<class> folders; keeps the class from drifting.",
        advanced=True,
    )
    dataset_config: str | None = setting(
        None,
        "Dataset configuration",
        "A TOML or JSON file with [[datasets]] and subsets, as Kohya's --dataset_config; it replaces the folders.",
        advanced=True,
    )
    in_json: str | None = setting(
        None,
        "Captions in one file",
        "A .json or .jsonl file with caption and tags of each image, as Kohya's metadata for fine-tuning; "
        "train_data_dir is their folder.",
        advanced=True,
    )
    conditioning_data_dir: str | None = setting(
        None,
        "Masks",
        "A folder with a mask for each image, of the same name: black does not count. Needs masked_loss.",
        advanced=True,
    )
    masked_loss: bool = setting(False, "Masked loss", "Weight the loss by the red channel of the masks.", advanced=True)
    validation_data_dir: str | None = setting(
        None,
        "Validation images",
        "A folder of images that are never trained on. Their loss shows which epoch is best.",
        advanced=True,
    )
    validation_split: Share | None = setting(
        None,
        "Validation share",
        "Share of the training images that is set aside for validation. Unset: a tenth from 20 images on, 2 to 4 "
        "images; 0: none.",
        advanced=True,
    )
    validation_seed: int = setting(
        0, "Validation seed", "Another number sets other images aside for validation.", ge=0, advanced=True
    )
    class_tokens: str | None = setting(
        None,
        "Trigger word",
        "The word in your prompts that activates the LoRA; also the caption of images without one. "
        "Without it, the folder's name or the run's name is used.",
    )
    num_repeats: int | None = setting(
        None,
        "Repeats",
        "How often each image is used in an epoch. Unset: the number in the folder's name, else round(400 / "
        "images), at least 1.",
        ge=1,
        le=100_000,
    )
    resolution: int | list[int] = setting(
        512,
        "Resolution",
        "Side of the square, or [width, height]: the area that every image is scaled to.",
        unit="px",
        vram="much more",
    )
    enable_bucket: bool = setting(True, "Aspect buckets", "Keep each image's shape; off, all are cropped to one size.")
    min_bucket_reso: int = setting(
        256,
        "Smallest bucket side",
        "Shortest side that a bucket may have. Buckets are the shapes that images are cropped to.",
        ge=8,
        unit="px",
        advanced=True,
    )
    max_bucket_reso: int = setting(
        2048, "Largest bucket side", "Longest side that a bucket may have.", ge=8, le=8192, unit="px", advanced=True
    )
    bucket_reso_steps: int = setting(
        64,
        "Bucket step",
        "Bucket sides are multiples of this. 64 is typical; 32 crops less and makes more buckets.",
        ge=8,
        unit="px",
        advanced=True,
    )
    bucket_no_upscale: bool = setting(
        False,
        "Never upscale",
        "Images smaller than the resolution keep their size instead of being enlarged.",
        advanced=True,
    )
    resize_interpolation: Interpolation | None = setting(
        None,
        "Resampling",
        "How images are scaled. By default area when shrinking and Lanczos when enlarging, as Kohya's scripts do.",
        advanced=True,
    )
    caption_extension: str = setting(
        ".txt",
        "Caption files",
        "Extension of the caption files. The other one of .txt and .caption is looked for as well.",
    )
    caption_separator: str = setting(
        ",", "Tag separator", "What separates tags in a caption.", min_length=1, advanced=True
    )
    shuffle_caption: bool = setting(
        False, "Shuffle tags", "Use the tags in another order each time. Useful for tags, not for sentences."
    )
    keep_tokens: int = setting(
        0,
        "Keep first tags",
        "How many tags at the beginning keep their place when tags are shuffled; 1 for the trigger word.",
        ge=0,
        unit="tags",
    )
    keep_tokens_separator: str | None = setting(
        None,
        "Keep separator",
        "A text in the captions: tags before its first and after its second occurrence keep their place.",
        advanced=True,
    )
    secondary_separator: str | None = setting(
        None, "Group separator", "Binds tags into groups that are shuffled as one.", advanced=True
    )
    enable_wildcard: bool = setting(
        False, "Wildcards", "{a|b} picks one; of several caption lines one is picked.", advanced=True
    )
    caption_prefix: str | None = setting(None, "Prefix", "Added before every caption, with a space.", advanced=True)
    caption_suffix: str | None = setting(None, "Suffix", "Added after every caption, with a space.", advanced=True)
    caption_dropout_rate: Share = setting(
        0.0, "Caption dropout", "Share of captions that is left empty; helps styles and guidance."
    )
    caption_dropout_every_n_epochs: int = setting(
        0,
        "Caption dropout epochs",
        "Train every n-th epoch without captions; 0 never does.",
        ge=0,
        unit="epochs",
        advanced=True,
    )
    caption_tag_dropout_rate: Share = setting(
        0.0,
        "Tag dropout",
        "Share of tags that is left out each time; the tags that keep their place stay. 0.1 is typical.",
        advanced=True,
    )
    token_warmup_min: int = setting(
        1,
        "Tag warm-up start",
        "How many tags are used at the first step of a tag warm-up.",
        ge=1,
        unit="tags",
        advanced=True,
    )
    token_warmup_step: float = setting(
        0,
        "Tag warm-up",
        "Steps until all tags are used; a value below 1 is a share of all steps. 0 uses all from the start.",
        ge=0,
        unit="steps",
        advanced=True,
    )
    flip_aug: bool = setting(
        False, "Mirror", "Mirror half of the images. Not for faces and characters: they are not symmetric."
    )
    color_aug: bool = setting(
        False, "Colour shift", "Shift hue or gamma at random; needs uncached latents.", advanced=True
    )
    random_crop: bool = setting(
        False, "Random crop", "Crop anywhere, not at the centre; needs uncached latents.", advanced=True
    )
    face_crop_aug_range: list[float] | None = setting(
        None,
        "Face crops",
        "Crop around faces whose place is in the file's name (name_x_y_width_height): the crop is [2, 4] times the "
        "face, for example. Without buckets only; needs uncached latents.",
        advanced=True,
    )
    alpha_mask: bool = setting(
        False, "Alpha as mask", "Transparent parts of an image do not count in the loss.", advanced=True
    )
    alpha_background: str = setting(
        "#ffffff",
        "Background",
        "Colour that replaces the transparent parts of images.",
        pattern=r"^#[0-9a-fA-F]{6}$",
        advanced=True,
    )
    max_image_megapixels: int = setting(
        178,
        "Largest image",
        "Larger images are skipped: a small file can unpack to more than the memory.",
        ge=1,
        unit="megapixels",
        advanced=True,
    )
    min_images: int = setting(
        1, "Fewest images", "The run does not start with fewer usable images than this.", ge=1, advanced=True
    )

    @field_validator("resolution", mode="before")
    @classmethod
    def _read_resolution(cls, value: object) -> object:
        """Also accept the format of Kohya's command line, "512,768"."""
        parts = value.split(",") if isinstance(value, str) else []
        return [int(part) for part in parts] if parts and all(part.strip().isdecimal() for part in parts) else value

    @field_validator("resolution")
    @classmethod
    def _check_resolution(cls, value: int | list[int]) -> int | list[int]:
        sides = [value] if isinstance(value, int) else value
        if len(sides) not in (1, 2) or not all(64 <= side <= 4096 for side in sides):
            raise ValueError("a side between 64 and 4096 px, or [width, height]")
        return value if isinstance(value, int) else list(value)

    @field_validator("face_crop_aug_range", mode="before")
    @classmethod
    def _read_range(cls, value: object) -> object:
        """Also accept the format of Kohya's command line, "2.0,4.0"; empty is unset."""
        return (value.split(",") if isinstance(value, str) else value) if value else None

    @field_validator("face_crop_aug_range")
    @classmethod
    def _check_range(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and not (len(value) == 2 and 0 < value[0] <= value[1]):
            raise ValueError("two numbers above 0, the smaller one first")
        return value

    @property
    def crops_faces(self) -> bool:
        """Whether images are cropped around faces; with buckets they keep their shape."""
        return self.face_crop_aug_range is not None and not self.enable_bucket

    @property
    def size(self) -> tuple[int, int]:
        """Resolution as (width, height) in pixels."""
        sides = self.resolution
        return (sides, sides) if isinstance(sides, int) else (sides[0], sides[-1])
