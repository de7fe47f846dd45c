"""Kohya's dataset configuration (`--dataset_config`): several datasets of several subsets, in TOML or JSON.

Facts: sd-scripts `library/config_util.py`. Precedence of a setting: subset, dataset, `[general]`, the run's own
settings.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.config.dataset import DatasetTable
from engine.config.kohya.dataset_keys import DATASET_KEYS, PATHS, SHARED_KEYS, SUBSET_KEYS
from engine.config.lines import KeyPath, json_lines, toml_lines
from engine.config.local_paths import CONTROLS_HINT, CONTROLS_MESSAGE, has_controls, is_windows_path
from engine.config.others.datasets import dataset_content
from engine.config.problems import ConfigError, Problem, limit_problem, sentence
from engine.config.schema import RunConfig
from engine.errors import UsageError
from engine.reading import SAVE_AS_UTF8, parse_json, parse_toml, read_script
from engine.text import printable

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(
        ("enable_bucket", "bucket_no_upscale", "color_aug", "flip_aug", "random_crop", "shuffle_caption",
         "enable_wildcard", "cache_info", "is_reg", "alpha_mask"),
        ((bool,), "true or false, without quotation marks"),
    ),
    **dict.fromkeys(
        ("batch_size", "min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "validation_seed", "num_repeats",
         "keep_tokens", "token_warmup_min", "caption_dropout_every_n_epochs"),
        ((int,), "a whole number"),
    ),
    **dict.fromkeys(
        ("network_multiplier", "validation_split", "token_warmup_step", "caption_dropout_rate",
         "caption_tag_dropout_rate"),
        ((int, float), "a number"),
    ),
    **dict.fromkeys(
        ("resize_interpolation", "caption_separator", "keep_tokens_separator", "secondary_separator",
         "caption_prefix", "caption_suffix", "caption_extension", "class_tokens"),
        ((str,), "text"),
    ),
    "custom_attributes": ((dict,), "a table"),
    "face_crop_aug_range": ((list,), "two numbers: [2.0, 4.0]"),
}  # fmt: skip
"""As strict as Kohya's schema, in which a text is no number or switch, except that Kohya refuses whole numbers for some
rates."""
_OF_THE_TABLE = (DATASET_KEYS | SHARED_KEYS | {"alpha_mask"}) & frozenset(DatasetTable.model_fields)
_WITHOUT_EFFECT = {
    "cache_info": "headers of images are read each time, in parallel",
    "custom_attributes": "of all attributes the LoRA scripts read diff_output_preservation only",
}
_MASK = "masked loss is on: dataset.masked_loss"


@dataclass(frozen=True)
class SubsetSpec:
    """One subset with all its settings."""

    table: DatasetTable
    dataset: int
    """From 0."""
    batch_size: int
    image_dir: str = ""
    metadata_file: str | None = None
    conditioning_data_dir: str | None = None
    is_reg: bool = False
    num_repeats: int = 1
    class_tokens: str = ""


@dataclass
class _Reading:
    path: Path
    config: RunConfig
    lines: Mapping[KeyPath, int]
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _reported: set[tuple[KeyPath, str]] = field(default_factory=set)

    def problem(self, place: str, key: str, message: str, hint: str = "") -> None:
        """Add a problem at a place like `datasets[0].subsets[1]`."""
        path = self._path(place, key)
        is_key = path[-1:] == (key.rpartition(".")[2],)
        if is_key and (path, message) in self._reported:  # once for all subsets that inherit it
            return
        self._reported.add((path, message))
        where = f"{printable(self.path)}, line {self.lines[path]}" if path in self.lines else printable(self.path)
        self.problems.append(Problem(where, f"{place}.{key}".strip("."), message, hint))

    def _path(self, place: str, key: str) -> KeyPath:
        """The place of the key, also on the level from which it is inherited; else of its table."""
        table: KeyPath = tuple(int(part) if part.isdecimal() else part for part in re.findall(r"[^.\[\]]+", place))
        levels = [table, table[:2], ("general",)] if key else []
        paths = [*((*level, *key.split(".")) for level in levels), table, table[:-1]]
        return next((path for path in paths if path in self.lines), ())


def read_text(path: Path) -> str:
    """The text of a file of Kohya's.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return read_script(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{printable(path)} cannot be read: {reason}.", "Check the path.", code="kohya-file-unreadable"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(
            f"{printable(path)} cannot be read: it is not UTF-8.", SAVE_AS_UTF8, code="kohya-file-not-utf8"
        ) from None


