"""What is wrong inside an adapter file, and whether a training can begin from it. Loads no torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from engine.adapters.bases import UNKNOWN
from engine.adapters.formats import BFL, KOHYA, Format, recognised, why_no_start
from engine.adapters.keys import Module, Shapes
from engine.adapters.payload import FORMATS, Payload, read_payload
from engine.errors import ModelError
from engine.models.header import Header, read_header
from engine.models.kinds import looks_like
from engine.text import listing, printable


def check_file(path: Path, wanted: str | None) -> Format:
    """Refuse a file that `network.network_weights` cannot be; all of it is read, since NaN in it would end the
    training much later and look like a learning rate that is too high.

    Args:
        wanted: `Family.lora_base` of the model; None where the model is not known.

    Returns:
        What the file is.

    Raises:
        ModelError: says what is wrong with which file.
    """
    header = read_header(path)
    found = recognised(header.shapes, header.metadata)
    where = f"network.network_weights: {printable(path)}"
    hint = "network_weights takes a LoRA in Kohya's format (keys lora_unet_... and lora_te_...)."
    if found is None:
        raise ModelError(f"{where} is no LoRA, but {looks_like(header) or 'something that is not known'}.", hint)
    if wanted is not None and found.base not in (UNKNOWN, wanted):
        raise ModelError(
            f"{where} is a LoRA for {found.base}, and the model is {wanted}.",
            "Start from a LoRA that was trained on a model of this family.",
        )
    if reason := why_no_start(found):
        raise ModelError(f"{where}: a training cannot start from it: {reason}.", hint)
    faults = defects(found, header, read_payload(path, header), start=True)
    if faults:
        raise ModelError(f"{where}: {faults[0]}", "The file is damaged or was written wrongly: use another copy.")
    return found


def defects(found: Format, header: Header, payload: Payload, *, start: bool = False) -> list[str]:
    """One sentence for each kind of defect.

    Args:
        start: leave out what a training can do without.
    """
    shapes = header.shapes
    return [
        *_incomplete(found, shapes, alphas=not start),
        *_uneven(found.modules, shapes),
        *_strange(found),
        *_formats(found, header),
        *_numbers(found, payload, start=start),
    ]


def _incomplete(found: Format, shapes: Shapes, *, alphas: bool) -> list[str]:
    lacking: dict[str, list[str]] = {}
    for name, module in found.modules.items():
        for part in module.lacking(shapes):
            lacking.setdefault(part, []).append(printable(name))
    problems = [f"{len(names)} modules have no {part}: {listing(names, 3)}." for part, names in lacking.items()]
    scaled = ("LoRA", "LoRA with Tucker decomposition", "DoRA", "LoHa", "LoHa with DoRA", "GLoRA")
    bare = [
        printable(name)
        for name, module in found.modules.items()
        if "alpha" not in module.parts and module.kind(shapes) in scaled
    ]
    if bare and alphas and found.naming == KOHYA:
        problems.append(f"{len(bare)} modules have no alpha, readers then take the rank: {listing(bare, 3)}.")
    return problems


def _uneven(modules: dict[str, Module], shapes: Shapes) -> list[str]:
    """Factors that do not belong together."""
    uneven = []
    for name, module in modules.items():
        first, second = module.shape("down", shapes), module.shape("up", shapes)
        pairs = [(first, second)] if "down" in module.parts and "up" in module.parts else []
        if "hada_t1" not in module.parts and "hada_w1_b" in module.parts and "hada_w1_a" in module.parts:
            pairs.append((module.shape("hada_w1_b", shapes), module.shape("hada_w1_a", shapes)))
        if any(len(down) < 2 or len(up) < 2 or down[0] != up[1] for down, up in pairs):
            uneven.append(printable(name))
    if not uneven:
        return []
    return [f"In {len(uneven)} modules the ranks of down and up differ: {listing(uneven, 3)}."]


def _strange(found: Format) -> list[str]:
    ends = (".scale", ".bias") if found.naming == BFL else ()
    strange = [key for key in found.strange if not key.startswith("bundle_emb.") and not key.endswith(ends or ("\0",))]
    if not strange:
        return []
    return [
        f"{len(strange)} tensors have names of no LoRA that is known: "
        f"{listing([printable(key) for key in strange], 3)}."
    ]


def _formats(found: Format, header: Header) -> list[str]:
    """Matrices in a number format of none."""
    matrices = [key for module in found.modules.values() for part, key in module.parts.items() if part not in _PLAIN]
    odd = Counter(kind for key in matrices if (kind := header.tensors[key][0]) not in FORMATS)
    return [f"{count} tensors are in the number format {kind}, which no LoRA has." for kind, count in odd.items()]


_PLAIN = ("alpha", "on_input", "reshape_weight")
"""Tensors that may hold whole numbers."""


def _numbers(found: Format, payload: Payload, *, start: bool) -> list[str]:
    problems = []
    inside = {key for module in found.modules.values() for key in module.parts.values()}
    if empty := [printable(key) for key in payload.empty if key in inside]:
        problems.append(f"{len(empty)} tensors hold no numbers: {listing(empty, 3)}.")
    if payload.vectors:
        names = listing([printable(key) for key in payload.vectors], 3)
        problems.append(f"{len(payload.vectors)} alphas are not one number: {names}.")
    if payload.broken:
        problems.append(f"{len(payload.broken)} tensors hold NaN or infinity: {listing(payload.broken, 3)}.")
    zero = [printable(key) for key, alpha in payload.alphas.items() if alpha == 0]
    if zero and any("LoRA" in kind or "LoHa" in kind for kind in found.kinds):
        problems.append(f"{len(zero)} alphas are 0, which switches their modules off: {listing(zero, 3)}.")
    return problems
