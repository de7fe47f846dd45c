"""The interface of a family of models: what the training loop, the caches and the sampler call.

The training loop is independent of families. Facts as data are in `FamilySpec`. Importing this module loads no torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.families.spec import FamilySpec
from engine.models.header import read_header
from engine.types import Log, LoraTarget, Part, PredictionType, Recognition, SampleRequest

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

    from engine.config import RunConfig
    from engine.models.loading import PartSource
    from engine.models.placement import DevicePlacement


class LoraReader(ABC):
    """Loads a LoRA file as diffusers does, into given components; for the check of a saved file."""

    folds_alpha = False
    """Whether diffusers' loader multiplies alpha / rank into the weights, and so reads each module's own alpha."""

    @abstractmethod
    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor], adapter_name: str) -> None:
        """Load a LoRA in Kohya's format into the components, in place, as diffusers' pipeline does."""

    @abstractmethod
    def load_file(self, components: Mapping[str, nn.Module], path: Path, adapter_name: str) -> None:
        """Load a LoRA file in diffusers' own names, with the alphas of its tensors or metadata, likewise."""

    @abstractmethod
    def denoise(self, components: Mapping[str, nn.Module]) -> torch.Tensor:
        """The denoiser's output, float32, for fixed small inputs; it depends on every component that has a LoRA."""


class Model(ABC):
    """A loaded checkpoint, frozen, in the compute dtype. After loading, every part is in host memory."""

    recognition: Recognition
    prediction_type: PredictionType
    trainable: dict[str, nn.Module]
    """Components that can get a LoRA, by name, in Kohya's order: text encoders, then the denoiser."""
    text_encoders: dict[str, Any]
    """The text encoders by name, trainable or not."""
    cached_only_encoders: tuple[str, ...] = ()
    """Text encoders that are never on the device together with the denoiser: their outputs are always cached."""
    merged_key: str = ""
    """A hash of the LoRA files that were merged into it (`model.base_weights`), for caches; "" for none."""
    masks_attention: bool = False
    """Whether its attention ignores padding, by a mask."""
    reader: LoraReader
    placement: DevicePlacement
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
        """A hash of everything that `encode_pixels` depends on besides the pixels; for caches."""

    @property
    @abstractmethod
    def text_key(self) -> str:
        """A hash of everything that `encode_text` depends on besides captions and adapters; for caches."""

    @abstractmethod
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [B, 3, H, W] in [-1, 1] to the VAE posterior [B, 2C, h, w] float32: mean then standard deviation,
        both already multiplied by the scaling factor."""

    @abstractmethod
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""

    @abstractmethod
    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Captions to the text inputs of `predict`; every tensor's first axis is the caption. Gradients flow.

        Args:
            encoders: names of `text_encoders`: only their outputs; None: all. Used only for families with
                `FamilySpec.partial_text_cache`.
        """

    def tokens(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """Captions as `encode_tokens` takes them, in host memory, so that a step neither tokenises nor copies; the
        first axis of every tensor is the caption. Called by several threads. Empty: the family has none, and steps call
        `encode_text`.

        Args:
            encoders: as for `encode_text`.
        """
        return {}

    def encode_tokens(
        self, tokens: Mapping[str, torch.Tensor], encoders: Sequence[str] | None = None
    ) -> dict[str, torch.Tensor]:
        """`encode_text` of the captions whose `tokens` these are, on the device."""
        raise NotImplementedError

    def free_encoders(self, encoders: Sequence[str]) -> None:  # noqa: B027 - most families keep their encoders
        """Free the memory of these text encoders, if the family supports it: their outputs are cached."""

    @abstractmethod
    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: Mapping[str, torch.Tensor], sizes: torch.Tensor
    ) -> torch.Tensor:
        """The denoiser's output [B, C, h, w] float32.

        Args:
            noisy: latents [B, C, h, w].
            timesteps: [B], 0 to 1000.
            text: from `encode_text`.
            sizes: [B, 6] float32, px: original height and width, top and left of the crop, height and width of the
                bucket (SDXL's size conditioning). Families without such a conditioning ignore it.
        """

    def precompute_prompts(self, prompts: Sequence[str]) -> None:  # noqa: B027 - a family may as well encode when sampling
        """Encode the prompts of samples before the training, if the text encoder is not available later."""

    def can_sample(self, prompts: Sequence[str]) -> bool:
        """Whether samples of these prompts can be generated during the training."""
        return True

    def sampling_ready(self) -> AbstractContextManager[None]:
        """Within it everything that `generate` needs is on the device."""
        return self.on_device("vae", "text_encoder", "denoiser")

    @abstractmethod
    def generate(self, request: SampleRequest, *, low_memory: bool = False) -> Image.Image:
        """Generate one image with the current weights; uses its own random generator only.

        Args:
            low_memory: slower, in less memory: one part at a time on the device, guidance in two passes, the VAE in
                tiles (whose seams may differ slightly).
        """

    @abstractmethod
    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """Layers that get a LoRA, in Kohya's order (text encoder first)."""

    def outer_targets(self) -> list[LoraTarget]:
        """Layers outside the blocks that get a LoRA only where settings name them; by default none."""
        return []

    def norm_targets(self, *, conv: bool) -> list[LoraTarget]:
        """Norm layers whose weights an adapter can change, in Kohya's order; by default none.

        Args:
            conv: those of convolution blocks too.
        """
        return []

    @property
    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The denoiser's blocks in the order of its forward pass, to be quantised, swapped, checkpointed and compiled
        (`engine.lowmem.settings`). The denoiser's first and last layers are in none."""

    def release(self, part: Part) -> None:
        """Move a part to the host until the next `acquire`."""
        self.placement.release(part)

    def acquire(self, part: Part) -> None:
        """Move a part to the device."""
        self.placement.acquire(part)

    def on_device(self, *parts: Part) -> AbstractContextManager[None]:
        """Within it the parts are on the device; afterwards those that were not there before are released again."""
        return self.placement.on_device(*parts)