def read_content(path: Path) -> dict[str, Any]:
    """A TOML or JSON file as a table.

    Raises:
        UsageError: it cannot be read.
        ConfigError: it is invalid, or not a table.
    """
    return _content_and_lines(path)[0]


def _dataset_and_lines(path: Path) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    """The content of a dataset configuration, also of one that another trainer's file has in it, which has no lines.

    Raises:
        UsageError: it cannot be read, or is a file of another trainer that is not converted.
        ConfigError: it is invalid.
    """
    text = read_text(path)
    try:
        content, lines = _parsed(path, text)
    except ConfigError:
        if (foreign := dataset_content(path, text)) is None:
            raise
        return dict(foreign), {}
    datasets = content.get("datasets")
    own = isinstance(datasets, list) and all(isinstance(item, dict) and "subsets" in item for item in datasets)
    foreign = None if own else dataset_content(path, text)
    return (content, lines) if foreign is None else (dict(foreign), {})


def _content_and_lines(path: Path) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    return _parsed(path, read_text(path))


def _parsed(path: Path, text: str) -> tuple[dict[str, Any], Mapping[KeyPath, int]]:
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    lines = json_lines if is_json else toml_lines
    try:
        content = parse_json(text, surrogates=False) if is_json else parse_toml(text)
    except ValueError as error:
        problem = limit_problem(printable(path), "JSON" if is_json else "TOML", error, lambda: lines(text))
        if not is_json and not problem.key and "\\" in text:
            hint = "In double quotes a backslash starts an escape: write paths in single quotes, or with /."
            problem = replace(problem, hint=hint)
        raise ConfigError([problem]) from None
    if not isinstance(content, dict):
        raise ConfigError([Problem(printable(path), "", "a table is needed.", "")])
    return content, lines(text)


def kohya_path(text: str) -> Path:
    """A path in a file of Kohya's, possibly with the backslashes of Windows."""
    slashed = "\\" in text and not os.path.exists(text)  # noqa: PTH110 - Path's own raises for an impossible name
    return Path(os.path.expanduser(text.replace("\\", "/") if slashed else text))  # noqa: PTH111 - as above


def frozen_text(path: Path) -> str:
    """A dataset configuration as JSON with absolute paths: the copy that a run keeps.

    Raises:
        UsageError: it cannot be read.
        ConfigError: it is not valid.
    """
    content, _ = _dataset_and_lines(path)
    for dataset in _tables(content.get("datasets")):
        for subset in _tables(dataset.get("subsets")):
            for key in PATHS:
                if isinstance(subset.get(key), str) and subset[key]:
                    subset[key] = str(Path.cwd() / kohya_path(subset[key]))
    return json.dumps(content, indent=1, default=str)


