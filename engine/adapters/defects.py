"""Checks an adapter file for defects, and whether a training can start from it. Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from engine.adapters.bases import UNKNOWN
from engine.adapters.formats import BFL, KOHYA, Format, recognise_format
from engine.adapters.keys import Module, Shapes
from engine.adapters.kinds.registry import kind_named
from engine.adapters.payload import FORMATS, Payload, read_payload
from engine.adapters.startable import other_way, why_no_start
from engine.errors import ModelError
from engine.models.header import Header, read_header
from engine.models.kinds import looks_like
from engine.text import listing, printable


def check_file(path: Path, base: str | None) -> Format:
    """Refuse a file that is unusable as `network.network_weights`; the full file is read, since NaN in it would end the
    training much later and look like a learning rate that is too high.

    Args:
        base: `FamilySpec.lora_base` of the model; None where the model is not known.

    Returns:
        What the file is.

    Raises:
        ModelError: names the file and the fault.
    """
    hint = "network_weights takes a LoRA for the model, in any naming that `lorasmith inspect` knows."

    def refuse(lora: Format, where: str) -> None:
        if reason := why_no_start(lora):
            way = other_way(lora)
            raise ModelError(
                f"{where}: a training cannot start from it: {reason}.",
                f"{way} makes a LoRA of it and reports what is lost." if way else hint,
                code="lora-not-for-start",
            )

    return _checked(path, base, "network.network_weights", hint, refuse)


def check_merged_file(path: Path, base: str | None) -> Format:
    """Refuse a file that is unusable in `model.base_weights`; otherwise as `check_file`."""
    return _checked(path, base, "model.base_weights", "It takes LoRA files of any naming.", _require_mergeable)


def _require_mergeable(lora: Format, where: str) -> None:
    """Refuse what `engine.adapters.tools.lora_file` cannot read as changes of weights."""
    kinds = [kind for kind in lora.kinds if not kind_named(kind).factors or kind_named(kind).needs_weight]
    biases = [name for name, module in lora.modules.items() if {"diff_b", "bias"} & module.parts.keys()]
    reason = ""
    if kinds:
        reason = f"the change of a {listing(sorted(kinds))} cannot be computed from the file alone"
    elif biases:
        reason = f"it also changes biases ({listing([printable(name) for name in biases], 2)})"
    if reason:
        raise ModelError(
            f"{where} cannot be merged into the base: {reason}.",
            "Merge it into the checkpoint with the program that made it, and train on that.",
            code="lora-not-mergeable",
        )


def _checked(path: Path, base: str | None, key: str, hint: str, refuse: Callable[[Format, str], None]) -> Format:
    """What a file is, if it is a sound LoRA for models of the kind `base`.

    Args:
        refuse: raises for another reason not to use it; the second argument is how messages name it.
    """
    header = read_header(path)
    lora = recognise_format(header.shapes, header.metadata)
    where = f"{key}: {printable(path)}"
    if lora is None:
        raise ModelError(
            f"{where} is not a LoRA, but {looks_like(header) or 'a file of an unknown kind'}.", hint, code="not-a-lora"
        )
    if base is not None and lora.base not in (UNKNOWN, base):
        raise ModelError(
            f"{where} is a LoRA for {lora.base}, and the model is {base}.",
            "Name a LoRA that was trained on a model of this family.",
            code="lora-for-other-model",
        )
    refuse(lora, where)
    faults = defects(lora, header, read_payload(path, header), start=True)
    if faults:
        raise ModelError(
            f"{where}: {faults[0].message}",
            "The file is damaged or was written wrongly: use another copy.",
            code=faults[0].code,
        )
    return lora


def defects(lora: Format, header: Header, payload: Payload, *, start: bool = False) -> list[ModelError]:
    """One error for each kind of defect, with the modules or tensors that have it; none is raised here.

    Args:
        start: leave out defects that do not prevent a training from starting.
    """
    shapes = header.shapes
    return [
        *_incomplete(lora, shapes, alphas=not start),
        *_uneven(lora.modules, shapes),
        *_unknown(lora),
        *_formats(lora, header),
        *_numbers(lora, payload, start=start),
    ]


def _incomplete(lora: Format, shapes: Shapes, *, alphas: bool) -> list[ModelError]:
    lacking: dict[str, list[str]] = {}
    for name, module in lora.modules.items():
        for part in module.lacking(shapes):
            lacking.setdefault(part, []).append(printable(name))
    problems = [
        ModelError(f"{len(names)} modules have no {part}: {listing(names, 3)}.", code="lora-incomplete")
        for part, names in lacking.items()
    ]
    bare = [
        printable(name)
        for name, module in lora.modules.items()
        if "alpha" not in module.parts and kind_named(module.kind(shapes)).scaled
    ]
    if bare and alphas and lora.naming == KOHYA:
        sentence = f"{len(bare)} modules have no alpha, readers then use the rank: {listing(bare, 3)}."
        problems.append(ModelError(sentence, code="lora-without-alpha"))
    return problems


def _uneven(modules: dict[str, Module], shapes: Shapes) -> list[ModelError]:
    """Modules whose factors do not fit together."""
    uneven = []
    for name, module in modules.items():
        pairs = kind_named(module.kind(shapes)).pairs(module.shapes(shapes))
        if any(len(down) < 2 or len(up) < 2 or down[0] != up[1] for down, up in pairs):
            uneven.append(printable(name))
    if not uneven:
        return []
    sentence = f"In {len(uneven)} modules the ranks of down and up differ: {listing(uneven, 3)}."
    return [ModelError(sentence, code="lora-ranks-differ")]


def _unknown(lora: Format) -> list[ModelError]:
    ends = (".scale", ".bias") if lora.naming == BFL else ()
    unknown = [key for key in lora.strange if not key.startswith("bundle_emb.") and not key.endswith(ends or ("\0",))]
    if not unknown:
        return []
    names = listing([printable(key) for key in unknown], 3)
    return [ModelError(f"{len(unknown)} tensors have names of no known LoRA format: {names}.", code="lora-unknown-key")]


def _formats(lora: Format, header: Header) -> list[ModelError]:
    """Matrices in a number format that no LoRA uses."""
    matrices = [key for module in lora.modules.values() for part, key in module.parts.items() if part not in _PLAIN]
    counts = Counter(kind for key in matrices if (kind := header.tensors[key][0]) not in FORMATS)
    return [
        ModelError(
            f"{count} tensors are in the number format {kind}, which no LoRA uses.", code="number-format-not-supported"
        )
        for kind, count in counts.items()
    ]


_PLAIN = ("alpha", "on_input", "reshape_weight")
"""Tensors that may hold whole numbers."""


def _numbers(lora: Format, payload: Payload, *, start: bool) -> list[ModelError]:
    problems = []
    inside = {key for module in lora.modules.values() for key in module.parts.values()}
    if empty := [printable(key) for key in payload.empty if key in inside]:
        problems.append(ModelError(f"{len(empty)} tensors hold no numbers: {listing(empty, 3)}.", code="weights-empty"))
    if payload.vectors:
        names = listing([printable(key) for key in payload.vectors], 3)
        problems.append(
            ModelError(f"{len(payload.vectors)} alphas are not one number: {names}.", code="lora-alpha-wrong")
        )
    if payload.broken:
        names = listing(payload.broken, 3)
        problems.append(
            ModelError(f"{len(payload.broken)} tensors hold NaN or infinity: {names}.", code="weights-not-finite")
        )
    zero = [printable(key) for key, alpha in payload.alphas.items() if alpha == 0]
    if zero and any(kind_named(kind).off_at_zero for kind in lora.kinds):
        sentence = f"{len(zero)} alphas are 0, which switches their modules off: {listing(zero, 3)}."
        problems.append(ModelError(sentence, code="lora-alpha-zero"))
    return problems
