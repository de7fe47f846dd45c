"""OneTrainer's concepts: folders of images with their captions and their changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config.conversion import Conversion
from engine.config.kohya.argument_values import integer_of
from engine.config.others.folders import Folder
from engine.config.others.onetrainer_keys import CONCEPT, NAME
from engine.config.others.table import Reading, brief, flat
from engine.config.problems import Problem
from engine.reading import read_json


def read_list(name: str | None, beside: Path) -> list[Any] | None:
    """The list in a file that a configuration names, relative to this folder, to the configuration's or to one above,
    as OneTrainer's own are; None where there is none that can be read."""
    if not name:
        return None
    path = Path(name.replace("\\", "/"))
    roots = (Path(), *list(beside.absolute().parents)[:3])
    for place in [path] if path.is_absolute() else [root / path for root in roots]:
        try:
            content = read_json(place)
        except (OSError, ValueError):
            continue
        return content if isinstance(content, list) else None
    return None


def folders_of(items: Sequence[Any], prefix: str, reading: Reading) -> list[Folder]:
    """The folders of the concepts that are trained on; the folder of validation images becomes a setting."""
    folders = []
    for place, item in enumerate(items):
        if not isinstance(item, dict):
            message = f"{brief(repr(item))} is not valid: enter a table."
            reading.conversion.problems.append(Problem("", f"{prefix}[{place}]", message))
            continue
        own = Conversion("", NAME)
        key = f"{prefix}[{place}]."
        inner = Reading(NAME, CONCEPT, flat(item, CONCEPT, own, key), own, reading.family, key)
        folder = _folder(inner, reading)
        if folder is not None:
            folders.append(folder)
        inner.rest()
        reading.conversion.entries += own.entries
        reading.conversion.problems += own.problems
        reading.conversion.unset += own.unset
    return folders


def _folder(inner: Reading, reading: Reading) -> Folder | None:
    """The folder of a concept; None where it is not trained on."""
    path = inner.get("path")
    if not inner.get("enabled"):
        inner.record("path" if path else "enabled", "no effect", "enabled is false")
        return None
    kind = str(inner.get("type")).upper()
    if kind == "VALIDATION" or inner.get("validation_concept"):
        if path is not None:
            reading.conversion.set("dataset.validation_data_dir", path, f"{inner.prefix}path")
            inner.record("path", "honoured", "validation images", "dataset.validation_data_dir")
        return None
    if kind != "STANDARD":
        inner.fail("type", "STANDARD concepts are trained on")
    inner.convert()
    if path is None and not inner.has("path"):
        inner.conversion.problems.append(Problem("", f"{inner.prefix}path", "required, and missing: a folder."))
    elif path is not None:
        inner.record("path", "honoured", "", "dataset.train_data_dir")
    _repeats(inner)
    _captions(inner)
    size = _size(inner, "image.resolution_override") if inner.get("image.enable_resolution_override") else None
    size = size or _size(reading, "resolution")
    settings = {**inner.conversion.values.get("dataset", {}), **({"resolution": size} if size else {})}
    return Folder(path or "", f"{inner.prefix}path", settings, sources=inner.conversion.sources)


def _repeats(inner: Reading) -> None:
    key = "repeats" if inner.has("repeats") else "balancing"
    if str(inner.get("balancing_strategy")).upper() != "REPEATS":
        inner.fail("balancing_strategy", "REPEATS: a number of samples has no equal")
        return
    repeats = integer_of(inner.get(key))
    if not repeats or repeats < 1:
        if inner.get(key) is not None:
            inner.fail(key, "a whole number of repeats from 1 on")
        return
    inner.use(key, "dataset.num_repeats", repeats)


def _captions(inner: Reading) -> None:
    source = str(inner.get("text.prompt_source"))
    if source != "sample":
        inner.fail("text.prompt_source", "sample: write the captions next to the images, `lorasmith caption DIR` does")
    elif inner.has("text.prompt_source"):
        inner.record("text.prompt_source", "honoured", "text files next to the images")
    if not inner.get("text.tag_dropout_enable"):
        return
    mode = str(inner.get("text.tag_dropout_mode")).upper()
    target = {"FULL": "dataset.caption_dropout_rate", "RANDOM": "dataset.caption_tag_dropout_rate"}.get(mode)
    inner.record("text.tag_dropout_enable", "honoured")
    if target is None:
        inner.fail("text.tag_dropout_mode", "FULL, or RANDOM")
        return
    inner.record("text.tag_dropout_mode", "honoured", "", target)
    share = inner.get("text.tag_dropout_probability")
    if share is not None:
        inner.use("text.tag_dropout_probability", target, share)


def _size(reading: Reading, key: str) -> int | list[int] | None:
    """One resolution: a side, or width and height; several are not supported."""
    raw = reading.get(key)
    text = str(raw) if isinstance(raw, (int, str)) and not isinstance(raw, bool) else ""
    pair = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text)
    if pair or re.fullmatch(r"\s*\d{1,5}\s*", text):
        size = [int(pair[1]), int(pair[2])] if pair else int(text)
        if reading.is_open(key):
            reading.record(key, "honoured", "", "dataset.resolution")
        return size
    if all(problem.key != f"{reading.prefix}{key}" for problem in reading.conversion.problems):
        if "," in text:
            reading.fail(key, "one resolution for all images: give one")
        else:
            message = f"{brief(repr(raw))} is not valid: enter a side, or width and height as 768x1024."
            reading.conversion.problems.append(Problem("", f"{reading.prefix}{key}", message))
    return None


def resolution(reading: Reading) -> None:
    """The resolution of a configuration without concepts."""
    size = _size(reading, "resolution")
    if size is not None:
        reading.conversion.set("dataset.resolution", size, "resolution")
