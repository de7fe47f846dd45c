"""The format and the defects of a LoRA file, for `lorasmith inspect`. Loads no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.adapters.bases import versions
from engine.adapters.defects import defects
from engine.adapters.formats import Format, recognise_format
from engine.adapters.keys import Module
from engine.adapters.kinds.dora import is_for_outputs
from engine.adapters.kinds.registry import kind_named
from engine.adapters.makers import maker_of
from engine.adapters.payload import Payload, read_payload
from engine.adapters.startable import other_way, why_no_start
from engine.adapters.stated_alphas import stated_alphas
from engine.config.network import FROM_BASE
from engine.errors import ModelError
from engine.families.registry import module_tables
from engine.models.header import Header, read_header
from engine.models.kinds import looks_like
from engine.reading import parse_json
from engine.text import listing, printable

_METADATA_KEYS = (
    "ss_output_name",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_base_weights",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_network_args",
    "ss_learning_rate",
    "ss_unet_lr",
    "ss_text_encoder_lr",
    "ss_lorasmith_changes",
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
_SHORT_HASH = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class LoraReport:
    """What `lorasmith inspect` shows."""

    path: str
    size: int
    """Bytes."""
    base: str
    """"SD 1.5", "SDXL", "FLUX", "FLUX.2", ... or "unknown", from the modules' names and shapes."""
    modules: dict[str, int]
    """Modules a component."""
    kind: str = "LoRA"
    """"LoRA", "DoRA", "LoHa", "LoKr", "(IA)³", ...; "LoRA and norm" where there are several."""
    kinds: dict[str, int] = field(default_factory=dict)
    """Kind of adapter to number of modules."""
    naming: str = ""
    """The naming of the modules: "Kohya's", "OMI's", ..."""
    readers: list[str] = field(default_factory=list)
    """The programs that read all of the file."""
    maker: str = ""
    """The program that wrote it; empty where metadata and names do not show it."""
    no_start: str | None = None
    """Why a training cannot start from it (`network.network_weights`); None where it can."""
    other_way: str | None = None
    """The command that makes a LoRA of another kind; None where there is none."""
    known_modules: dict[str, int] = field(default_factory=dict)
    """Number of modules in Kohya's table, by component, where there is a table."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank (as text) to number of modules."""
    alphas: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Remarks that are not problems."""
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def inspect_lora(path: Path) -> LoraReport:
    """Read and check a LoRA file, or one of another kind of adapter.

    Raises:
        ModelError: it cannot be read, or is not an adapter.
    """
    header = read_header(path)
    lora = recognise_format(header.shapes, header.metadata)
    if lora is None:
        other = looks_like(header) or "its tensors have names of no known LoRA format"
        raise ModelError(
            f"{printable(path)} is not a LoRA: {other if other.startswith('its') else f'it is {other}'}.",
            "inspect reads LoRAs, LoHas, LoKrs and their relatives in the names of Kohya, diffusers, ComfyUI, "
            "OneTrainer, OMI and XLabs.",
            code="not-a-lora",
        )
    payload = read_payload(path, header)
    hash_note, hash_problem = _hash(payload)
    faults = [defect.message for defect in defects(lora, header, payload)]
    serious = [defect.message for defect in defects(lora, header, payload, start=True)]
    no_start = why_no_start(lora)
    alphas, setting_problems = _alphas(path, lora, header, payload)
    ranks = Counter(rank for module in lora.modules.values() if (rank := module.rank(header.shapes)) is not None)
    return LoraReport(
        path=printable(path),
        size=header.size,
        base=lora.base,
        modules=lora.components,
        kind=lora.kind,
        kinds=lora.kinds,
        naming=lora.naming,
        readers=list(lora.readers),
        maker=maker_of(lora, header.metadata),
        no_start=no_start or next((fault.rstrip(".") for fault in serious), None),
        other_way=None if serious else other_way(lora),
        known_modules=_known_modules(lora),
        ranks=dict(ranks.most_common()),
        alphas=dict(Counter(f"{alpha:g}" for alpha in alphas).most_common()),
        dtypes=dict(Counter(dtype for dtype, _ in header.tensors.values()).most_common()),
        metadata={key: header.metadata[key] for key in _METADATA_KEYS if key in header.metadata},
        notes=[*_notes(lora, header), *_training_notes(header.metadata), *hash_note],
        problems=[*faults, *setting_problems, *_name_problems(lora, header.metadata), *hash_problem],
    )


def _alphas(path: Path, lora: Format, header: Header, payload: Payload) -> tuple[list[float], list[str]]:
    """The alphas in tensors and in the settings of peft and diffusers; and what is wrong with these settings."""
    try:
        stated = stated_alphas(path, lora, header.shapes, {"": (header.metadata, path)})
    except ModelError as error:
        return list(payload.alphas.values()), [error.message]
    return [*payload.alphas.values(), *stated.values()], []


def _known_modules(lora: Format) -> dict[str, int]:
    if not lora.kohya_names:
        return {}
    names = frozenset(name for name in lora.kohya_names.values() if name is not None)
    return module_tables()[lora.base].counts(names, frozenset(lora.components))


def _name_problems(lora: Format, metadata: Mapping[str, str]) -> list[str]:
    problems = []
    unknown = sorted(name for name, kohya in lora.kohya_names.items() if kohya is None)
    if unknown:
        problems.append(
            f"{len(unknown)} modules are none of {lora.base}'s, readers leave them out or refuse the file: "
            f"{listing([printable(name) for name in unknown], 3)}."
        )
    version, begins = metadata.get("ss_base_model_version", ""), versions().get(lora.base)
    if version and begins and not version.startswith(begins):
        problems.append(f"The metadata name {printable(version)}, the modules are those of {lora.base}.")
    return problems


def _notes(lora: Format, header: Header) -> list[str]:
    notes = []
    embeddings = {key.split(".")[1] for key in header.tensors if key.startswith("bundle_emb.") and key.count(".") > 1}
    if embeddings:
        names = listing(sorted(map(printable, embeddings)), 3)
        notes.append(f"It also holds embeddings, which A1111 and OneTrainer read: {names}.")
    rows = [module for module in lora.modules.values() if _scales_outputs(module, header)]
    if rows:
        notes.append(
            f"The DoRA scale of {len(rows)} modules is one for each output: ComfyUI, Forge and A1111 apply it "
            "differently from LyCORIS and peft."
        )
    notes += [
        f"{program} and {name}: {remark}."
        for name in lora.kinds
        for program, remark in kind_named(name).remarks.items()
        if program in lora.readers
    ]
    return notes


def _training_notes(metadata: Mapping[str, str]) -> list[str]:
    """How the LoRA was trained, where its tensors do not show it."""
    try:
        arguments = parse_json(metadata.get("ss_network_args", "{}"))
    except ValueError:
        return []
    values = arguments if isinstance(arguments, dict) else {}
    start, least = (values.get(key) for key in ("init_lora_weights", "tlora_min_rank"))
    notes = []
    if start in FROM_BASE:
        notes.append(
            f"Trained with init_lora_weights = {start}: the rank is twice that of the training, which the same setting "
            "continues with half of it, and the default with all of it."
        )
    if isinstance(least, str) and least.isdecimal():
        notes.append(f"Trained with tlora_min_rank = {least}; programs that read it use all ranks at all timesteps.")
    return notes


def _scales_outputs(module: Module, header: Header) -> bool:
    return is_for_outputs(module.shapes(header.shapes), module.outputs(header.shapes))


def _hash(payload: Payload) -> tuple[list[str], list[str]]:
    """(notes, problems) of `sshs_model_hash`: Kohya's is over the bytes after the header, LyCORIS' over the tensors in
    their order in memory, and begins with 0x."""
    stated = payload.header.metadata.get("sshs_model_hash", "").strip().lower()
    if not stated:
        return [], []
    is_lycoris, digits = stated.startswith("0x"), stated.removeprefix("0x")
    if not _SHORT_HASH.fullmatch(digits):
        return ["sshs_model_hash is not in Kohya's form and is not checked."], []
    if payload.digest.startswith(digits) or payload.ordered_digest.startswith(digits):
        return [], []
    if is_lycoris:
        return [
            "sshs_model_hash is LyCORIS', over the tensors in the order in which they were saved; the file does not "
            "keep that order, so it is not checked."
        ], []
    return [], ["The tensors have changed since they were saved: sshs_model_hash in the metadata differs."]
