"""What a LoRA file is and what is wrong with it, for `lorasmith inspect`. Loads no torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.adapters.bases import VERSIONS
from engine.adapters.defects import defects
from engine.adapters.formats import Format, recognised, why_no_start
from engine.adapters.payload import Payload, read_payload
from engine.adapters.tables import TABLES
from engine.errors import ModelError
from engine.models.header import Header, read_header
from engine.models.kinds import looks_like
from engine.text import listing, printable

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
    """Whose names the modules have: "Kohya's", "OMI's", ..."""
    readers: list[str] = field(default_factory=list)
    """The programs that are known to read all of it."""
    no_start: str | None = None
    """Why a training cannot begin from it (`network.network_weights`); None where it can."""
    known_modules: dict[str, int] = field(default_factory=dict)
    """How many Kohya's table has for that component, where one is known."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank (as text) to number of modules."""
    alphas: dict[str, int] = field(default_factory=dict)
    dtypes: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and no problem."""
    problems: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return asdict(self)


def inspect_lora(path: Path) -> LoraReport:
    """Read and judge a LoRA file, or one of another kind of adapter.

    Raises:
        ModelError: it cannot be read, or is no adapter at all.
    """
    header = read_header(path)
    found = recognised(header.shapes, header.metadata)
    if found is None:
        other = looks_like(header) or "its tensors are named as in no LoRA that is known"
        raise ModelError(
            f"{printable(path)} is no LoRA: {other if other.startswith('its') else f'it is {other}'}.",
            "inspect reads LoRAs, LoHas, LoKrs and their relatives in the names of Kohya, diffusers, ComfyUI, "
            "OneTrainer, OMI and XLabs.",
        )
    payload = read_payload(path, header)
    hash_note, hash_problem = _hash(payload)
    faults, serious = defects(found, header, payload), defects(found, header, payload, start=True)
    ranks = Counter(rank for module in found.modules.values() if (rank := module.rank(header.shapes)) is not None)
    known = _known_modules(found)
    return LoraReport(
        path=printable(path),
        size=header.size,
        base=found.base,
        modules=found.components,
        kind=found.kind,
        kinds=found.kinds,
        naming=found.naming,
        readers=list(found.readers),
        no_start=why_no_start(found) or next((fault.rstrip(".") for fault in serious), None),
        known_modules=known,
        ranks=dict(ranks.most_common()),
        alphas=dict(Counter(f"{alpha:g}" for alpha in payload.alphas.values()).most_common()),
        dtypes=dict(Counter(dtype for dtype, _ in header.tensors.values()).most_common()),
        metadata={key: header.metadata[key] for key in _SHOWN if key in header.metadata},
        notes=[*_notes(found, header), *hash_note],
        problems=[*faults, *_name_problems(found, header.metadata), *hash_problem],
    )


def _known_modules(found: Format) -> dict[str, int]:
    if not found.kohya_names:
        return {}
    names = frozenset(name for name in found.kohya_names.values() if name is not None)
    return TABLES[found.base].counts(names, frozenset(found.components))


def _name_problems(found: Format, metadata: Mapping[str, str]) -> list[str]:
    problems = []
    unknown = sorted(name for name, own in found.kohya_names.items() if own is None)
    if unknown:
        problems.append(
            f"{len(unknown)} modules are none of {found.base}'s, readers leave them out or refuse the file: "
            f"{listing([printable(name) for name in unknown], 3)}."
        )
    version, begins = metadata.get("ss_base_model_version", ""), VERSIONS.get(found.base)
    if version and begins and not version.startswith(begins):
        problems.append(f"The metadata say {printable(version)}, the modules are those of {found.base}.")
    return problems


def _notes(found: Format, header: Header) -> list[str]:
    notes = []
    embeddings = {key.split(".")[1] for key in header.tensors if key.startswith("bundle_emb.") and key.count(".") > 1}
    if embeddings:
        names = listing(sorted(map(printable, embeddings)), 3)
        notes.append(f"It also holds embeddings, which A1111 and OneTrainer read: {names}.")
    scales = [(module, module.shape("magnitude", header.shapes)) for module in found.modules.values()]
    rows = [module for module, shape in scales if shape and shape[0] == module.outputs(header.shapes) != 1]
    if rows and any("DoRA" in kind for kind in found.kinds):
        notes.append(
            f"The DoRA scale of {len(rows)} modules is one for each output: ComfyUI, Forge and A1111 apply it "
            "differently from LyCORIS and peft."
        )
    if "OFT" in found.kinds or "BOFT" in found.kinds:
        notes.append("ComfyUI is right for it only at strength 1.")
    return notes


def _hash(payload: Payload) -> tuple[list[str], list[str]]:
    """(notes, problems) of `sshs_model_hash`: Kohya's is over the bytes behind the header, LyCORIS' over the tensors
    in the order in which it held them, and begins with 0x."""
    stated = payload.header.metadata.get("sshs_model_hash", "").strip().lower()
    if not stated:
        return [], []
    own, digits = stated.startswith("0x"), stated.removeprefix("0x")
    if not _SHORT_HASH.fullmatch(digits):
        return ["sshs_model_hash is none of Kohya's hashes and is not checked."], []
    if payload.digest.startswith(digits) or payload.ordered_digest.startswith(digits):
        return [], []
    if own:
        return [
            "sshs_model_hash is LyCORIS', over the tensors in the order in which they were saved; the file does not "
            "keep that order, so it is not checked."
        ], []
    return [], ["The tensors are not those that were saved: sshs_model_hash in the metadata is another."]
