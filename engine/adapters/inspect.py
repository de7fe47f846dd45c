"""What a LoRA file is and what is wrong with it, for `lorasmith inspect`. Loads no torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.adapters.names import (
    ALPHA,
    DOWN,
    PARTS,
    PREFIXES,
    UP,
    foreign_kind,
)
from engine.adapters.tables import TABLES
from engine.errors import ModelError
from engine.models.header import Header, read_header
from engine.reading import open_file, parse_json
from engine.text import listing, printable

if TYPE_CHECKING:
    import numpy

_SHOWN = (
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_learning_rate",
    "ss_unet_lr",
    "ss_text_encoder_lr",
    "ss_optimizer",
    "ss_lr_scheduler",
    "ss_steps",
    "ss_epoch",
    "ss_num_train_images",
    "ss_resolution",
    "ss_clip_skip",
    "ss_seed",
    "ss_mixed_precision",
    "modelspec.title",
    "modelspec.architecture",
    "modelspec.prediction_type",
    "modelspec.date",
    "sshs_model_hash",
)
_COMPONENTS = {
    "lora_unet_": "UNet",
    "lora_te_": "text encoder",
    "lora_te1_": "text encoder 1",
    "lora_te2_": "text encoder 2",
    "lora_te3_": "text encoder 3",
}
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80), "F64": ("<u8", 0x7FF << 52)}
"""Number formats: as unsigned integers, and the bits that are all set in NaN and infinity."""
_PIECE = 2**24


@dataclass(frozen=True)
class LoraReport:
    """What `lorasmith inspect` shows."""

    path: str
    size: int
    """Bytes."""
    base: str
    """"SD 1.5", "SD 2", "SDXL", "FLUX" or "unknown", from the modules' names and shapes."""
    modules: dict[str, int]
    """LoRA modules a component."""
    known_modules: dict[str, int] = field(default_factory=dict)
    """How many Kohya's table has for that component, where one is known."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank (as text) to number of modules."""
    alphas: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def inspect_lora(path: Path) -> LoraReport:
    """Read and judge a LoRA file.

    Raises:
        ModelError: it cannot be read, or is no LoRA at all.
    """
    header = read_header(path)
    kind = foreign_kind(header.tensors)
    modules = _modules(header)
    if not modules:
        raise ModelError(
            f"{printable(path)} {kind or 'is no LoRA: it has no module named as Kohya names them'}.",
            "inspect reads LoRAs in Kohya's format (keys lora_unet_... and lora_te_...).",
        )
    alphas, broken, digest = _read_payload(path)
    base = _base(modules, header)
    known = _known_modules(base, modules)
    problems = [
        *_structure_problems(header, modules),
        *_name_problems(base, modules, header.metadata),
        *_value_problems(broken, digest, header.metadata),
    ]
    ranks = Counter(str(header.shapes[f"{name}.{DOWN}"][0]) for name, parts in modules.items() if DOWN in parts)
    return LoraReport(
        path=printable(path),
        size=header.size,
        base=base,
        modules=dict(Counter(_component(name, base) for name in modules)),
        known_modules=known,
        ranks=dict(ranks.most_common()),
        alphas=dict(Counter(f"{alpha:g}" for alpha in alphas.values()).most_common()),
        dtypes=dict(Counter(dtype for dtype, _ in header.tensors.values()).most_common()),
        metadata={key: header.metadata[key] for key in _SHOWN if key in header.metadata},
        problems=problems,
    )


def _modules(header: Header) -> dict[str, set[str]]:
    modules: dict[str, set[str]] = {}
    for key in header.tensors:
        name, _, part = key.partition(".")
        if name.startswith(PREFIXES) and part in PARTS:
            modules.setdefault(name, set()).add(part)
    return modules


def _component(name: str, base: str) -> str:
    title = next(title for prefix, title in _COMPONENTS.items() if name.startswith(prefix))
    return "transformer" if base == "FLUX" and title == "UNet" else title


def _base(modules: Mapping[str, object], header: Header) -> str:
    if any("_double_blocks_" in name or "_single_blocks_" in name for name in modules):
        return "FLUX"
    if any(name.startswith(("lora_te2_", "lora_unet_input_blocks_", "lora_unet_output_blocks_")) for name in modules):
        return "SDXL"
    widths = {
        header.shapes[f"{name}.{DOWN}"][1]
        for name in modules
        if name.endswith(("attn2_to_k", "self_attn_k_proj")) and len(header.shapes.get(f"{name}.{DOWN}", ())) > 1
    }
    return {frozenset({768}): "SD 1.5", frozenset({1024}): "SD 2", frozenset({2048}): "SDXL"}.get(
        frozenset(widths), "unknown"
    )


