"""The program that wrote a file, as far as its metadata or its names show that. Loads no torch.

Sources: the writers themselves (ai-toolkit `toolkit/metadata.py`, OneTrainer `BaseModelSaver`, sd-scripts
`sai_model_spec.py` and `train_network.py`, musubi-tuner `networks/`, diffusers' `save_lora_adapter`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from engine.adapters.bases import UNKNOWN, is_unet
from engine.adapters.formats import BFL, OMI, ONETRAINER, SIMPLETUNER, XLABS, Format
from engine.families.registry import specs
from engine.reading import parse_json
from engine.text import printable

_LONGEST = 60
_OF_SD_SCRIPTS = ("SD 3", "Anima", "Lumina 2", "Chroma", UNKNOWN)
"""Kinds of model that sd-scripts trains, beside U-Nets and those that are trained here; musubi-tuner trains others."""
_BY_NAMES = {
    ONETRAINER: "OneTrainer",
    OMI: "OneTrainer",
    XLABS: "XLabs",
    SIMPLETUNER: "SimpleTuner or ai-toolkit, with LyCORIS' names",
    BFL: "Black Forest Labs",
}
"""Namings that only these programs write."""


def maker_of(lora: Format, metadata: Mapping[str, str]) -> str:
    """The program, with its version where the metadata have it; empty where nothing shows it."""
    return _by_metadata(lora, metadata) or _BY_NAMES.get(lora.naming, "")


def _by_metadata(lora: Format, metadata: Mapping[str, str]) -> str:
    if software := _software(metadata.get("software", "")):
        return software
    if "ot_revision" in metadata or "ot_branch" in metadata:
        return _named("OneTrainer", metadata.get("ot_revision", ""))
    writer, _, version = metadata.get("modelspec.implementation_version", "").partition("/")
    if writer in ("lorasmith", "sd-scripts", "musubi-tuner"):
        title = {"lorasmith": "LoRA Smith"}.get(writer, writer)
        return _named(title, "" if version == "unknown" else version)
    module = metadata.get("ss_network_module", "")
    if module.startswith("lycoris"):
        return "LyCORIS"
    if "ss_session_id" in metadata or "ss_sd_scripts_commit_hash" in metadata:
        bases = (*_OF_SD_SCRIPTS, *(spec.lora_base for spec in specs()))
        return "sd-scripts (Kohya)" if lora.base in bases or is_unet(lora.base) else "musubi-tuner"
    return "diffusers" if "lora_adapter_metadata" in metadata else ""


def _software(text: str) -> str:
    """ai-toolkit's entry: {"name": "ai-toolkit", "version": …}."""
    try:
        table = parse_json(text) if text else {}
    except ValueError:
        return ""
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        return ""
    version = table.get("version")
    return _named(table["name"], version if isinstance(version, str) else "")


def _named(name: str, version: str) -> str:
    """With a version, of which a commit is shortened."""
    if re.fullmatch(r"[0-9a-f]{20,}", version):
        version = version[:8]
    return printable(f"{name} {version}".strip()[:_LONGEST])
