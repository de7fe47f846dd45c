"""How a LoRA file names its modules, and which programs read that. Loads no torch.

Facts: ComfyUI's `comfy/lora.py` and `comfy/weight_adapter`, A1111's `extensions-builtin/Lora`, diffusers' LoRA loaders
(0.42), sd-scripts, OneTrainer, the OMI model standard; docs/inspect.md has the table in words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from engine.adapters.bases import UNETS, UNKNOWN, base_of
from engine.adapters.keys import Module, Shapes, modules_of
from engine.adapters.tables import TABLES
from engine.models.base import LoraTarget
from engine.text import listing, printable

T = TypeVar("T")

KOHYA = "Kohya's"
DIFFUSERS = "diffusers' and peft's (ai-toolkit's for FLUX)"
OLD_DIFFUSERS = "diffusers' old (before peft)"
COMFYUI = "ComfyUI's (ai-toolkit's but for FLUX)"
ONETRAINER = "OneTrainer's"
OMI = "OMI's (Open Model Initiative; OneTrainer)"
XLABS = "XLabs'"
BFL = "Black Forest Labs'"
SIMPLETUNER = "SimpleTuner's (LyCORIS)"
KOHYA_OFT = "Kohya's for OFT"
PEFT = "peft's, without the name of the part"
BARE = "a model's own, without a prefix"

_KOHYA_TEXT = re.compile(r"lora_(te[123]?)_(.+)")
_NATIVE = ("input_blocks.", "middle_block.", "output_blocks.", "time_embed.", "label_emb.", "out.")
_FLUX_NATIVE = ("double_blocks.", "single_blocks.")
_TEXTS = (
    ("text_encoders.clip_l.", "te1"),
    ("text_encoders.clip_g.", "te2"),
    ("text_encoders.t5xxl.", "te3"),
    ("text_encoders.", "te"),
    ("text_encoder_3.", "te3"),
    ("text_encoder_2.", "te2"),
    ("text_encoder.", "te1"),
    ("clip_l.", "te1"),
    ("clip_g.", "te2"),
    ("t5.", "te3"),
)
"""Prefixes of text encoders in names with dots, and Kohya's for them."""
_PLAIN = ("down", "up", "alpha")
_TITLES = {"te": "text encoder", "te1": "text encoder 1", "te2": "text encoder 2", "te3": "text encoder 3"}

COMFY, FORGE, A1111, DIFFUSERS_READER, SD_SCRIPTS = "ComfyUI", "Forge", "A1111", "diffusers", "sd-scripts"
_ALL = (COMFY, FORGE, A1111, DIFFUSERS_READER, SD_SCRIPTS)
_UIS = (COMFY, FORGE, A1111)
_MORE = ("LyCORIS", "OneTrainer", "InvokeAI", "SimpleTuner", "peft", "x-flux")
_KINDS = {
    "LoRA": (*_ALL, *_MORE),
    "LoRA with Tucker decomposition": (*_UIS, "LyCORIS"),
    "DoRA": (*_UIS, "LyCORIS", "OneTrainer"),
    "LoHa": (*_UIS, SD_SCRIPTS, "LyCORIS", "OneTrainer", "SimpleTuner"),
    "LoKr": (*_UIS, SD_SCRIPTS, "LyCORIS", "OneTrainer", "SimpleTuner"),
    "LoHa with DoRA": (*_UIS, "LyCORIS", "OneTrainer"),
    "LoKr with DoRA": (*_UIS, "LyCORIS", "OneTrainer"),
    "full difference": (*_UIS, "LyCORIS"),
    "whole weight": (COMFY, FORGE),
    "norm": (*_UIS, "LyCORIS"),
    "(IA)³": (A1111, "LyCORIS"),
    "OFT": (COMFY, A1111, "LyCORIS"),
    "BOFT": (COMFY, A1111, "LyCORIS"),
    "OFT of peft": ("OneTrainer", "peft"),
    "(IA)³ of peft": ("peft",),
    "GLoRA": (*_UIS, "LyCORIS"),
    "T-LoRA": ("LyCORIS",),
}
"""Kinds of adapter and the programs that read them."""


