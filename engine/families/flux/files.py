"""Which files FLUX's parts are in: the diffusers folder, one file for all, or ComfyUI's and Kohya's separate files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import RunConfig
from engine.errors import ModelError, UsageError
from engine.families.flux.configs import CONFIGS
from engine.families.flux.detect import INSIDE
from engine.models.configs import read_config
from engine.models.files import read_json, weight_files
from engine.models.header import Header, read_header
from engine.models.kinds import looks_like
from engine.models.weights import check_weights
from engine.paths import expanded
from engine.text import printable
from engine.types import Recognition

SETTINGS = {"text_encoder": "clip_l", "text_encoder_2": "t5xxl", "vae": "ae"}
"""The parts besides the transformer, and the keys of `[flux]` for their files."""
_TITLES = {"clip_l": "CLIP-L", "t5xxl": "T5-XXL", "ae": "the autoencoder"}
_SIGNS = {
    "text_encoder": ("text_model.encoder.layers.", "encoder.layers."),
    "text_encoder_2": ("encoder.block.",),
    "vae": ("encoder.down.", "encoder.down_blocks."),
}


@dataclass(frozen=True)
class PartFiles:
    """The files of one part."""

    files: tuple[Path, ...]
    prefix: str = ""
    """Prefix of its tensors' names."""
    config: Mapping[str, Any] | None = None
    """The configuration from its folder, if there is one."""

    @property
    def headers(self) -> list[Header]:
        """The header of each file."""
        return [read_header(file) for file in self.files]

    def any(self, start: str) -> bool:
        """Whether a tensor's name starts with this, after the prefix."""
        return any(header.any(self.prefix + start) for header in self.headers)


def find_parts(config: RunConfig, recognition: Recognition) -> dict[str, PartFiles]:
    """The files of the transformer, both text encoders and the VAE.

    Raises:
        UsageError: a part is in none of the files.
        ModelError: a file that `[flux]` names is missing, broken or of the wrong kind.
    """
    path = recognition.path
    if recognition.layout == "configurations":
        return {
            part: PartFiles((), config=read_json(path / part / "config.json")) for part in ("transformer", *SETTINGS)
        }
    folder = recognition.layout == "diffusers"
    paths = {part: _file_in_settings(config, part) for part in SETTINGS}
    inside = recognition.details["inside"]
    missing = [SETTINGS[part] for part in SETTINGS if not folder and part not in inside and paths[part] is None]
    if missing:
        names = _and([f"{_TITLES[key]} (flux.{key})" for key in missing])
        raise UsageError(
            f"{printable(path)} holds FLUX's transformer only: {names} {'is' if len(missing) == 1 else 'are'} not set.",
            "Set flux.clip_l, flux.t5xxl and flux.ae to the files that ComfyUI and Kohya use: clip_l.safetensors, "
            "t5xxl_fp16.safetensors, ae.safetensors.",
            code="flux-parts-not-set",
        )
    own = recognition.details["prefix"]
    parts = {"transformer": in_folder(path, "transformer") if folder else PartFiles((path,), own)}
    for part in SETTINGS:
        place = paths[part]
        if place is not None:
            parts[part] = _named(part, place)
        else:
            parts[part] = in_folder(path, part) if folder else PartFiles((path,), INSIDE[part])
    return parts


def own_parts(recognition: Recognition) -> dict[str, PartFiles]:
    """The transformer and those text encoders that the checkpoint itself has.

    Raises:
        ModelError: a folder lacks one.
    """
    path = recognition.path
    if recognition.layout == "diffusers":
        return {part: in_folder(path, part) for part in ("transformer", "text_encoder", "text_encoder_2")}
    inside = [part for part in recognition.details["inside"] if part != "vae"]
    own = PartFiles((path,), recognition.details["prefix"])
    return {"transformer": own} | {part: PartFiles((path,), INSIDE[part]) for part in inside}


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _file_in_settings(config: RunConfig, part: str) -> Path | None:
    table = config.flux
    value = {"text_encoder": table.clip_l, "text_encoder_2": table.t5xxl, "vae": table.ae or config.model.vae}[part]
    return expanded(value) if value else None


def in_folder(folder: Path, part: str, inner: str | None = None) -> PartFiles:
    """A part in a subfolder of a diffusers folder: `inner`, else the one that is called like the part.

    Raises:
        ModelError: it has no weights, or its configuration cannot be.
    """
    name = inner or part
    config = read_config(folder / name / "config.json", CONFIGS[part])
    return PartFiles(tuple(weight_files(folder, name)), config=config)


def _named(part: str, place: Path) -> PartFiles:
    """The file or folder that `[flux]` names for a part; the VAE may be `model.vae`."""
    key = f"flux.{SETTINGS[part]}"
    if not place.exists():
        raise ModelError(
            f"{key}: there is no file or folder {printable(place)}.", "Check the path.", code="model-file-missing"
        )
    if place.is_dir():
        inner = place if (place / "config.json").exists() else place / part
        part_files = in_folder(inner.parent, part, inner.name)
        read_config(inner / "config.json", CONFIGS[part], part_files.headers)
    else:
        part_files = PartFiles((place,))
    for file, header in zip(part_files.files, part_files.headers, strict=True):
        check_weights(file, header)
    headers = part_files.headers
    if not any(header.any(sign) for header in headers for sign in _SIGNS[part]):
        other = looks_like(headers[0]) or "something else: its tensor names fit none that is known"
        raise ModelError(
            f"{key}: {printable(place)} is not {_TITLES[SETTINGS[part]]}, but {other}.",
            f"Name the file that holds {_TITLES[SETTINGS[part]]}.",
            code="wrong-model-part",
        )
    return part_files