def _tables(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def is_dataset_config(content: Mapping[str, Any]) -> bool:
    """Whether a file's content is a dataset configuration."""
    return "datasets" in content and set(content) <= {"general", "datasets"}


def read_dataset_config(path: Path, config: RunConfig) -> tuple[list[SubsetSpec], list[str]]:
    """All subsets of a dataset configuration, and notes on unused keys.

    Args:
        config: of the run, for settings that the file does not have.

    Raises:
        ConfigError: with every problem of the file and its place.
        UsageError: it cannot be read, or is another file of Kohya's.
    """
    content, lines = _dataset_and_lines(path)
    if content and not content.keys() & {"general", "datasets"}:
        raise UsageError(
            f"{printable(path)} is not a dataset configuration: it has no [[datasets]].",
            "A training TOML or a configuration of the GUI is given by --preset, and names the dataset configuration.",
            code="no-dataset-config",
        )
    reading = _Reading(path, config, lines)
    for key in content.keys() - {"general", "datasets"}:
        reading.problem("", key, "unknown key.", "A dataset configuration has [general] and [[datasets]].")
    general = _table(content.get("general", {}), "general", reading)
    general = _checked(general, "general", DATASET_KEYS | SHARED_KEYS, reading)
    datasets = content.get("datasets")
    if not isinstance(datasets, list) or not datasets:
        reading.problem("", "datasets", "no dataset.", "Write [[datasets]] with [[datasets.subsets]] in it.")
        datasets = []
    specs: list[SubsetSpec] = []
    for number, raw in enumerate(datasets):
        specs += _dataset(_table(raw, f"datasets[{number}]", reading), number, general, reading)
    if reading.problems:
        raise ConfigError(reading.problems)
    return specs, list(dict.fromkeys(reading.notes))


def _table(value: object, place: str, reading: _Reading) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    reading.problem("", place, "a table is needed.")
    return {}


def _checked(table: Mapping[str, Any], place: str, allowed: frozenset[str], reading: _Reading) -> dict[str, Any]:
    """The allowed keys of a table with valid values; every other one is a problem."""
    valid = {}
    for key, value in table.items():
        if key in allowed:
            if key in _WITHOUT_EFFECT:
                reading.notes.append(f"{place}.{key} has no effect: {_WITHOUT_EFFECT[key]}.")
            if value is not None and _has_type(place, key, value, reading):
                valid[key] = value
            continue
        if key in DATASET_KEYS | SHARED_KEYS | SUBSET_KEYS:
            level = "a subset" if key in SUBSET_KEYS else "[general] or a dataset"
            reading.problem(place, key, "not allowed here.", f"It belongs into {level}.")
            continue
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f"Did you mean {near[0]}?" if near else "It is not a key of a dataset configuration."
        reading.problem(place, key, "unknown key.", hint)
    return valid


def _is_resolution(value: Any) -> bool:
    sides = value if isinstance(value, list) and len(value) == 2 else [value]
    return all(isinstance(side, int) and not isinstance(side, bool) for side in sides)


def _has_type(place: str, key: str, value: Any, reading: _Reading) -> bool:
    types, allowed = _TYPES.get(key, ((object,), ""))
    if isinstance(value, types) and (bool in types or not isinstance(value, bool) or object in types):
        return True
    reading.problem(place, key, f"{value!r} is not valid: enter {allowed}.")
    return False


def _dataset(raw: Mapping[str, Any], number: int, general: Mapping[str, Any], reading: _Reading) -> list[SubsetSpec]:
    place = f"datasets[{number}]"
    subsets = raw.get("subsets")
    outer = {key: value for key, value in raw.items() if key != "subsets"}
    outer = _checked(outer, place, DATASET_KEYS | SHARED_KEYS, reading)
    if not isinstance(subsets, list) or not subsets:
        reading.problem(place, "subsets", "no subset.", "Write [[datasets.subsets]] with image_dir.")
        return []
    tables = [_table(subset, f"{place}.subsets[{index}]", reading) for index, subset in enumerate(subsets)]
    kinds = {_kind(table) for table in tables}
    if len(kinds) > 1:
        reading.problem(
            place, "subsets", f"subsets of several kinds: {', '.join(sorted(kinds))}.",
            "Give each kind a dataset of its own.",
        )  # fmt: skip
    specs: list[SubsetSpec] = []
    seen: set[str] = set()
    for index, table in enumerate(tables):
        inner = f"{place}.subsets[{index}]"
        before = len(reading.problems)
        own = _checked(table, inner, SHARED_KEYS | SUBSET_KEYS, reading)
        valid = len(reading.problems) == before
        spec = _subset(own, inner, number, {**general, **outer, **own}, reading)
        if spec is None or not valid:
            continue
        same = spec.metadata_file or spec.image_dir
        if same in seen:
            reading.notes.append(f"{place}.subsets[{index}] is left out: {printable(same)} is in this dataset already.")
            continue
        seen.add(same)
        specs.append(spec)
    return specs


def _kind(subset: Mapping[str, Any]) -> str:
    if "conditioning_data_dir" in subset:
        return "with masks (conditioning_data_dir)"
    return "with metadata_file" if "metadata_file" in subset else "with captions next to the images"


def _subset(
    own: Mapping[str, Any], place: str, number: int, merged: Mapping[str, Any], reading: _Reading
) -> SubsetSpec | None:
    before = len(reading.problems)
    config = reading.config
    for key in PATHS:
        if key in own and (not isinstance(own[key], str) or not own[key]):
            reading.problem(place, key, "the path of a folder or file is needed.")
        elif key in own and has_controls(own[key]):
            reading.problem(place, key, f"{own[key]!r} {CONTROLS_MESSAGE}", CONTROLS_HINT)
        elif key in own and is_windows_path("dataset.dataset_config", own[key]):
            hint = "Write the path that it has on this system."
            reading.problem(place, key, f"{printable(own[key])} is a path of Windows.", hint)
    if "image_dir" not in own and "metadata_file" not in own:
        reading.problem(place, "image_dir", "required, and missing.", "Name the folder of the images.")
    if "conditioning_data_dir" in own and not config.dataset.masked_loss:
        reading.problem(place, "conditioning_data_dir", f"allowed only where {_MASK}.", "Set masked_loss = true.")
    attributes = merged.get("custom_attributes")
    if isinstance(attributes, Mapping) and attributes.get("diff_output_preservation"):
        hint = "It needs a second pass without the LoRA: use regularization images (is_reg), which keep the class too."
        reading.problem(place, "custom_attributes.diff_output_preservation", "not supported.", hint)
    if merged.get("network_multiplier", 1) != 1:
        reading.problem(place, "network_multiplier", "only 1.0 is supported.", "Use num_repeats to weigh a dataset.")
    values = {key: value for key, value in merged.items() if key in _OF_THE_TABLE and key != "class_tokens"}
    if not _is_resolution(size := values.get("resolution", 512)):
        text = "text" if isinstance(size, str) else repr(size)
        reading.problem(place, "resolution", f"{text} is not valid: enter a number or [width, height].")
        values.pop("resolution")
    batch = merged.get("batch_size", config.training.train_batch_size)
    repeats = merged.get("num_repeats", config.dataset.num_repeats or 1)
    for key, value in (("batch_size", batch), ("num_repeats", repeats)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            reading.problem(place, key, f"{value!r} is not valid: enter a whole number from 1 on.")
    tokens = merged.get("class_tokens", "")
    base = config.dataset.model_dump(exclude={"dataset_config", "in_json"})
    try:
        table = DatasetTable.model_validate({**base, **values, "num_repeats": None, "class_tokens": None})
    except ValidationError as error:
        for detail in error.errors():
            reading.problem(place, str(detail["loc"][0]) if detail["loc"] else "", sentence(detail))
        return None
    if len(reading.problems) > before:
        return None
    moving = [name for name in ("color_aug", "random_crop") if getattr(table, name)]
    moving += ["face_crop_aug_range"] if table.crops_faces else []
    if moving and config.memory.cache_latents:
        verb = "has" if len(moving) == 1 else "have"
        reason = "no effect, because latents are cached: set memory.cache_latents = false"
        reading.notes.append(f"datasets[{number}]: {' and '.join(moving)} {verb} {reason}")
    largest = config.memory.max_batch_size
    if largest is not None and batch > largest:
        reading.notes.append(f"datasets[{number}]: batch_size {batch} is cut to {largest} (memory.max_batch_size)")
        batch = largest
    return SubsetSpec(
        table, number, batch, own.get("image_dir", ""), own.get("metadata_file"), own.get("conditioning_data_dir"),
        own.get("is_reg", False), repeats, str(tokens or ""),
    )  # fmt: skip
