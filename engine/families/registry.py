"""The registry of families, and recognition of checkpoints. Reads headers and configuration files; loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from engine.config import RunConfig
from engine.config.layers import BLOCK_SETTINGS
from engine.errors import ModelError
from engine.families.base import Family
from engine.families.flux.family import FLUX
from engine.families.module_table import ModuleTable
from engine.families.spec import FamilySpec
from engine.families.unet.family import SD15, SDXL
from engine.models.files import read_json
from engine.models.header import read_header, readable
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.models.kinds import likeness_of
from engine.plugins import load_plugins
from engine.text import printable, shell_word
from engine.types import Recognition

PLUGINS = "lorasmith.families"
"""Entry points of plugin families: each names a subclass of `Family`."""
_OWN = (SD15, SDXL, FLUX)


@cache
def families() -> tuple[Family, ...]:
    """Every family that can be trained, in the order in which they are tried on a checkpoint.

    Raises:
        UsageError: a plugin family cannot be loaded.
    """
    return (*(own() for own in _OWN), *load_plugins(PLUGINS, Family, "plugin family"))


def specs() -> tuple[FamilySpec, ...]:
    """The facts of every family."""
    return tuple(family.spec for family in families())


def find_family(name: str) -> Family | None:
    """The family of that name; None if there is none."""
    return next((family for family in families() if family.name == name), None)


def family_named(name: str) -> Family:
    """The family of a `Recognition`."""
    family = find_family(name)
    assert family is not None, f"there is no family {name}"
    return family


def family_of_lora(base: str) -> Family | None:
    """The family that a LoRA for `base` ("SD 1.5") is for; None if that is none that can be trained."""
    return next((family for family in families() if family.spec.lora_base == base), None)


def module_tables() -> Mapping[str, ModuleTable]:
    """Kohya's modules of every family, by what `inspect` calls a LoRA for it."""
    return {spec.lora_base: spec.layers.table for spec in specs()}


def foreign_settings(spec: FamilySpec) -> dict[str, str]:
    """Settings that other families have and this one does not, with the reason in words."""
    reasons: dict[str, str] = {}
    for other in specs():
        for key in other.own_settings:
            if key not in spec.own_settings:
                owners = [each.lora_base for each in specs() if key in each.own_settings]
                verb = "has" if len(owners) == 1 else "have"
                reasons[key] = f"only {' and '.join(owners)} {verb} such a setting"
    return reasons


def foreign_values(spec: FamilySpec, config: RunConfig) -> dict[str, str]:
    """Settings whose value is for other families, with the reason in words."""
    module = config.network.network_module
    if module in (spec.network_module, RunConfig().network.network_module):
        return {}
    owners = [other.lora_base for other in specs() if other.network_module == module]
    return {"network.network_module": f"{module} is for {' and '.join(owners)}"} if owners else {}


def foreign_lists(spec: FamilySpec) -> dict[str, str]:
    """Settings with a value for each block, where a family has no such lists, with the reason in words."""
    if spec.block_lists is not None:
        return {}
    reason = f"Kohya's lists of blocks are for U-Nets, and {spec.lora_base} has none"
    return {f"network.{key}": reason for key in BLOCK_SETTINGS}


def recognise(path: str | Path) -> Recognition:
    """What the checkpoint at `path` is.

    Args:
        path: a .safetensors file, a diffusers folder, or a hub id that is in the local Hugging Face cache.

    Raises:
        ModelError: missing, broken, of a kind that cannot be trained, or unknown.
    """
    with readable(Path(path)):
        place = _resolve(path)
        for family in families():
            recognition = family.recognise(place)
            if recognition is not None:
                return recognition
    titles = ", ".join(spec.title for spec in specs())
    if place.is_dir():
        raise _unknown_folder(place, titles)
    raise _unknown_file(place, titles)


def _resolve(path: str | Path) -> Path:
    """The file or folder; for a hub id its folder in the local cache."""
    if not str(path).strip():
        raise ModelError("No model is given.", "Set --model (model.pretrained_model_name_or_path).", code="no-model")
    place = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises where there is no such home
    if place.exists():
        return place
    if not is_hub_id(str(path)):
        raise ModelError(
            f"There is no file or folder {printable(path)}.", "Check the path of the model.", code="model-file-missing"
        )
    return _cached(str(path))


def _cached(hub_id: str) -> Path:
    """The folder of a hub id in the local Hugging Face cache, or its only checkpoint; never uses the network."""
    folder = cached_folder(hub_id)
    if folder is None:
        raise ModelError(
            f"There is no file or folder {hub_id}, and no model of that name in the local Hugging Face cache.",
            f"Check the path, or fetch it where there is a network: lorasmith fetch {shell_word(hub_id)}",
            code="model-not-in-cache",
        )
    checkpoints = list(folder.glob("*.safetensors"))
    denoisers = {spec.denoiser for spec in specs()}
    is_folder_model = (folder / "model_index.json").exists() or any((folder / part).is_dir() for part in denoisers)
    return checkpoints[0] if len(checkpoints) == 1 and not is_folder_model else folder


def _unknown_file(path: Path, titles: str) -> ModelError:
    likeness, where, hint = likeness_of(read_header(path)), printable(path), f"Supported: {titles}."
    if likeness is None:
        return ModelError(
            f"{where} is not a supported model: its tensor names match none.", hint, code="model-not-recognised"
        )
    if likeness.sort == "lora":
        return ModelError(f"{where} is {likeness.words}.", hint, code="model-is-lora")
    if likeness.sort == "part":
        return ModelError(f"{where} is {likeness.words}.", hint, code="model-is-part")
    if likeness.sort == "model":
        return ModelError(f"{where} is {likeness.words}.", hint, code="model-of-other-family")
    return ModelError(f"{where} is {likeness.words}.", hint, code="not-a-base-model")


def _unknown_folder(folder: Path, titles: str) -> ModelError:
    if (folder / "model_index.json").exists():
        pipeline = str(read_json(folder / "model_index.json").get("_class_name", ""))
        return ModelError(
            f"{printable(folder)} is a diffusers model of the kind {printable(pipeline) or 'unknown'}, which cannot be "
            "trained here.",
            f"Supported: {titles}.",
            code="pipeline-not-supported",
        )
    files = sorted(printable(file.name) for file in folder.iterdir() if file.suffix.lower() == ".safetensors")
    if files:
        names = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
        return ModelError(
            f"{printable(folder)} is not a diffusers model: it has no model_index.json, no unet, no transformer.",
            f"It holds checkpoints; name one of them: {names}",
            code="folder-of-checkpoints",
        )
    return ModelError(
        f"{printable(folder)} is not a diffusers model: it has no model_index.json, no unet, no transformer.",
        f"Name a .safetensors file, or a folder in diffusers' layout. Supported: {titles}.",
        code="not-a-diffusers-model",
    )
