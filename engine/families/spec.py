"""The facts about a family of models as data: one frozen object per family. Loads no torch.

Other modules get them through `engine.families.registry`, and never name a family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from engine.config.kohya.trainers import KohyaTrainer
from engine.families.layer_names import CLIP_WORDS, LayerNames
from engine.types import PredictionType, Recognition

_GIB = 2**30


@dataclass(frozen=True)
class TextEncoder:
    """One text encoder, as LoRA files name its layers."""

    component: str
    """In diffusers' pipelines: "text_encoder_2"."""
    prefix: str
    """Of Kohya's names: "lora_te2_"."""
    aliases: tuple[str, ...]
    """Its names in other programs' files, as in `engine.adapters.formats.place_of`: "te2"."""
    words: Sequence[str] = CLIP_WORDS
    """The parts of its module paths."""
    level: str = "text_model_"
    """What Kohya's names have before the module's path in recent versions of transformers."""
    is_trainable: bool = True
    comfy: str = ""
    """ComfyUI's name of it; empty: unknown."""


@dataclass(frozen=True)
class LayerPatterns:
    """Regular expressions, for the names of a checkpoint's tensors, to estimate the size of a LoRA."""

    attention: str = r"transformer_blocks\.|\.proj_(in|out)\.|self_attn\.|\.mlp\.fc"
    """Layers that get a LoRA in every run, in denoiser and text encoders."""
    convolution: str = (
        r"resnets\.|samplers\.|"
        r"(input_blocks|middle_block|output_blocks)\..*(layers\.|skip_connection|\.op\.|\.conv\.)"
    )
    """Layers that get one with `conv_dim`."""
    text: str = r"text_model\.|cond_stage_model\."
    """All layers of the text encoders in a single file."""
    norms: str = r"attentions\.\d+\.(.*\.)?norm\d?\.|\.1\.(.*\.)?norm\d?\."
    """Norm layers of the denoiser that can be trained with every layer of `attention`."""
    conv_norms: str = r"resnets\.\d+\.norm\d\.|(input_blocks|middle_block|output_blocks)\..*_layers\.0\."
    """The same of the blocks of `convolution`."""
    elsewhere: str = r"first_stage_model|vae|safety_checker"
    """Parts without LoRA."""


TEXT_PARTS: Mapping[str, str] = MappingProxyType({
    "attention": r"self_attn\.", "mlp": r"\.mlp\.", "values": r"\.(k_proj|v_proj|mlp\.fc2)$",
})  # fmt: skip
"""The parts of a CLIP text encoder, as `FamilySpec.parts`."""


@dataclass(frozen=True)
class BlockLists:
    """Kohya's lists with one value for each block of the denoiser (facts: sd-scripts `networks/lora.py`)."""

    down: int
    middle: int
    up: int
    ends: bool
    """Whether the lists also have a value before the down blocks and one behind the up blocks; their factor on the
    learning rate is 1."""
    index: Callable[[str], int | None]
    """Kohya's name of a layer to the place of its block in the lists; None: in none of them."""

    @property
    def length(self) -> int:
        """Values in a list of all blocks."""
        return self.down + self.middle + self.up + (2 if self.ends else 0)


@dataclass(frozen=True)
class LayerMap:
    """How the layers of the denoiser are drawn: its blocks from left to right, the kinds of layers as rows."""

    columns: Mapping[str, str]
    """Title of a row of blocks ("double") to a regular expression on Kohya's names, with the block's number in its
    group; Kohya's lists of blocks are drawn instead where the family has them."""
    rows: Mapping[str, str]
    """Title of a kind of layers to a regular expression on their paths in diffusers; the first that matches counts."""


@dataclass(frozen=True)
class Proposal:
    """A preset that the wizard proposes for a model."""

    preset: str
    below: float | None = None
    """GiB: only if the largest card is known and has less."""
    prediction_type: PredictionType | None = None
    """Only for models with this prediction type."""

    def suits(self, recognition: Recognition, memory: int) -> bool:
        """Whether it is for this model on a card of `memory` bytes; 0: unknown."""
        small = self.below is None or 0 < memory < self.below * _GIB
        return small and self.prediction_type in (None, recognition.prediction_type)


@dataclass(frozen=True)
class ComfyFiles:
    """ComfyUI's nodes for a model in several files, and the usual names of these."""

    text: Mapping[str, str]
    """Key of the setting to the usual name, in the order of the text node's inputs."""
    text_node: str
    kind: str
    """`type` of that node."""
    vae: tuple[str, str]
    """Key of the setting, usual name."""


@dataclass(frozen=True)
class InferenceSpec:
    """How other programs generate images with a model of the family."""

    pipeline: str
    """diffusers' class."""
    guidance: float = 7.0
    """A usual value for that class."""
    dtype: str = "float16"
    """torch's dtype to load it in."""
    hub_base: str = ""
    """A folder on the hub with all parts, if single files hold the denoiser only."""
    a1111_sampler: tuple[str, str] | None = None
    """A1111's sampler and schedule, if the family always uses the same; None: as set."""
    comfyui_sampler: tuple[str, str] | None = None
    """ComfyUI's for the same."""
    comfyui_latent: str = "EmptyLatentImage"
    """The node for an empty latent."""
    comfyui_guidance: str = ""
    """The node for distilled guidance; empty: the family has none."""
    comfyui_files: ComfyFiles | None = None
    """None: ComfyUI loads one file."""


