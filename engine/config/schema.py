"""The typed model of a run: the one source for presets, `--set`, the form, the review and the frozen copy.

Field names are Kohya's argument names where Kohya has one. Defaults are those of a careful small run;
presets say more.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from engine.config.dataset import DatasetTable
from engine.config.fields import Table, setting
from engine.config.training import TrainingTable
from engine.config.values import (
    BasePrecision,
    Device,
    Interval,
    LoraModule,
    MaxTokenLength,
    OnOutOfMemory,
    Precision,
    Sampler,
    SavePrecision,
)


class ModelTable(Table):
    """`[model]`: the checkpoint, and how its text and noise are to be understood."""

    pretrained_model_name_or_path: str = setting(
        "", "Model", "A .safetensors checkpoint, a diffusers folder, or a hub id that is already in the local cache."
    )
    family: str = setting(
        "auto", "Family", "auto reads it from the checkpoint's keys; a name here must agree with them."
    )
    vae: str | None = setting(None, "VAE", "Another VAE: a .safetensors file or a diffusers folder.", advanced=True)
    v_parameterization: bool | None = setting(
        None,
        "v-prediction",
        "Unset: read from the checkpoint. Set it only for a file that does not say.",
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
    clip_l: str | None = setting(
        None, "CLIP-L", "FLUX in separate files: the text encoder CLIP-L, as for ComfyUI and Kohya.", advanced=True
    )
    t5xxl: str | None = setting(
        None, "T5-XXL", "FLUX in separate files: the text encoder T5-XXL, in fp16, bf16 or fp8.", advanced=True
    )
    ae: str | None = setting(None, "Autoencoder", "FLUX in separate files: its VAE, ae.safetensors.", advanced=True)
    t5_tokenizer: str | None = setting(
        None,
        "T5 tokenizer",
        "FLUX: a folder with T5's tokenizer.json. Unset: the model folder's own, or that of the local cache.",
        advanced=True,
    )
    t5xxl_max_token_length: int | None = setting(
        None,
        "T5 caption length",
        "FLUX: tokens that T5 is given; unset: 512 for dev, 256 for schnell.",
        ge=1,
        le=1024,
        unit="tokens",
        vram="more",
        advanced=True,
    )
    apply_t5_attn_mask: bool = setting(
        False, "Mask T5's padding", "FLUX: let the transformer not look at the padding of captions.", advanced=True
    )
    no_half_vae: bool = setting(
        False,
        "VAE in fp32",
        "Encode and decode pictures in fp32 whatever the precision is.",
        vram="more",
        advanced=True,
    )


class NetworkTable(Table):
    """`[network]`: the LoRA."""

    network_module: LoraModule = setting("networks.lora", "Module", "Kohya's name of the adapter kind.", advanced=True)
    network_dim: int = setting(
        16, "Rank", "How much the LoRA can hold. Faces 16-32, anime characters 8-16.", ge=1, le=1024, vram="more"
    )
    network_alpha: float = setting(
        8.0, "Alpha", "The LoRA's effect is scaled by alpha / rank, so half the rank halves the learning rate.", gt=0
    )
    conv_dim: int | None = setting(
        None,
        "Convolution rank",
        "Also train the 3x3 convolutions with this rank (LoCon); helps with styles.",
        ge=1,
        le=1024,
        vram="more",
    )
    conv_alpha: float | None = setting(
        None, "Convolution alpha", "Alpha of the convolutions; unset: 1, as Kohya.", gt=0
    )
    network_dropout: float = setting(
        0.0, "Dropout", "Share of the down projection's values that is dropped in each step.", ge=0, lt=1, advanced=True
    )
    rank_dropout: float = setting(
        0.0,
        "Rank dropout",
        "Share of ranks that is dropped in each step; the rest is scaled up.",
        ge=0,
        lt=1,
        advanced=True,
    )
    module_dropout: float = setting(
        0.0, "Module dropout", "Chance that a whole module is skipped in a step.", ge=0, lt=1, advanced=True
    )
    network_weights: str | None = setting(None, "Start from", "A LoRA in Kohya's format to go on from.", advanced=True)
    dim_from_weights: bool = setting(
        False, "Ranks from that file", "Take modules, ranks and alphas from network_weights.", advanced=True
    )
    network_train_unet_only: bool = setting(False, "UNet only", "Leave the text encoder alone.", vram="less")
    network_train_text_encoder_only: bool = setting(
        False, "Text encoder only", "Leave the UNet alone.", vram="less", advanced=True
    )
    scale_weight_norms: float | None = setting(
        None,
        "Maximum norm",
        "After each step a module whose weights have a larger norm is scaled down to it; 1 is usual.",
        gt=0,
        advanced=True,
    )


class MemoryTable(Table):
    """`[memory]`: what decides whether it fits, and how fast it goes."""

    device: Device = setting("auto", "Device", "auto: the first GPU, else the CPU. Or cpu, cuda, cuda:1, ...")
    mixed_precision: Precision = setting(
        "auto", "Precision", "auto: bf16 where the GPU has it, else fp16, on the CPU fp32 (no).", vram="fp16/bf16: less"
    )
    gradient_checkpointing: bool = setting(
        False,
        "Gradient checkpointing",
        "Compute activations twice instead of keeping them: less VRAM, about 30 % slower.",
        vram="much less",
    )
    checkpointed_blocks: int | None = setting(
        None,
        "Blocks recomputed",
        "Gradient checkpointing in so many of the denoiser's blocks only; unset: in all.",
        ge=1,
        le=1000,
        unit="blocks",
        vram="fewer: more",
        advanced=True,
    )
    cpu_offload_checkpointing: bool = setting(
        False,
        "Activations in host memory",
        "What gradient checkpointing keeps of each block waits in the machine's memory: less VRAM, slower.",
        vram="less",
        advanced=True,
    )
    base_precision: BasePrecision = setting(
        "auto",
        "Base weights",
        "Number format of the frozen model's weights: auto is that of the computation; int8 and fp8 take half of it, "
        "nf4 a quarter.",
        vram="int8, fp8, nf4: much less",
    )
    split_mode: bool = setting(
        False,
        "Split mode",
        "Frozen blocks wait in the machine's memory and come to the card one after the other: slower.",
        vram="much less",
    )
    blocks_to_swap: int | None = setting(
        None,
        "Blocks to swap",
        "How many blocks split mode keeps off the card; unset: all.",
        ge=1,
        le=1000,
        unit="blocks",
        vram="less",
        advanced=True,
    )
    torch_compile: bool = setting(
        False,
        "Compile blocks",
        "Compile each block for the GPU: faster steps after some slow ones at the start.",
        advanced=True,
    )
    deterministic: bool = setting(
        True,
        "Same bytes again",
        "GPU: only kernels that give the same bytes each time, so that a resume is exact. Off: attention takes a third "
        "less time and up to 0.3 GiB less.",
        advanced=True,
    )
    on_oom: OnOutOfMemory = setting(
        "auto",
        "Out of memory",
        "retry: go on by itself with the next remedy; ask: show the remedies; stop: end. auto: ask on the screen, else "
        "retry.",
        advanced=True,
    )
    cache_latents: bool = setting(
        True,
        "Cache latents",
        "Encode each picture once and free the VAE. Off, every step encodes its pictures.",
        vram="less",
    )
    cache_latents_to_disk: bool = setting(
        False, "Latents on disk", "Keep the cache for the next run; about 0.1 MiB a picture at 512 px."
    )
    cache_text_encoder_outputs: bool = setting(
        False,
        "Cache text outputs",
        "Encode every caption of the run once and free the text encoder; it is then not trained.",
        vram="less",
    )
    cache_text_encoder_outputs_to_disk: bool = setting(
        False, "Text outputs on disk", "Keep the encoded captions for the next run.", advanced=True
    )
    cache_dir: str | None = setting(
        None, "Cache folder", "Where caches on disk go; unset: beside the run's output.", advanced=True
    )
    max_batch_size: int | None = setting(
        None,
        "Largest batch",
        "Batches that a dataset configuration wants larger are cut to it; a remedy sets it.",
        ge=1,
        le=1024,
        unit="pictures",
        vram="more",
        advanced=True,
    )
    vae_batch_size: int = setting(
        1,
        "Caching batch",
        "Pictures encoded at once while caching.",
        ge=1,
        le=64,
        unit="pictures",
        vram="more",
        advanced=True,
    )
    num_cpu_threads_per_process: int | None = setting(
        None, "CPU threads", "Threads of the trainer; unset: all cores.", ge=1, le=1024, unit="threads", advanced=True
    )


class SamplingTable(Table):
    """`[sampling]`: the pictures that show how the training goes."""

    sample_prompts: str | list[str] = setting(
        ["{trigger}"],
        "Prompts",
        "Prompts in Kohya's syntax (--n --w --h --d --s --l), or the path of a .txt, .toml or "
        ".json prompt file. {trigger} stands for the trigger word.",
    )
    sample_every_n_steps: int = setting(
        100, "Samples every", "0: no samples.", ge=0, unit="steps", vram="a peak at each sample"
    )
    sample_every_n_epochs: int | None = setting(
        None,
        "Samples every (epochs)",
        "Set, it replaces the interval in steps, as in Kohya.",
        ge=1,
        unit="epochs",
        advanced=True,
    )
    sample_at_first: bool = setting(True, "Samples before the start", "What the model draws without the LoRA.")
    sample_sampler: Sampler = setting("ddim", "Sampler", "Kohya's sampler names.", advanced=True)
    sample_steps: int = setting(28, "Sampler steps", "Where the prompt has no --s.", ge=1, le=1000, unit="steps")
    sample_scale: float | None = setting(
        None,
        "Guidance",
        "Classifier-free guidance where the prompt has no --l; unset: 7, and for FLUX 1, which is none.",
        ge=0,
        le=100,
    )
    sample_guidance: float = setting(
        3.5, "FLUX guidance", "What FLUX dev is told where the prompt has no --g.", ge=0, le=100, advanced=True
    )
    sample_seed: int = setting(
        1, "Sample seed", "Where the prompt has no --d; -1: another one each time.", ge=-1, le=2**32 - 1, advanced=True
    )


class SavingTable(Table):
    """`[saving]`: where the files go, and how often."""

    output_dir: str = setting("", "Output folder", "Unset: ./<name>/results_current.")
    output_name: str = setting("", "Name", "Name of the LoRA file, and of the trigger where captions have none.")
    save_every_n_epochs: int = setting(1, "LoRA every (epochs)", "0: only the last.", ge=0, unit="epochs")
    save_every_n_steps: int | None = setting(None, "LoRA every", "Unset: by epochs only.", ge=1, unit="steps")
    save_last_n_epochs: int | None = setting(
        None, "Keep last (epochs)", "Older epoch files are removed.", ge=1, unit="epochs", advanced=True
    )
    save_last_n_steps: int | None = setting(
        None, "Keep last (steps)", "Step files older than this are removed.", ge=1, unit="steps", advanced=True
    )
    save_precision: SavePrecision = setting(
        "fp16", "File precision", "Number format in the file. fp16 is what readers expect; float keeps everything."
    )
    save_state_every_n_steps: Interval = setting(
        100,
        "State every",
        "Interval of the full state that a resume needs; it is also saved at each stop. 0: only then.",
        unit="steps",
    )
    no_metadata: bool = setting(False, "No metadata", "Leave out what tells about your pictures.", advanced=True)
    training_comment: str | None = setting(None, "Comment", "Kept in the file's metadata.", advanced=True)
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
    """Everything that decides what a run does."""

    model_config = ConfigDict(title="LoRA Smith run")

    model: ModelTable = setting(ModelTable(), "Model", "The checkpoint.")
    dataset: DatasetTable = setting(DatasetTable(), "Pictures", "Pictures and captions.")
    network: NetworkTable = setting(NetworkTable(), "Network", "The LoRA.")
    training: TrainingTable = setting(TrainingTable(), "Training", "Length, learning rate, loss.")
    memory: MemoryTable = setting(MemoryTable(), "Memory", "Precision, caches, checkpointing.")
    sampling: SamplingTable = setting(SamplingTable(), "Samples", "Pictures while training.")
    saving: SavingTable = setting(SavingTable(), "Saving", "Files and intervals.")

    @property
    def trigger(self) -> str:
        """The word that calls the LoRA: `dataset.class_tokens`, else the output name."""
        return self.dataset.class_tokens or self.saving.output_name

    def changed(self, **tables: dict[str, Any]) -> RunConfig:
        """A copy with some keys of some tables replaced: `config.changed(training={"seed": 1})`; checked anew."""
        values = self.model_dump()
        for table, keys in tables.items():
            values[table].update(keys)
        return RunConfig.model_validate(values)
