"""Checks whether a file can be applied to a model to generate images. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.adapters.bases import UNKNOWN
from engine.adapters.defects import defects
from engine.adapters.formats import Format, recognise_format
from engine.adapters.keys import Shapes
from engine.adapters.kinds.registry import kind_named, kinds
from engine.adapters.payload import read_payload
from engine.errors import ModelError
from engine.models.header import read_header
from engine.models.kinds import looks_like
from engine.text import listing, printable

_ANY = frozenset({"alpha", "scale"})


def check_usable(path: Path, base: str | None, log: Callable[[str], object] = lambda _: None) -> Format:
    """The file's format; refuses a file that cannot be applied. The full file is read: NaN would corrupt every image.

    Args:
        base: `FamilySpec.lora_base` of the model; None where it is still unknown.
        log: called with what is left out.

    Raises:
        ModelError: unreadable, no LoRA, for another kind of model, of an unsupported kind, or damaged.
    """
    header = read_header(path)
    lora = recognise_format(header.shapes, header.metadata)
    if lora is None:
        raise ModelError(
            f"{printable(path)} is not a LoRA, but {looks_like(header) or 'a file of an unknown kind'}.",
            "`lorasmith inspect FILE` shows more.",
            code="not-a-lora",
        )
    if base is not None and lora.base not in (UNKNOWN, base):
        raise ModelError(
            f"{printable(path)} is made for {lora.base}, and the model is {base}.",
            f"Name a model of the kind {lora.base} with --model.",
            code="lora-for-other-model",
        )
    _check_kinds(path, lora, header.shapes)
    faults = defects(replace(lora, strange=[]), header, read_payload(path, header), start=True)
    if faults:
        raise ModelError(
            f"{printable(path)}: {faults[0].message}",
            "The file is damaged or was written wrongly.",
            code=faults[0].code,
        )
    if lora.strange:
        log(f"{len(lora.strange)} tensors of {printable(path.name)} belong to no LoRA and are left out: "
            f"{listing([printable(key) for key in lora.strange], 3)}.")  # fmt: skip
    return lora


def _check_kinds(path: Path, lora: Format, shapes: Shapes) -> None:
    computed = [kind.name for kind in kinds().all if kind.factors]
    hint = f"Supported: {listing([*computed, 'DoRA'], 9)}."
    unsupported = [kind for kind in lora.kinds if not kind_named(kind).factors]
    if unsupported:
        count = sum(lora.kinds[kind] for kind in unsupported)
        what = f"{count} modules of the kind {listing(unsupported)}"
        raise ModelError(
            f"{printable(path)} has {what}, which are not supported for sampling.", hint, code="lora-not-for-sampling"
        )
    for module in lora.modules.values():
        kind = kind_named(module.kind(shapes))
        if extra := sorted(module.parts.keys() - (kind.factors | _ANY)):
            key = printable(module.parts[extra[0]])
            raise ModelError(
                f"{printable(path)}: the tensor {key} is not supported in a {kind.name}.",
                hint,
                code="lora-not-for-sampling",
            )