@dataclass(frozen=True)
class Cost:
    """The cost of a forward pass, for a rough pace without measured runs."""

    flops: float
    """Of the denoiser, for one image of 512 × 512."""
    parameters: float
    """Of the checkpoint with this cost."""


@dataclass(frozen=True)
class FamilySpec:
    """The facts of one family."""

    name: str
    """In settings, presets' names and `Recognition.family`: "sd15"."""
    title: str
    """For the user: "Stable Diffusion 1.5"."""
    lora_base: str
    """Its name in the report of `inspect`: "SD 1.5"."""
    layers: LayerNames
    inference: InferenceSpec
    denoiser: str = "unet"
    """diffusers' component."""
    encoders: tuple[TextEncoder, ...] = ()
    """In Kohya's order."""
    native_size: int = 512
    """Side length in pixels that its models were made for."""

    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Component to the path prefixes of its blocks, which can be quantised."""
    lora_classes: tuple[str, ...] = ("CLIPAttention", "CLIPMLP")
    """Module classes whose linear layers get a LoRA in every run."""
    conv_classes: tuple[str, ...] = ()
    """Those whose layers get one with `conv_dim`."""
    patterns: LayerPatterns = LayerPatterns()

    parts: Mapping[str, str] = field(default_factory=lambda: {"transformer": ""})
    """The denoiser's layers that LyCORIS' presets distinguish, as regular expressions on paths in diffusers:
    "transformer" (its attention blocks or DiT blocks), "attention" in these, "resnet" and "sampler" of a U-Net,
    "convolution", "time" and "values" (`engine.adapters.presets`)."""
    wide: str = r"(?!)"
    """Paths of the convolutions wider than 1x1, for layers whose shape is unknown."""
    block_lists: BlockLists | None = None
    """None: Kohya has no lists by block for this family."""
    layer_map: LayerMap | None = None
    """None: its layers are drawn in one row."""

    lora_key_patterns: tuple[str, ...] = ()
    """Regular expressions for a denoiser's module in a LoRA file, with underscores for dots, that no other kind of
    model has; empty: recognised by sizes (`engine.adapters.bases`)."""
    always_adapted: tuple[str, ...] = ("_text_model_encoder_layers_",)
    """Substrings of Kohya's names of layers that have a LoRA in every run."""
    alphas_in_diffusers_files: bool = False
    """Whether diffusers' loader reads alphas as tensors beside lora_A and lora_B; else from the metadata only."""

    network_module: str = "networks.lora"
    """Kohya's, in settings and metadata."""
    version: str = ""
    """`ss_base_model_version`."""
    version_begins: str = ""
    """Its prefix in files of other programs."""
    architecture: str = ""
    """`modelspec.architecture` of a checkpoint; a LoRA's has "/lora" appended. {variant} is from the recognition."""
    variant: str = ""
    """The usual one."""
    implementation: str = "diffusers"
    """`modelspec.implementation`."""
    kohya: KohyaTrainer | None = None
    """The script of sd-scripts that trains it; None if there is none."""

    own_settings: tuple[str, ...] = ()
    """Dotted keys that have no effect for families without them here; those of its own table are among them."""
    companions: Mapping[str, str] = field(default_factory=dict)
    """Dotted keys for the other files of a checkpoint in several files, with titles for the user: "the autoencoder"."""
    prompt_flags: frozenset[str] = frozenset()
    """Additional flags of sample prompts: "g" is the embedded guidance."""
    partial_text_cache: bool = False
    """Whether one text encoder can be trained while the outputs of another are cached."""

    proposals: tuple[Proposal, ...] = ()
    """Presets for the wizard, which takes the first that suits."""
    fetchable: Mapping[str, str] = field(default_factory=dict)
    """Short name of a tokenizer to its repository on the hub."""
    cost: Cost | None = None

    @property
    def is_unet(self) -> bool:
        """Whether the denoiser is a U-Net."""
        return self.denoiser == "unet"

    def architecture_of(self, recognition: Recognition | None = None) -> str:
        """`modelspec.architecture` of a checkpoint."""
        variant = recognition.details.get("variant", self.variant) if recognition else self.variant
        return self.architecture.format(variant=variant)

    def file_facts(self, recognition: Recognition | None = None) -> dict[str, str]:
        """Metadata by which readers recognise a LoRA's base: `ss_v2`, `ss_base_model_version`, `modelspec.architecture`
        and `modelspec.implementation`."""
        return {
            "ss_v2": "False",
            "ss_base_model_version": self.version,
            "modelspec.architecture": f"{self.architecture_of(recognition)}/lora",
            "modelspec.implementation": self.implementation,
        }
