"""The metadata of a LoRA file written by a tool. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from engine import __version__
from engine.clock import now
from engine.families.registry import family_of_lora
from engine.text import printable

_KEPT = (
    *("ss_v2", "ss_base_model_version", "ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash"),
    *("ss_clip_skip", "ss_resolution", "modelspec.architecture", "modelspec.implementation"),
    *("modelspec.prediction_type", "modelspec.resolution"),
)
"""Keys that a merged file takes from the first file."""
OF_FILE = ("sshs_model_hash", "sshs_legacy_hash")
"""Keys that are computed over the file."""


def inherited(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a file without its hashes and the "format" of other writers."""
    return {key: value for key, value in metadata.items() if key not in (*OF_FILE, "format", "lora_adapter_metadata")}


def network_sizes(ranks: Sequence[int], alphas: Sequence[float]) -> dict[str, str]:
    """`ss_network_dim` and `ss_network_alpha`: "Dynamic" where layers differ."""
    return {"ss_network_dim": _common_value(ranks), "ss_network_alpha": _common_value(alphas)}


def _common_value(values: Sequence[float]) -> str:
    distinct = set(values)
    return f"{next(iter(distinct))}" if len(distinct) == 1 else "Dynamic"


def comment(old: Mapping[str, str], text: str) -> dict[str, str]:
    """`ss_training_comment` with `text` before the old comment."""
    before = old.get("ss_training_comment", "None")
    return {"ss_training_comment": text if before in ("", "None") else f"{text}; {before}"}


def of_base(base: str) -> dict[str, str]:
    """The keys that readers use: `ss_v2`, `ss_base_model_version`, the module of sd-scripts, and the architecture."""
    family = family_of_lora(base)
    if family is None:
        return {}
    return {**family.spec.file_facts(), "ss_network_module": family.spec.network_module}


def derived_metadata(
    sources: Sequence[Mapping[str, str]], names: Sequence[Path], base: str, out: Path
) -> dict[str, str]:
    """The metadata of a file made from others: keys of the first, all triggers, and the file names."""
    metadata = of_base(base)
    if sources:
        metadata |= {key: sources[0][key] for key in _KEPT if key in sources[0]}
    triggers = [source.get("modelspec.trigger_phrase", "") for source in sources]
    if phrase := ", ".join(dict.fromkeys(word for word in triggers if word)):
        metadata["modelspec.trigger_phrase"] = phrase
    if names:
        metadata["modelspec.merged_from"] = ", ".join(printable(name.name) for name in names)
    return metadata | {
        "ss_output_name": printable(out.stem),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation_version": f"lorasmith/{__version__}",
        "modelspec.title": printable(out.stem),
        "modelspec.date": datetime.fromtimestamp(int(now())).isoformat(),
    }