@dataclass(frozen=True)
class CaptionTokens:
    """Counts the tokens of captions for a text encoder."""

    count: Callable[[str], int]
    """Tokens of a caption, without start and end."""
    limit: int
    """Tokens that are used, without start and end."""


class WeightShape(NamedTuple):
    """The weight of a layer, as a header shows it."""

    component: str
    path: str
    """Of its module, in diffusers' or in the original names."""
    shape: tuple[int, ...]
    bias: bool
    """Whether the layer has a bias."""


class Family(ABC):
    """One family: its facts, how to recognise it and how to load it."""

    spec: FamilySpec

    @property
    def name(self) -> str:
        """In settings and preset names: "sd15"."""
        return self.spec.name

    def normalize_config(self, config: RunConfig, recognition: Recognition) -> tuple[RunConfig, list[str]]:
        """The configuration that this family really uses, and a sentence for each setting that it changes or ignores.
        Reads headers only; called before contradictions are resolved, and after the settings of other families are
        reset to their defaults.

        Raises:
            UsageError: a contradiction that only the user can resolve.
        """
        return config, []

    @abstractmethod
    def recognise(self, path: Path) -> Recognition | None:
        """The recognition of `path`, if it is of this family; None otherwise. Reads headers only.

        Raises:
            ModelError: a related model that cannot be trained here (with the reason).
        """

    @abstractmethod
    def reference_model(self) -> Recognition:
        """The family's standard model, by the configurations that ship with the program; only to be loaded empty, for
        the plan of a run whose checkpoint is not chosen yet."""

    @abstractmethod
    def check(self, config: RunConfig, recognition: Recognition) -> None:
        """Refuse settings of `[model]` that do not fit this checkpoint; reads headers only.

        Raises:
            UsageError: a setting contradicts the checkpoint.
            ModelError: another model file is missing, broken or of the wrong kind.
        """

    def effective_recognition(self, config: RunConfig, recognition: Recognition) -> Recognition:
        """The recognition with the run's settings: `[model]` decides what the checkpoint leaves open.

        Raises:
            UsageError: a setting contradicts the checkpoint.
        """
        return recognition

    @abstractmethod
    def load(
        self, config: RunConfig, recognition: Recognition, device: str, dtype: str, log: Log, *, empty: bool = False
    ) -> Model:
        """Load it frozen and offline, to compute on `device` ("cpu", "cuda:0") in "fp32", "fp16" or "bf16".

        Args:
            empty: allocate the weights without reading them; for memory plans, with fake tensors.
        """

    def metadata(self, config: RunConfig, recognition: Recognition) -> dict[str, str]:
        """The family's part of a LoRA file's metadata: `FamilySpec.file_facts`, `modelspec.prediction_type` if it
        applies, and keys of its own."""
        return self.spec.file_facts(recognition)

    def caption_tokens(self, config: RunConfig, recognition: Recognition, clip: CaptionTokens) -> CaptionTokens | None:
        """Counts tokens for the family's main text encoder; None: its tokenizer is not on this machine.

        Args:
            clip: the same for CLIP, with the limit of `[model]`.

        Raises:
            ModelError: the tokenizer cannot be read.
        """
        return clip

    def weights(self, recognition: Recognition) -> Iterator[WeightShape]:
        """Each weight with two or more sides in the checkpoint's files. Reads headers only; by default a file is a
        denoiser.

        Raises:
            ModelError: a file cannot be read.
        """
        place = recognition.path
        files = sorted(place.glob("*/*.safetensors")) if place.is_dir() else [place]
        for file in files:
            component = file.parent.name if place.is_dir() else self.spec.denoiser
            shapes = read_header(file).shapes
            for name, shape in shapes.items():
                if name.endswith("weight") and len(shape) > 1:
                    bias = f"{name.removesuffix('weight')}bias" in shapes
                    yield WeightShape(component, name.removesuffix(".weight"), shape, bias)

    def norm_layers(self, recognition: Recognition) -> Iterator[tuple[LoraTarget, int]]:
        """The norm layers of the denoiser's blocks that can be trained, with Kohya's names, each with its channels.
        Reads headers only; by default there are none.

        Raises:
            ModelError: a file cannot be read.
        """
        return iter(())

    def chooses_layers(self, config: RunConfig) -> bool:
        """Whether the family's own settings choose layers, or give them ranks."""
        return False

    def excludes_layer(self, config: RunConfig, layer: str) -> bool:
        """Whether the family's own settings leave out a layer of the denoiser, whatever other settings say of it.

        Args:
            layer: Kohya's name.
        """
        return False

    def layer_rank(self, config: RunConfig, layer: str) -> int | None:
        """The rank that the family's own settings give a layer of the denoiser; 0: none, None: they do not say.

        Args:
            layer: Kohya's name.
        """
        return None

    def splits_layers(self, config: RunConfig) -> bool:
        """Whether each of several layers that are one in Kohya's files gets a LoRA of its own in training."""
        return False

    @abstractmethod
    def sources(self, recognition: Recognition) -> dict[str, PartSource]:
        """The denoiser and the text encoders in the checkpoint itself, without the VAE; for tools that compute with its
        weights."""

    def kohya_row(self, key: str, config: Mapping[str, Any]) -> tuple[str, int]:
        """The place of a weight of the denoiser in Kohya's layer: (name without "lora_unet_", first row).

        Args:
            key: diffusers' name of the weight.
            config: the denoiser's.
        """
        return key.removesuffix(".weight").replace(".", "_"), 0
