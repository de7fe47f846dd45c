"""What a family of models is: the few verbs that the loop, the caches and the sampler use.

The loop knows no family by name. Adding a family is adding one module that offers a `Family`.
Importing this module loads no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.config.unused import without_effect
from engine.models.unused import FLOW_ONLY

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from engine.config import RunConfig
    from engine.models.residence import Residence

PredictionType = Literal["epsilon", "v_prediction", "flow"]
Part = Literal["vae", "text_encoder", "denoiser"]
"""What moves between host and device as a whole; "text_encoder" means all text encoders of a model."""
Say = Callable[[str], None]
"""Tells the person one decision with its reason."""


@dataclass(frozen=True)
class Recognition:
    """What a checkpoint is, read from its headers and configuration files only (no torch, no tensors)."""

    family: str
    path: Path
    layout: Literal["diffusers", "single_file", "configurations"]
    """"configurations": those that ship with the program, without weights; for plans."""
    prediction_type: PredictionType
    zero_terminal_snr: bool
    dtype: str
    """Number format of most weights: "fp16", "bf16", "fp32", "fp8"."""
    size: int
    """Bytes on disk."""
    reasons: tuple[str, ...] = ()
    """One sentence for each decision: "prediction type epsilon: scheduler_config.json"."""
    details: Mapping[str, Any] = field(default_factory=dict)
    downscale: int = 8
    """Pixels a latent cell is wide (FLUX: a patch of 2 × 2): what a single training size must be a multiple of."""
    multiple: int = 64
    """Pixels that bucket sides must be a multiple of, so that every level of the UNet divides evenly."""
    latent_channels: int = 4
    """Numbers in a latent cell."""
    caption_bytes: int = 0
    """Bytes of an encoded caption in the cache, where that is worth telling."""


@dataclass(frozen=True)
class LoraTarget:
    """One layer that takes a LoRA."""

    component: str
    """"unet", "text_encoder", ...: a key of `Model.trainable`."""
    path: str
    """Module path inside the component, as `named_modules()` gives it."""
    kohya_name: str
    """Its name in Kohya's file format, "lora_unet_..."."""
    kind: Literal["linear", "conv1x1", "conv3x3"]
    more: tuple[str, ...] = ()
    """Where Kohya's layer is several here, all fed with the same input: the paths of the others. The outputs of `path`
    and of these, one after the other, are the rows of Kohya's layer."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every layer of it, in the order of the rows."""
        return (self.path, *self.more)


@dataclass(frozen=True)
class SampleRequest:
    """One picture to draw."""

    prompt: str
    negative_prompt: str = ""
    width: int = 512
    height: int = 512
    seed: int = 0
    steps: int = 28
    scale: float = 7.0
    """Classifier-free guidance; none at 1."""
    sampler: str = "ddim"
    guidance: float = 3.5
    """What a guidance embedding is told (FLUX dev); other families have none."""


class LoraReader(ABC):
    """How a reader of the family uses a LoRA file, on components that are handed in; for the check of a saved file."""

    folds_alpha = False
    """Whether the loader multiplies alpha / rank into the weights, and so reads each module's own alpha."""

    @abstractmethod
    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor], adapter_name: str) -> None:
        """Let diffusers load a LoRA in Kohya's format into the components, in place, as its pipeline does."""

    @abstractmethod
    def denoise(self, components: Mapping[str, nn.Module]) -> torch.Tensor:
        """The denoiser's output, float32, for fixed small inputs; it depends on every component that has a LoRA."""