def _known_modules(base: str, modules: Mapping[str, object]) -> dict[str, int]:
    if base not in TABLES:
        return {}
    return TABLES[base].counts(frozenset(modules), frozenset(_component(name, base) for name in modules))


def _structure_problems(header: Header, modules: Mapping[str, set[str]]) -> list[str]:
    """Incomplete modules, shapes that do not belong together, and keys of another format."""
    problems = []
    for part in PARTS:
        lacking = [name for name, parts in modules.items() if part not in parts]
        if lacking and part == ALPHA:
            problems.append(f"{len(lacking)} modules have no alpha, readers then take the rank: {listing(lacking, 3)}.")
        elif lacking:
            problems.append(f"{len(lacking)} modules have no {part}: {listing(lacking, 3)}.")
    uneven = [
        name
        for name, parts in modules.items()
        if {DOWN, UP} <= parts and header.shapes[f"{name}.{DOWN}"][:1] != header.shapes[f"{name}.{UP}"][1:2]
    ]
    if uneven:
        problems.append(f"In {len(uneven)} modules the ranks of down and up differ: {listing(uneven, 3)}.")
    known = {f"{name}.{part}" for name, parts in modules.items() for part in parts}
    strange = [key for key in header.tensors if key not in known]
    if strange:
        kind = foreign_kind(strange)
        problems.append(
            f"{len(strange)} tensors have names of no LoRA in Kohya's format"
            f"{f' (a part {kind})' if kind else ''}: {listing([printable(key) for key in strange], 3)}."
        )
    return problems


def _name_problems(base: str, modules: Mapping[str, object], metadata: Mapping[str, str]) -> list[str]:
    problems = []
    if base in TABLES:
        unknown = sorted(modules.keys() - TABLES[base].names)
        if unknown:
            problems.append(
                f"{len(unknown)} modules are none of {base}'s, readers leave them out or refuse the file: "
                f"{listing(unknown, 3)}."
            )
    told = metadata.get("ss_base_model_version", "")
    begins = {"SD 1.5": "sd_v1", "SD 2": "sd_v2", "SDXL": "sdxl", "FLUX": "flux"}.get(base)
    if told and begins and not told.startswith(begins):
        problems.append(f"The metadata say {printable(told)}, the modules are those of {base}.")
    return problems


def _value_problems(broken: list[str], digest: str, metadata: Mapping[str, str]) -> list[str]:
    problems = []
    if broken:
        problems.append(f"{len(broken)} tensors hold NaN or infinity: {listing(broken, 3)}.")
    told = metadata.get("sshs_model_hash")
    if told and told != digest:
        problems.append("The tensors are not those that were saved: sshs_model_hash in the metadata is another.")
    return problems


def _read_payload(path: Path) -> tuple[dict[str, float], list[str], str]:
    """(alpha by module, tensors with NaN or infinity, SHA-256 of everything behind the header)."""
    import numpy

    with open_file(path) as file:
        length = int.from_bytes(file.read(8), "little")
        entries = parse_json(file.read(length))
        digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            digest.update(piece)
    entries.pop("__metadata__", None)
    alphas: dict[str, float] = {}
    broken = []
    data = numpy.memmap(path, numpy.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else None
    for key, entry in entries.items():
        first, last = entry["data_offsets"]
        if data is None or first == last:
            continue
        values, dtype = data[first:last], entry["dtype"]
        if dtype in _EXPONENTS and not _finite(values, dtype):
            broken.append(printable(key))
        name, _, part = key.partition(".")
        if part == ALPHA and not entry["shape"] and (alpha := _number(values, dtype)) is not None:
            alphas[name] = alpha
    return alphas, broken, digest.hexdigest()


def _finite(data: numpy.ndarray[Any, Any], dtype: str) -> bool:
    kind, exponent = _EXPONENTS[dtype]
    bits = data.view(kind)
    return not bool(((bits & bits.dtype.type(exponent)) == exponent).any())


def _number(data: numpy.ndarray[Any, Any], dtype: str) -> float | None:
    """One number; None for a format that no writer uses for alpha."""
    if dtype == "BF16":
        return float((data.view("<u2").astype("<u4") << 16).view("<f4")[0])
    kind = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}.get(dtype)
    return None if kind is None else float(data.view(kind)[0])
