"""The typed model of a run: the single source for presets, `--set`, the form, the review and the copy in the run.

Field names are Kohya's argument names where Kohya has one. Defaults are for a careful small run; presets have more.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, ValidationError, field_validator, model_validator

from engine.config.change import read_change
from engine.config.dataset import DatasetTable
from engine.config.fields import Table, setting
from engine.config.flow import FlowTable
from engine.config.flux import FluxTable
from engine.config.loggers import LoggingTable
from engine.config.memory import MemoryTable
from engine.config.moved import present_tables, split
from engine.config.network import NetworkTable
from engine.config.training import TrainingTable
from engine.config.values import (
    Interval,
    KeyFormat,
    MaxTokenLength,
    Sampler,
    SavePrecision,
)


class ModelTable(Table):
    """`[model]`: the checkpoint, its prediction type and its text encoders."""

    pretrained_model_name_or_path: str = setting(
        "", "Model", "A .safetensors checkpoint, a diffusers folder, or a hub id that is already in the local cache."
    )
    family: str = setting("auto", "Family", "auto reads it from the checkpoint's keys; a name here must match them.")
    vae: str | None = setting(None, "VAE", "Another VAE: a .safetensors file or a diffusers folder.", advanced=True)
    v_parameterization: bool | None = setting(
        None,
        "v-prediction",
        "Whether the model predicts v instead of noise. Usually read from the checkpoint: set it only if that fails.",
        advanced=True,
    )
    zero_terminal_snr: bool | None = setting(
        None,
        "Zero terminal SNR",
        "Rescale the noise schedule so that the last step is pure noise. Unset: read from the checkpoint.",
        advanced=True,
    )
    clip_skip: int | None = setting(
        None,
        "CLIP skip",
        "Which hidden layer of the text encoder is used, counted from the end. Anime models: 2.",
        ge=1,
        le=12,
        unit="layers",
    )
    max_token_length: MaxTokenLength = setting(
        75,
        "Caption length",
        "Longer captions are encoded in chunks of 75 tokens and joined.",
        unit="tokens",
        vram="more",
    )
    weighted_captions: bool = setting(
        False,
        "Weights in captions",
        "(word:1.3), (word) and [word] strengthen or weaken words in captions and prompts, as in A1111; \\( is a plain "
        "bracket. No comma inside brackets where tags are shuffled.",
        advanced=True,
    )
    no_half_vae: bool = setting(
        False,
        "VAE in fp32",
        "Encode and decode images in fp32 whatever the precision is.",
        vram="more",
        advanced=True,
    )
    base_weights: list[str] = setting(
        [],
        "Merged into the base",
        "LoRA files that become part of the model before the training; the new LoRA is used together with them.",
        advanced=True,
    )
    base_weights_multiplier: list[float] = setting(
        [], "Their strengths", "One for each of those files, in their order; 1 where there is none.", advanced=True
    )

    @field_validator("base_weights", "base_weights_multiplier", mode="before")
    @classmethod
    def _as_list(cls, value: object) -> object:
        return value if isinstance(value, list | tuple) else [value]

    @property
    def merged(self) -> list[tuple[str, float]]:
        """The LoRA files that are merged into the base, with their strengths; none at strength 0."""
        strengths = [*self.base_weights_multiplier, *[1.0] * len(self.base_weights)]
        return [pair for pair in zip(self.base_weights, strengths, strict=False) if pair[1]]


class SamplingTable(Table):
    """`[sampling]`: the sample images of a training."""

    sample_prompts: str | list[str] = setting(
        ["{trigger}"],
        "Prompts",
        "Prompts in Kohya's syntax (--n --w --h --d --s --l), or the path of a .txt, .toml or "
        ".json prompt file. {trigger} is replaced by the trigger word.",
    )
    sample_every_n_steps: int = setting(
        100,
        "Samples every",
        "Generate sample images every so many steps. 0 generates none.",
        ge=0,
        unit="steps",
        vram="a peak at each sample",
    )
    sample_every_n_epochs: int | None = setting(
        None,
        "Samples every (epochs)",
        "Generate samples every so many epochs. When it is set, the interval in steps is not used, as in "
        "Kohya's scripts.",
        ge=1,
        unit="epochs",
        advanced=True,
    )
    sample_at_first: bool = setting(
        True, "Samples before the start", "Generate the samples once before the first step, to compare with."
    )
    sample_sampler: Sampler = setting(
        "ddim",
        "Sampler",
        "The sampler of the sample images, by the names of Kohya's scripts. It does not affect the training.",
        advanced=True,
    )
    sample_steps: int = setting(
        28,
        "Sampler steps",
        "Steps of the sampler, for prompts without --s. 20 to 30 is typical.",
        ge=1,
        le=1000,
        unit="steps",
    )
    sample_scale: float | None = setting(
        None,
        "Guidance",
        "Classifier-free guidance where the prompt has no --l; unset: 7, and for FLUX 1, which is none.",
        ge=0,
        le=100,
    )
    sample_seed: int = setting(
        1,
        "Sample seed",
        "Seed of the samples, for prompts without --d. -1 uses another one each time, which makes "
        "samples hard to compare.",
        ge=-1,
        le=2**32 - 1,
        advanced=True,
    )


class SavingTable(Table):
    """`[saving]`: the files, and how often they are saved."""

    output_dir: str = setting("", "Output folder", "Where the run's files go. By default ./<name>/results_current.")
    output_name: str = setting("", "Name", "Name of the LoRA file, and of the trigger where captions have none.")
    save_every_n_epochs: int = setting(
        1, "LoRA every (epochs)", "Save a LoRA file every so many epochs. 0 saves only the last.", ge=0, unit="epochs"
    )
    save_every_n_steps: int | None = setting(
        None, "LoRA every", "Save a LoRA file every so many steps as well.", ge=1, unit="steps"
    )
    save_last_n_epochs: int | None = setting(
        None,
        "Keep last (epochs)",
        "Keep the files of so many epochs, and remove older ones.",
        ge=1,
        unit="epochs",
        advanced=True,
    )
    save_last_n_steps: int | None = setting(
        None, "Keep last (steps)", "Step files older than this are removed.", ge=1, unit="steps", advanced=True
    )
    save_precision: SavePrecision = setting(
        "fp16", "File precision", "Number format in the file. fp16 is usual; float is exact."
    )
    key_format: KeyFormat = setting(
        "kohya",
        "Names in the file",
        "kohya: every UI and diffusers read them. diffusers: peft's names, for diffusers; comfy: ComfyUI's own.",
        advanced=True,
    )
    save_state_every_n_steps: Interval = setting(
        100,
        "State every",
        "Interval of the full state that a resume needs; it is also saved at each stop. 0: only then.",
        unit="steps",
    )
    no_metadata: bool = setting(False, "No metadata", "Leave out information about your images.", advanced=True)
    training_comment: str | None = setting(
        None, "Comment", "A comment that is kept in the file's metadata.", advanced=True
    )
    metadata_title: str | None = setting(None, "Title", "Title in the file's metadata.", advanced=True)
    metadata_author: str | None = setting(None, "Author", "Author in the file's metadata.", advanced=True)
    metadata_description: str | None = setting(None, "Description", "In the file's metadata.", advanced=True)
    metadata_license: str | None = setting(None, "Licence", "In the file's metadata.", advanced=True)
    metadata_tags: str | None = setting(None, "Tags", "In the file's metadata, comma separated.", advanced=True)
    metadata_usage_hint: str | None = setting(None, "Usage hint", "In the file's metadata.", advanced=True)
    metadata_thumbnail: str | None = setting(
        None, "Thumbnail", "An image file; a small copy of its pixels is put into the LoRA's metadata.", advanced=True
    )
    metadata_merged_from: str | None = setting(None, "Merged from", "In the file's metadata.", advanced=True)
    metadata_trigger_phrase: str | None = setting(None, "Trigger phrase", "In the file's metadata.", advanced=True)
    metadata_preprocessor: str | None = setting(None, "Preprocessor", "In the file's metadata.", advanced=True)
    metadata_is_negative_embedding: str | None = setting(
        None, "Negative embedding", "In the file's metadata: true or false.", advanced=True
    )


class RunConfig(Table):
    """All settings of a run."""

    model_config = ConfigDict(title="LoRA Smith run")

    model: ModelTable = setting(ModelTable(), "Model", "The checkpoint.")
    dataset: DatasetTable = setting(DatasetTable(), "Images", "Images and captions.")
    network: NetworkTable = setting(NetworkTable(), "Network", "The LoRA.")
    training: TrainingTable = setting(TrainingTable(), "Training", "Length, learning rate, loss.")
    flow: FlowTable = setting(FlowTable(), "Flow", "Noise levels and loss of models that learn a flow.")
    flux: FluxTable = setting(FluxTable(), "FLUX", "Files, captions and guidance of FLUX.")
    memory: MemoryTable = setting(MemoryTable(), "Memory", "Precision, caches, checkpointing.")
    sampling: SamplingTable = setting(SamplingTable(), "Samples", "Images while training.")
    saving: SavingTable = setting(SavingTable(), "Saving", "Files and intervals.")
    logging: LoggingTable = setting(LoggingTable(), "Loggers", "TensorBoard, Weights & Biases, trackio.")

    @model_validator(mode="before")
    @classmethod
    def _take_former_names(cls, values: Any) -> Any:
        return present_tables(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _check_changes(self) -> RunConfig:
        """Each change must give a valid configuration."""
        changes = [read_change(text) for text in self.training.changes]
        now = self.changed(training={"changes": []}) if changes else self
        for change in changes:
            try:
                now = now.changed(**change.tables)
            except ValidationError as error:
                reason = error.errors()[0]["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
                raise ValueError(f"training.changes: {str(change)!r} is not valid: it must be {reason}") from None
        return self

    @property
    def trigger(self) -> str:
        """The word that activates the LoRA: `dataset.class_tokens`, else the output name."""
        return self.dataset.class_tokens or self.saving.output_name

    @property
    def sets_aside(self) -> bool:
        """Whether the program chooses validation images (`engine.dataset.auto_validation`): no images, share or dataset
        configuration are set, and the run does not have to match Kohya's scripts."""
        table = self.dataset
        chosen = table.validation_split is not None or table.validation_data_dir or table.dataset_config
        return not (chosen or self.training.kohya_exact)

    def value(self, dotted: str) -> Any:
        """The value of a setting: "training.seed"; a former name works too."""
        table, key = split(dotted)
        return getattr(getattr(self, table), key)

    def changed(self, **tables: dict[str, Any]) -> RunConfig:
        """A copy with some keys of some tables replaced: `config.changed(training={"seed": 1})`; validated."""
        values = self.model_dump()
        for table, keys in present_tables(tables).items():
            values[table].update(keys)
        return RunConfig.model_validate(values)
