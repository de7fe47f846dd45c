"""The naming of a LoRA file's modules, and the programs that read it. Loads no torch.

Sources: ComfyUI's `comfy/lora.py` and `comfy/weight_adapter`, A1111's `extensions-builtin/Lora`, diffusers' loaders
(0.42), sd-scripts, OneTrainer, the OMI model standard; docs/inspect.md has the table in words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from engine.adapters.bases import UNKNOWN, base_of, is_unet
from engine.adapters.keys import Module, Shapes, modules_of
from engine.adapters.kinds.base import COMFY, FORGE, OTHERS, POPULAR, SD_SCRIPTS, UIS, AdapterKind
from engine.adapters.kinds.base import DIFFUSERS as DIFFUSERS_PROGRAM
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import companion, kind_named, trained_kind
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.families.registry import family_of_lora
from engine.text import listing
from engine.types import LoraTarget

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
_FLUX_BLOCKS = re.compile(r"(?:diffusion_model\.)?(?:double|single)_blocks\.")
_LAST_OF_XLABS = ("single_blocks.37.processor.qkv", "double_blocks.18.processor.qkv_lora2")
"""The modules by which ComfyUI recognises a file in XLabs' names (`comfy/lora_convert.py`)."""
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
_TITLES = {"te": "text encoder", "te1": "text encoder 1", "te2": "text encoder 2", "te3": "text encoder 3"}