class Model(ABC):
    """A loaded checkpoint, frozen, in the compute dtype. After loading, every part waits in the host's memory."""

    recognition: Recognition
    prediction_type: PredictionType
    trainable: dict[str, nn.Module]
    """Components that can take a LoRA by name, in the order Kohya saves them: text encoders, then the denoiser."""
    text_encoders: dict[str, Any]
    """The text encoders by name, trainable or not."""
    apart: tuple[str, ...] = ()
    """Text encoders that are never on the device together with the denoiser: their outputs are always cached."""
    reader: LoraReader
    residence: Residence
    vae: Any
    """diffusers' component."""
    latent_channels: int
    downscale: int
    """Pixels a latent cell is wide."""
    training_alphas_cumprod: torch.Tensor
    """[T] float32, after the zero-terminal-SNR rescaling where it applies; flow models have none."""
    plain_alphas_cumprod: torch.Tensor
    """The same before that rescaling."""

    @property
    @abstractmethod
    def vae_key(self) -> str:
        """A content key of everything that `encode_pixels` depends on but the pixels; for caches."""

    @property
    @abstractmethod
    def text_key(self) -> str:
        """A content key of everything that `encode_text` depends on but the captions, without adapters; for caches."""

    @abstractmethod
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to the VAE posterior [B, 2C, h, w] float32: mean then standard deviation,
        both already multiplied by the scaling factor."""

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""

    @abstractmethod
    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Captions to what `predict` needs; every tensor's first axis is the caption. Gradients flow.

        Args:
            encoders: names of `text_encoders`: only what these give; None: all of it. Only families with
                `Family.partial_text_cache` are asked for a part.
        """

    def let_go(self, encoders: Sequence[str]) -> None:  # noqa: B027 - most families keep their encoders
        """The outputs of these text encoders are cached, and they are not asked again: their memory may be freed."""

    @abstractmethod
    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: Mapping[str, torch.Tensor], sizes: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's output [B, C, h, w] float32.

        Args:
            noisy: latents [B, C, h, w].
            timesteps: [B], 0 to 1000.
            text: what `encode_text` gave.
            sizes: [B, 6] float32, px: original height and width, top and left of the crop, height and width of the
                bucket (SDXL's size conditioning). Families without such a conditioning ignore it.
        """

    def remember(self, prompts: Sequence[str]) -> None:  # noqa: B027 - a family may as well encode when it draws
        """Encode the texts of samples before the training, where a text encoder is not at hand later."""

    def drawing(self) -> AbstractContextManager[None]:
        """Within it everything that `draw` needs is on the device."""
        return self.present("vae", "text_encoder", "denoiser")

    @abstractmethod
    def draw(self, request: SampleRequest, *, frugal: bool = False) -> Image.Image:
        """Draw one picture with the current weights; changes no random state but its own generator.

        Args:
            frugal: slower, in less memory: one part after the other on the device, guidance in two passes, the VAE in
                tiles (whose seams may differ slightly).
        """

    @abstractmethod
    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """Layers that take a LoRA, in Kohya's order (text encoder first)."""

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The denoiser's blocks in the order of its forward pass: what is quantised, swapped, checkpointed and compiled
        (`engine.memory.ladder`, for every family). The first and the last layer of the denoiser are in none of them."""

    def release(self, part: Part) -> None:
        """Move a part to the host: it is not needed until it is asked for again."""
        self.residence.release(part)

    def acquire(self, part: Part) -> None:
        """Bring a part to the device."""
        self.residence.acquire(part)

    def present(self, *parts: Part) -> AbstractContextManager[None]:
        """Within it the parts are on the device; afterwards those that were not there before are released again."""
        return self.residence.present(*parts)


class Family(ABC):
    """One family: how to recognise it and how to load it."""

    name: str
    title: str
    lora_base: str
    """What `inspect_lora` calls a LoRA for it."""
    partial_text_cache: bool = False
    """Whether one text encoder can be trained while the outputs of another are cached."""
    prompt_flags: frozenset[str] = frozenset()
    """Flags of sample prompts that mean something for it besides the common ones: "g" is the embedded guidance."""
    beside: tuple[str, ...] = ()
    """Keys of `[model]` that name the other files of a checkpoint that comes in several."""

    def settle(self, config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
        """The configuration that this family really runs with, and a sentence for each setting that it changes or
        that does nothing for it. Reads headers only; asked before contradictions are resolved.

        Raises:
            UsageError: a contradiction that only the person can resolve.
        """
        return without_effect(config, FLOW_ONLY)

    @abstractmethod
    def recognise(self, path: Path) -> Recognition | None:
        """What `path` is, if it is of this family; None otherwise. Reads headers only.

        Raises:
            ModelError: the file is a near relative that cannot be trained here (with the reason).
        """

    @abstractmethod
    def of_real_size(self) -> Recognition:
        """The model that the family is about, by the configurations that ship with the program; only to be loaded
        empty, for the plan of a run whose checkpoint is not chosen yet."""

    @abstractmethod
    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """Refuse what `[model]` sets and this checkpoint cannot have; reads headers only.

        Raises:
            UsageError: a setting contradicts the checkpoint.
            ModelError: a file that is named beside the checkpoint is missing, broken or of the wrong kind.
        """

    def in_force(self, config: RunConfig, recognition: Recognition) -> Recognition:
        """The recognition as the run has it: where the checkpoint leaves something open, `[model]` decides.

        Raises:
            UsageError: a setting contradicts the checkpoint.
        """
        return recognition

    @abstractmethod
    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, say: Say, *, empty: bool = False
    ) -> Model:
        """Load it frozen and offline, to compute on `device` ("cpu", "cuda:0") in "fp32", "fp16" or "bf16".

        Args:
            empty: read no weights: they are allocated and hold anything. For plans, under fake tensors.
        """

    @abstractmethod
    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """What a LoRA file of the family says besides: `ss_v2`, `ss_base_model_version`, `modelspec.architecture`,
        `modelspec.implementation`, where it has one `modelspec.prediction_type`, and keys of its own."""