@dataclass(frozen=True)
class Format:
    """What a file's keys tell."""

    modules: dict[str, Module]
    strange: list[str]
    """Keys that belong to no adapter that is known."""
    naming: str
    """How most modules are named."""
    namings: dict[str, int]
    base: str
    kinds: dict[str, int]
    """Kind of adapter to number of modules, the most frequent first."""
    components: dict[str, int]
    readers: tuple[str, ...]
    kohya_names: dict[str, str | None] = field(default_factory=dict)
    """The denoiser's and Kohya's text encoders' modules to Kohya's names for them, where the family has a table; None:
    the model has no such module."""

    @property
    def kind(self) -> str:
        """ "LoRA", or "LoKr and norm" where there are several."""
        names = list(self.kinds)
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def recognised(shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Format | None:
    """What a file of these tensors is; None when none of them belongs to an adapter."""
    found, strange = modules_of(shapes)
    modules = {name: module for name, module in found.items() if module.kind(shapes) != UNKNOWN}
    if not modules:
        return None
    strange += [key for name, module in found.items() if name not in modules for key in module.parts.values()]
    namings = Counter(_naming(module) for module in modules.values())
    naming = namings.most_common(1)[0][0]
    places = {name: _place(name) for name in modules}
    paths = {path: modules[name] for name, (part, path) in places.items() if part == "denoiser"}
    texts = {f"{part}_{path}": modules[name] for name, (part, path) in places.items() if part != "denoiser"}
    base = base_of(paths, texts, shapes, (metadata or {}).get("ss_base_model_version", ""))
    counts = Counter(module.kind(shapes) for module in modules.values())
    kinds = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    return Format(
        modules,
        strange,
        naming,
        dict(namings),
        base,
        kinds,
        dict(Counter(_title(part, naming, base, shapes) for part, _ in places.values())),
        readers(naming, base, kinds, modules.values()),
        _kohya_names(places, naming, base, {name: module.kind(shapes) for name, module in modules.items()}),
    )


def _naming(module: Module) -> str:
    """Whose names a module has."""
    name, style = module.name, module.style
    if name.startswith("lora_unet_") or _KOHYA_TEXT.match(name):
        return KOHYA
    if name.startswith("lora_transformer_"):
        return ONETRAINER
    if name.startswith("oft_"):
        return KOHYA_OFT
    if name.startswith("lycoris_"):
        return SIMPLETUNER
    if name.startswith(("diffusion_model.", "model.diffusion_model.", "text_encoders.")):
        return COMFYUI
    first, _, rest = name.partition(".")
    if first in ("clip_l", "clip_g", "t5") or (first == "unet" and rest.startswith(_NATIVE)):
        return OMI
    if first == "transformer" and style == "lora_down" and rest.startswith(_FLUX_NATIVE):
        return OMI
    if "base_model.model." in name:
        return PEFT
    if first in ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        return OLD_DIFFUSERS if style == "down" else DIFFUSERS
    if name.startswith(_FLUX_NATIVE):
        return XLABS if ".processor." in name else BFL
    return OLD_DIFFUSERS if style == "down" else BARE


def _place(name: str) -> tuple[str, str]:
    """("denoiser" or Kohya's prefix of a text encoder, the module's path in it with underscores for dots)."""
    if match := _KOHYA_TEXT.fullmatch(name):
        return match[1], match[2]
    for prefix in ("lora_unet_", "lora_transformer_", "lycoris_", "oft_unet_"):
        if name.startswith(prefix):
            return "denoiser", name.removeprefix(prefix)
    name = name.removeprefix("unet.base_model.model.").removeprefix("base_model.model.")
    for prefix, part in _TEXTS:
        if name.startswith(prefix):
            path = name.removeprefix(prefix).removeprefix("transformer.")
            return part, path.replace(".", "_")
    for prefix in ("model.diffusion_model.", "diffusion_model.", "unet.", "transformer."):
        name = name.removeprefix(prefix)
    return "denoiser", name.replace(".processor.", ".").replace(".", "_")


def _title(part: str, naming: str, base: str, shapes: Shapes) -> str:
    if part == "denoiser":
        named = any(name.startswith("transformer.") for name in shapes)
        return "UNet" if base in UNETS or (base == UNKNOWN and naming != ONETRAINER and not named) else "transformer"
    single = base in ("SD 1.5", "SD 2") and naming != KOHYA
    return "text encoder" if single else _TITLES[part]


def readers(naming: str, base: str, kinds: Iterable[str], modules: Iterable[Module]) -> tuple[str, ...]:
    """The programs that are known to read all of it."""
    if naming == KOHYA_OFT:
        return (SD_SCRIPTS,)  # it has a kind of its own, and only sd-scripts reads that
    found = [reader for reader in _by_naming(naming, base, list(modules)) if all(reader in _KINDS[k] for k in kinds)]
    if naming in (KOHYA, COMFYUI, DIFFUSERS) and set(kinds) == {"LoKr"} and base in ("FLUX.2", "Z-Image"):
        found.append(DIFFUSERS_READER)
    if naming == DIFFUSERS and set(kinds) <= {"LoRA", "DoRA"} and DIFFUSERS_READER not in found:
        found.append(DIFFUSERS_READER)  # it takes DoRA in peft's names only
    order = (*_ALL, *_MORE)
    return tuple(sorted(dict.fromkeys(found), key=order.index))


def _by_naming(naming: str, base: str, modules: list[Module]) -> tuple[str, ...]:
    if naming == KOHYA:
        uis = _UIS if base in (*UNETS, UNKNOWN) else (COMFY, FORGE)
        native = base == "SDXL" or base not in UNETS
        original = any(module.name.startswith(("lora_unet_input_", "lora_unet_output_")) for module in modules)
        diffusers = any(module.name.startswith(("lora_unet_down_", "lora_unet_up_")) for module in modules)
        own = (SD_SCRIPTS, "LyCORIS") if not (diffusers if native else original) else ()
        return (*uis, DIFFUSERS_READER, *own)
    if naming == DIFFUSERS:
        return (COMFY, DIFFUSERS_READER, "peft") if base not in UNETS and base != UNKNOWN else (DIFFUSERS_READER,)
    if naming == OLD_DIFFUSERS:
        processors = any(".processor." in module.name for module in modules)
        return (COMFY, DIFFUSERS_READER) if processors else (DIFFUSERS_READER,)
    if naming == COMFYUI:
        peft = all(module.style != "lora_down" for module in modules)
        converted = base in ("FLUX.2", "Z-Image", "Krea 2", "Anima", "Qwen-Image", "Wan", "Lumina 2") and peft
        return (COMFY, DIFFUSERS_READER) if converted or (base == "FLUX" and not peft) else (COMFY,)
    return {
        ONETRAINER: (COMFY, DIFFUSERS_READER, "OneTrainer") if base == "FLUX" else (COMFY, "OneTrainer"),
        OMI: ("OneTrainer", "InvokeAI"),
        XLABS: (DIFFUSERS_READER, "x-flux"),
        BFL: (COMFY, DIFFUSERS_READER),
        SIMPLETUNER: (COMFY, "SimpleTuner"),
        PEFT: (DIFFUSERS_READER, "peft") if base == "FLUX" else ("peft",),
        BARE: (COMFY,) if base in ("FLUX", "Qwen-Image") else (),
    }[naming]


def _kohya_names(
    places: dict[str, tuple[str, str]], naming: str, base: str, kinds: dict[str, str]
) -> dict[str, str | None]:
    """See `Format.kohya_names`; norm layers, which no table has, are left out."""
    table = TABLES.get(base)
    if table is None or (base not in UNETS and naming != KOHYA):
        return {}
    names: dict[str, str | None] = {}
    for name, (part, path) in places.items():
        if kinds[name] == "norm" or (part != "denoiser" and naming != KOHYA):
            continue
        names[name] = table.place(f"lora_unet_{path}" if part == "denoiser" else f"lora_{part}_{path}")
    return names


def why_no_start(found: Format) -> str | None:
    """Why a training cannot begin from the file; None where it can, as far as its keys tell."""
    if list(found.kinds) != ["LoRA"]:
        return f"it is {with_article(found.kind)}, and only a plain LoRA can be trained here"
    if len(found.namings) > 1:
        return f"its modules are named in several ways ({', '.join(found.namings)})"
    styles = {KOHYA: "lora_down", DIFFUSERS: "lora_A"}
    known = found.naming == KOHYA or (found.naming == DIFFUSERS and found.base == "FLUX")
    if not known or any(module.style != styles[found.naming] for module in found.modules.values()):
        return f"its names are {found.naming}"
    more = [key for module in found.modules.values() for part, key in module.parts.items() if part not in _PLAIN]
    if more or found.strange:
        rest = more + found.strange
        return f"{len(rest)} of its tensors belong to no plain LoRA ({listing([printable(key) for key in rest], 1)})"
    return None


def in_kohya_names(tensors: Mapping[str, T], found: Format, targets: Iterable[LoraTarget]) -> dict[str, T]:
    """A file in Kohya's format whose UNet's blocks may be named the other way (diffusers' for SDXL, the original files'
    for SD 1.5), in the names of the run's layers."""
    paths = {
        f"lora_unet_{target.path.replace('.', '_')}": target.kohya_name
        for target in targets
        if target.component == "unet"
    }
    renamed = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        renamed[f"{paths.get(name) or found.kohya_names.get(name) or name}.{part}"] = tensor
    return renamed


def with_article(kind: str) -> str:
    """ "a LoRA", "an OFT"."""
    return f"{'an' if kind.startswith(('OFT', '(IA)')) else 'a'} {kind}"
