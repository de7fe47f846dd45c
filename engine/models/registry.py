"""The families, and what a checkpoint is. Reads headers and configuration files; loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import ModelError
from engine.models.base import Family, Recognition
from engine.models.files import read_json
from engine.models.flux.family import FLUX
from engine.models.header import read_header, readable
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.models.kinds import looks_like
from engine.models.sd15.family import SD15
from engine.models.sdxl.family import SDXL
from engine.text import printable, shell_word


def families() -> list[Family]:
    """Every family that can be trained."""
    return [SD15(), SDXL(), FLUX()]


def family_named(name: str) -> Family:
    """The family of a `Recognition`."""
    return next(family for family in families() if family.name == name)


def recognise(path: str | Path) -> Recognition:
    """What the checkpoint at `path` is.

    Args:
        path: a .safetensors file, a diffusers folder, or a hub id that is in the local Hugging Face cache.

    Raises:
        ModelError: missing, broken, of a kind that cannot be trained, or unknown; the sentence says which.
    """
    with readable(Path(path)):
        place = _resolve(path)
        for family in families():
            recognition = family.recognise(place)
            if recognition is not None:
                return recognition
    known = ", ".join(family.title for family in families())
    if place.is_dir():
        raise _unknown_folder(place, known)
    kind = looks_like(read_header(place))
    hint = f"Supported: {known}."
    if kind is None:
        raise ModelError(f"{printable(place)} is no model that is known here: its tensor names fit none.", hint)
    raise ModelError(f"{printable(place)} is {kind}.", hint)


def _resolve(path: str | Path) -> Path:
    """The file or folder meant; a hub id becomes its folder in the local cache."""
    if not str(path).strip():
        raise ModelError("No model is given.", "Set --model (model.pretrained_model_name_or_path).")
    place = Path(os.path.expanduser(path))  # noqa: PTH111 - Path's own raises where there is no such home
    if place.exists():
        return place
    if not is_hub_id(str(path)):
        raise ModelError(f"There is no file or folder {printable(path)}.", "Check the path of the model.")
    return _cached(str(path))


def _cached(hub_id: str) -> Path:
    """The folder of a hub id in the local Hugging Face cache, or the one checkpoint in it; never asks the network."""
    folder = cached_folder(hub_id)
    if folder is None:
        raise ModelError(
            f"There is no file or folder {hub_id}, and no model of that name in the local Hugging Face cache.",
            f"Check the path, or fetch it where there is a network: lorasmith fetch {shell_word(hub_id)}",
        )
    checkpoints = list(folder.glob("*.safetensors"))
    whole = (folder / "model_index.json").exists() or (folder / "unet").is_dir() or (folder / "transformer").is_dir()
    return checkpoints[0] if len(checkpoints) == 1 and not whole else folder


def _unknown_folder(folder: Path, known: str) -> ModelError:
    if (folder / "model_index.json").exists():
        pipeline = str(read_json(folder / "model_index.json").get("_class_name", ""))
        return ModelError(
            f"{printable(folder)} is a diffusers model of the kind {printable(pipeline) or 'unknown'}, which cannot be "
            "trained here.",
            f"Supported: {known}.",
        )
    files = sorted(printable(file.name) for file in folder.iterdir() if file.suffix.lower() == ".safetensors")
    if files:
        shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
        return ModelError(
            f"{printable(folder)} is not a diffusers model: it has no model_index.json, no unet, no transformer.",
            f"It holds checkpoints; name one of them: {shown}",
        )
    return ModelError(
        f"{printable(folder)} is not a diffusers model: it has no model_index.json, no unet, no transformer.",
        f"Name a .safetensors file, or a folder in diffusers' layout. Supported: {known}.",
    )