@dataclass(frozen=True)
class Format:
    """What a file's keys contain."""

    modules: dict[str, Module]
    strange: list[str]
    """Keys that belong to no known adapter."""
    naming: str
    """The naming of most modules."""
    namings: dict[str, int]
    base: str
    kinds: dict[str, int]
    """Kind of adapter to number of modules, the most frequent first."""
    components: dict[str, int]
    readers: tuple[str, ...]
    kohya_names: dict[str, str | None] = field(default_factory=dict)
    """Modules of the denoiser, and of text encoders in Kohya's naming, to Kohya's names, where the family has a table;
    None: the model has no such module."""

    @property
    def kind(self) -> str:
        """ "LoRA", or "LoKr and norm" where there are several."""
        names = list(self.kinds)
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def recognise_format(shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Format | None:
    """The format of a file with these tensors; None when none of them belongs to an adapter."""
    all_modules, strange = modules_of(shapes)
    modules = {name: module for name, module in all_modules.items() if module.kind(shapes) != UNKNOWN}
    if not modules:
        return None
    strange += [key for name, module in all_modules.items() if name not in modules for key in module.parts.values()]
    namings = Counter(_naming(module) for module in modules.values())
    naming = namings.most_common(1)[0][0]
    places = {name: place_of(name) for name in modules}
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
    """The naming of a module."""
    name, style = module.name, module.style
    if name.startswith("lora_unet_") or _KOHYA_TEXT.match(name):
        return KOHYA
    if name.startswith("lora_transformer_"):
        return ONETRAINER
    if name.startswith("oft_"):
        return KOHYA_OFT
    if name.startswith("lycoris_"):
        return SIMPLETUNER
    if ".processor." in name and _FLUX_BLOCKS.match(name):
        return XLABS
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
        return BFL
    return OLD_DIFFUSERS if style == "down" else BARE


def place_of(name: str) -> tuple[str, str]:
    """("denoiser" or Kohya's prefix of a text encoder, the module's path in it with underscores for dots)."""
    if match := _KOHYA_TEXT.fullmatch(name):
        return match[1], match[2]
    for prefix in ("lora_unet_", "lora_transformer_", "lycoris_", "oft_unet_"):
        if name.startswith(prefix):
            return "denoiser", name.removeprefix(prefix)
    name = name.replace("base_model.model.", "", 1)
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
        return "U-Net" if is_unet(base) or (base == UNKNOWN and naming != ONETRAINER and not named) else "transformer"
    single = base in ("SD 1.5", "SD 2") and naming != KOHYA
    return "text encoder" if single else _TITLES[part]


def readers(naming: str, base: str, kinds: Iterable[str], modules: Iterable[Module]) -> tuple[str, ...]:
    """The programs that read all of the file."""
    if naming == KOHYA_OFT:
        return (SD_SCRIPTS,)  # a separate format that only sd-scripts reads
    adapters = [kind_named(kind) for kind in kinds]
    programs = [
        reader for reader in _by_naming(naming, base, list(modules)) if all(reader in kind.readers for kind in adapters)
    ]
    if naming in (KOHYA, COMFYUI, DIFFUSERS) and all(base in kind.diffusers_bases for kind in adapters):
        programs.append(DIFFUSERS_PROGRAM)
    in_peft_names = naming == DIFFUSERS and all(kind.diffusers_in_peft_names for kind in adapters)
    if in_peft_names and DIFFUSERS_PROGRAM not in programs:
        programs.append(DIFFUSERS_PROGRAM)  # it reads DoRA in peft's names only
    order = (*POPULAR, *OTHERS)
    return tuple(sorted(dict.fromkeys(programs), key=order.index))


def readers_of_run(network: NetworkTable, base: str, *, files: str = "Files") -> str:
    """Which popular programs read the files of a run in Kohya's names, and why others do not: a sentence; empty for a
    plain LoRA, which all of them read.

    Args:
        base: `FamilySpec.lora_base`.
        files: the beginning of the sentence.
    """
    kinds = _kinds_of_run(network)
    if len(kinds) == 1 and isinstance(kinds[0], Lora):
        return ""
    reasons = programs_without(network, base)
    read = []
    for program in (program for program in POPULAR if program not in reasons):
        remarks = [kind.remarks[program] for kind in kinds if program in kind.remarks]
        read.append(f"{program} ({'; '.join(remarks)})" if remarks else program)
    title = " and ".join([kinds[0].trained_name(network), *(kind.name for kind in kinds[1:])])
    unread = [f"{program} ({reason})" for program, reason in reasons.items()]
    rest = f", not by {listing(unread)}" if unread else ""
    return f"{files} of the kind {title} are read by {listing(read) or 'no popular program'}{rest}."


def programs_without(network: NetworkTable, base: str) -> dict[str, str]:
    """The popular programs that do not read the kinds of a run's files, with the reason, without a full stop.

    Args:
        base: `FamilySpec.lora_base`.
    """
    reasons = {program: _why_unread(program, base, _kinds_of_run(network)) for program in POPULAR}
    return {program: reason for program, reason in reasons.items() if reason}


def _kinds_of_run(network: NetworkTable) -> list[TrainableKind]:
    return [trained_kind(network), *([companion()] if network.train_norm else [])]


def _why_unread(program: str, base: str, kinds: Iterable[AdapterKind]) -> str:
    """Why a program does not read a file of these kinds in Kohya's names; empty where it does."""
    for kind in kinds:
        if program not in kind.readers and not (program == DIFFUSERS_PROGRAM and base in kind.diffusers_bases):
            return kind.why_not_read(program)
    return "" if program in _by_naming(KOHYA, base, []) else f"it has no {base}"


def _by_naming(naming: str, base: str, modules: list[Module]) -> tuple[str, ...]:
    if naming == KOHYA:
        uis = UIS if is_unet(base) or base == UNKNOWN else (COMFY, FORGE)
        native = base == "SDXL" or not is_unet(base)
        original = any(module.name.startswith(("lora_unet_input_", "lora_unet_output_")) for module in modules)
        diffusers = any(module.name.startswith(("lora_unet_down_", "lora_unet_up_")) for module in modules)
        own = (SD_SCRIPTS, "LyCORIS") if not (diffusers if native else original) else ()
        return (*uis, DIFFUSERS_PROGRAM, *own)
    if naming == DIFFUSERS:
        if is_unet(base) or base == UNKNOWN:
            return (DIFFUSERS_PROGRAM,)
        return (COMFY, *((FORGE,) if base == "FLUX" else ()), DIFFUSERS_PROGRAM, "peft")
    if naming == OLD_DIFFUSERS:
        processors = any(".processor." in module.name for module in modules)
        return (COMFY, FORGE, DIFFUSERS_PROGRAM) if processors else (DIFFUSERS_PROGRAM,)
    if naming == COMFYUI:
        peft = all(module.style != "lora_down" for module in modules)
        converted = base in ("FLUX.2", "Z-Image", "Krea 2", "Anima", "Qwen-Image", "Wan", "Lumina 2") and peft
        texts = any(module.name.startswith("text_encoders.") for module in modules)
        forge = (FORGE,) if (is_unet(base) or base == "FLUX") and not texts else ()
        is_read = converted or (base == "FLUX" and not peft)
        return (COMFY, *forge, DIFFUSERS_PROGRAM) if is_read else (COMFY, *forge)
    if naming == XLABS:
        names = {module.name.removeprefix("diffusion_model.") for module in modules}
        comfy = (COMFY,) if names.issuperset(_LAST_OF_XLABS) else ()
        return (*comfy, DIFFUSERS_PROGRAM, "x-flux")
    return {
        ONETRAINER: (COMFY, DIFFUSERS_PROGRAM, "OneTrainer") if base == "FLUX" else (COMFY, "OneTrainer"),
        OMI: ("OneTrainer", "InvokeAI"),
        BFL: (COMFY, DIFFUSERS_PROGRAM),
        SIMPLETUNER: (COMFY, "SimpleTuner"),
        PEFT: (DIFFUSERS_PROGRAM, "peft") if base == "FLUX" else ("peft",),
        BARE: (COMFY,) if base in ("FLUX", "Qwen-Image") else (),
    }[naming]


def _kohya_names(
    places: dict[str, tuple[str, str]], naming: str, base: str, kinds: dict[str, str]
) -> dict[str, str | None]:
    """`Format.kohya_names`, without norm layers, which are in no table."""
    family = family_of_lora(base)
    if family is None or (not family.spec.is_unet and naming != KOHYA):
        return {}
    layers = family.spec.layers
    names: dict[str, str | None] = {}
    for name, (part, path) in places.items():
        if not kind_named(kinds[name]).in_tables or (part != "denoiser" and naming != KOHYA):
            continue
        if part == "denoiser":
            address = layers.address(path)
            names[name] = None if address is None else address.layer
        else:
            names[name] = layers.table.resolve(f"lora_{part}_{path}")
    return names


def in_kohya_names(tensors: Mapping[str, T], lora: Format, targets: Iterable[LoraTarget]) -> dict[str, T]:
    """The tensors of a file in Kohya's format under the names of the run's layers. The U-Net's blocks may have the
    other naming in the file (diffusers' for SDXL, the original files' for SD 1.5)."""
    paths = {
        f"lora_unet_{target.path.replace('.', '_')}": target.kohya_name
        for target in targets
        if target.component == "unet"
    }
    renamed = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition(".")
        renamed[f"{paths.get(name) or lora.kohya_names.get(name) or name}.{part}"] = tensor
    return renamed


def with_article(kind: str) -> str:
    """ "a LoRA", "an OFT"."""
    return f"{'an' if kind.startswith(('OFT', '(IA)')) else 'a'} {kind}"
