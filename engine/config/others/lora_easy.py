"""LoRA_Easy_Training_Scripts' TOML: a table for each of its tabs, and the subsets of images (facts: derrian-distro's
two repositories, `MainUI.py` and `utils/validation.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.conversion import Conversion, Rule
from engine.config.kohya.argument_values import number_of
from engine.config.others.folders import Folder, put_folders
from engine.config.others.kohya_like import converted, drop_empty, settings_list
from engine.config.others.source import Source, other_model, other_training
from engine.config.others.table import KINDS, Key, Reading, all_of, brief, flat, honoured, ignored, refused, together
from engine.config.problems import Problem

NAME = "LoRA_Easy_Training_Scripts"
TABS = (
    "general_args", "network_args", "optimizer_args", "saving_args", "bucket_args", "noise_args", "sample_args",
    "logging_args", "flux_args", "extra_args", "textual_inversion_args",
)  # fmt: skip
OTHER_TABS = {"anima_args": "Anima", "sd3_args": "Stable Diffusion 3", "lumina_args": "Lumina 2",
              "hunyuan_args": "HunyuanImage"}  # fmt: skip
"""Tabs of the program's versions for other models."""
_MODES = {"textual_inversion": "textual inversion, which trains an embedding"}
_FILES = ignored("it writes another file: the run keeps its own configuration")

OWN_KEYS: dict[str, Key] = {
    "sdxl": honoured("model.family", "flag", "sdxl"),
    "warmup_ratio": honoured("training.lr_warmup_steps", "number", "a share of all steps"),
    "network_args": together("network", "table", "as Kohya's network_args"),
    "optimizer_args": together("training.optimizer_args", "table"),
    "lr_scheduler_args": together("training.lr_scheduler_args", "table"),
    "fa": refused("LoRA-FA is not supported: switch it off", False),
    **all_of(_FILES, "save_toml save_toml_location tag_occurrence tag_file_location"),
}  # fmt: skip
"""Keys that are no arguments of Kohya's scripts."""
SUBSET: dict[str, Key] = {
    "image_dir": together("dataset.train_data_dir", "path", "several subsets are a dataset configuration"),
    "num_repeats": honoured("dataset.num_repeats", "integer", default=1),
    "caption_extension": honoured("dataset.caption_extension", "text"),
    "name": ignored("a name in the window"),
    "is_reg": together("", "flag", "a subset with is_reg"),
    "face_crop_aug_range": refused("crop the faces beforehand, or leave it out: buckets keep shapes", []),
    **{
        key: honoured(f"dataset.{key}", kind)
        for kind, names in (
            ("flag", "shuffle_caption flip_aug color_aug random_crop enable_wildcard alpha_mask"),
            ("integer", "keep_tokens caption_dropout_every_n_epochs token_warmup_min"),
            ("number", "caption_dropout_rate caption_tag_dropout_rate token_warmup_step"),
            ("text", "caption_separator keep_tokens_separator secondary_separator caption_prefix caption_suffix "
                     "class_tokens"),
        )
        for key in names.split()
    },
    "masks_dir": refused("name the folder of the masks as dataset.conditioning_data_dir in a preset"),
    "is_val": refused("validation images are a folder of their own: dataset.validation_data_dir in a preset", False),
}  # fmt: skip
GENERAL: dict[str, Key] = {
    "resolution": together("dataset.resolution", ""),
    "batch_size": together("training.train_batch_size", "integer", default=1),
    "max_token_length": together("model.max_token_length", "integer", "in older files"),
    **{
        key: honoured(f"dataset.{key}", kind)
        for kind, names in (
            ("flag", "enable_bucket bucket_no_upscale"),
            ("integer", "min_bucket_reso max_bucket_reso bucket_reso_steps"),
            ("text", "keep_tokens_separator"),
        )
        for key in names.split()
    },
}  # fmt: skip
"""Of dataset_args, in any tab."""


def recognise(source: Source) -> bool:
    """Whether a file has the tables of the program's tabs."""
    tabs = [key for key in source.table if key in TABS or key in OTHER_TABS]
    parts = [key for key in tabs if _is_tab(source.table[key])]
    subsets = isinstance(source.table.get("subsets"), list)
    return bool(parts) or (subsets and (bool(tabs) or "train_mode" in source.table or set(source.table) == {"subsets"}))


def _is_tab(value: Any) -> bool:
    return isinstance(value, dict) and bool({"args", "dataset_args"} & value.keys())


def convert(source: Source) -> Conversion:
    """The configuration.

    Raises:
        UsageError: it is for another model, or trains something else.
    """
    _require_lora(source)
    report = Conversion("configuration", NAME)
    arguments = _merged(source, report, "args")
    if (mode := source.table.get("train_mode")) not in (None, "", {}):
        report.record("train_mode", "lora" if isinstance(mode, dict) else brief(mode), Rule("honoured", "", "a LoRA"))
    family = _family(source, arguments)
    network = _network(arguments, report, family)
    _warmup(arguments, report)
    for key in [key for key in OWN_KEYS if key in arguments]:
        _own_key(key, arguments.pop(key), report)
    kept, unset, entries = drop_empty(arguments, {}, NAME)
    elsewhere = _elsewhere(source)
    if "lr_scheduler_type" in kept and "lr_scheduler" in kept:
        text = "lr_scheduler_type decides"
        report.record("lr_scheduler", kept.pop("lr_scheduler"), Rule("no effect", "", text))
        elsewhere.add("lr_scheduler")
    conversion = converted({**kept, **network}, NAME, family, elsewhere=elsewhere)
    made = {
        "network_module",
        *(["lr_warmup_steps"] if "warmup_ratio" in {entry.key for entry in report.entries} else []),
    }
    conversion.entries = [
        *report.entries, *entries,
        *(entry for entry in conversion.entries if entry.key not in made or entry.status == "not supported"),
    ]  # fmt: skip
    conversion.problems = [*report.problems, *conversion.problems]
    conversion.unset = [*report.unset, *unset]
    _images(source, conversion)
    conversion.place(source.name, _lines(source))
    return conversion


def _require_lora(source: Source) -> None:
    for tab, model in OTHER_TABS.items():
        if source.table.get(tab):
            raise other_model(source, NAME, model)
    mode = source.table.get("train_mode")
    mode = mode.get("train_mode") if isinstance(mode, dict) else mode
    if mode not in (None, "", "lora"):
        raise other_training(source, NAME, _MODES.get(str(mode), f"the mode {brief(mode)}"))


def _merged(source: Source, report: Conversion, part: str) -> dict[str, Any]:
    """The keys of one part of all tabs; the last tab counts, as in the program."""
    merged: dict[str, Any] = {}
    for key, value in _arguments(source, report, part):
        if merged.get(key, value) != value:
            report.record(key, brief(merged[key]), Rule("no effect", "", "another tab has this key too"))
        merged[key] = value
    return merged


def _arguments(source: Source, report: Conversion, part: str) -> Iterator[tuple[str, Any]]:
    """The keys of one part, "args" or "dataset_args", of every tab."""
    for tab, value in source.table.items():
        if tab in ("subsets", "train_mode"):
            continue
        if not isinstance(value, dict):
            if part == "args":
                _foreign(tab, value, report)
            continue
        if part == "args" and tab not in TABS:
            _foreign(tab, value, report)
            continue
        inner = value.get(part)
        for key in value.keys() - {"args", "dataset_args"} if part == "args" else ():
            _foreign(f"{tab}.{key}", value[key], report)
        if isinstance(inner, dict):
            if tab == "textual_inversion_args" and part == "args":
                for key, text in inner.items():
                    report.record(key, brief(text), Rule("no effect", "", "for textual inversion"))
                continue
            yield from inner.items()
        elif inner not in (None, "", []):
            message = f"{brief(repr(inner))} is not valid: enter a table."
            report.problems.append(Problem("", f"{tab}.{part}", message))


def _foreign(key: str, value: Any, report: Conversion) -> None:
    import difflib

    near = difflib.get_close_matches(key, TABS, n=1, cutoff=0.7)
    meant = f"; did you mean {near[0]}?" if near else ""
    if value in ({}, None, ""):
        report.unset.append(key)
        return
    report.record(key, brief(value), Rule("no effect", "", f"no table of {NAME} that is known here{meant}"))


def _family(source: Source, arguments: Mapping[str, Any]) -> str:
    flux = source.table.get("flux_args")
    if isinstance(flux, dict) and flux.get("args"):
        return "flux"
    return "sdxl" if KINDS["flag"][0](arguments.get("sdxl")) else "sd15"


def _network(arguments: dict[str, Any], report: Conversion, family: str) -> dict[str, Any]:
    """The arguments for the kind of adapter; they leave `arguments`."""
    network: dict[str, Any] = {}
    table = arguments.pop("network_args", {}) or {}
    module = "networks.lora_flux" if family == "flux" else "networks.lora"
    if isinstance(table, dict):
        settings = {key: value for key, value in table.items() if value not in (None, "", False, [])}
        report.unset += [f"network_args {key}" for key in table if key not in settings]
        module = "lycoris.kohya" if "algo" in settings else "networks.dylora" if "unit" in settings else module
        network["network_args"] = settings_list(settings)
    else:
        message = f"{brief(repr(table))} is not valid: enter a table."
        report.problems.append(Problem("", "network_args", message))
    network["network_module"] = module
    for key in ("optimizer_args", "lr_scheduler_args"):
        table = arguments.pop(key, {}) or {}
        if isinstance(table, dict):
            network[key] = settings_list(table)
        else:
            report.problems.append(Problem("", key, f"{brief(repr(table))} is not valid: enter a table."))
    return network


def _warmup(arguments: dict[str, Any], report: Conversion) -> None:
    """warmup_ratio: a share of all steps."""
    raw = arguments.pop("warmup_ratio", None)
    if raw in (None, 0, ""):
        return
    share = number_of(raw)
    if share is None or not 0 <= share < 1:
        message = f"{brief(repr(raw))} is not valid: enter a share below 1."
        report.problems.append(Problem("", "warmup_ratio", message))
    elif arguments.get("lr_scheduler") == "constant":
        report.record("warmup_ratio", raw, Rule("no effect", "", "the schedule constant has no warm-up"))
    else:
        rule = Rule("honoured", "training.lr_warmup_steps", "a share of all steps")
        report.record("warmup_ratio", raw, rule)
        arguments["lr_warmup_steps"] = share


def _elsewhere(source: Source) -> set[str]:
    """The arguments of the scripts that dataset_args or the subsets have."""
    tables = [tab.get("dataset_args") for tab in source.table.values() if isinstance(tab, dict)]
    subsets = source.table.get("subsets")
    tables += subsets if isinstance(subsets, list) else []
    names = {str(key) for table in tables if isinstance(table, dict) for key in table}
    return names | ({"train_batch_size"} if "batch_size" in names else set())


def _own_key(key: str, value: Any, report: Conversion) -> None:
    """A key that is no argument of the scripts."""
    row = OWN_KEYS[key]
    if value in (None, "", False, 0):
        report.unset.append(key)
    else:
        report.record(key, brief(value), row.rule)


def _images(source: Source, conversion: Conversion) -> None:
    """The subsets, with the settings of dataset_args for all of them."""
    level = Conversion("", NAME)
    content = _merged(source, level, "dataset_args")
    general = Reading(NAME, GENERAL, flat(content, GENERAL, level), level)
    general.convert()
    _resolution(general)
    length = general.get("max_token_length")
    if length not in (None, 75):
        general.use("max_token_length", "model.max_token_length", length)
        conversion.set("model.max_token_length", length, "max_token_length")
    batch = general.get("batch_size") or 1
    if general.has("batch_size"):
        general.use("batch_size", "training.train_batch_size", batch)
    general.rest()
    shared = level.values.get("dataset", {})
    subsets = source.table.get("subsets")
    folders = []
    if subsets is not None and not isinstance(subsets, list):
        conversion.problems.append(Problem("", "subsets", f"{brief(repr(subsets))} is not valid: enter a list."))
    for place, item in enumerate(subsets if isinstance(subsets, list) else []):
        folder = _subset(item, place, level)
        if folder is not None:
            folders.append(Folder(
                folder.image_dir, folder.source, {**shared, **folder.settings}, batch, folder.is_reg,
                {**level.sources, **folder.sources},
            ))  # fmt: skip
    conversion.entries += level.entries
    conversion.problems += level.problems
    conversion.unset += level.unset
    conversion.sources |= level.sources
    if not folders:
        for key, value in shared.items():
            conversion.set(f"dataset.{key}", value, level.sources.get(f"dataset.{key}", ""))
        conversion.set("training.train_batch_size", batch, "batch_size")
    put_folders(conversion, folders, source.path)


def _resolution(general: Reading) -> None:
    """A side, or width and height."""
    raw = general.get("resolution")
    if raw is None:
        return
    sides = raw if isinstance(raw, list) else [raw]
    numbers = [KINDS["integer"][0](side) for side in sides]
    if len(sides) not in (1, 2) or not all(numbers):
        message = f"{brief(repr(raw))} is not valid: enter a side, or [width, height]."
        general.conversion.problems.append(Problem("", "resolution", message))
    else:
        general.use("resolution", "dataset.resolution", numbers if len(numbers) == 2 else numbers[0])


def _subset(item: Any, place: int, level: Conversion) -> Folder | None:
    """One subset; its keys are reported with its number."""
    prefix = f"subsets[{place}]."
    if not isinstance(item, dict):
        level.problems.append(Problem("", prefix.rstrip("."), f"{brief(repr(item))} is not valid: enter a table."))
        return None
    own = Conversion("", NAME)
    content = {key: value for key, value in item.items() if value not in (False, 0, [])}
    dropped = [f"{prefix}{key}" for key in item.keys() - content.keys()]
    reading = Reading(NAME, SUBSET, flat(content, SUBSET, own, prefix), own, prefix=prefix)
    reading.convert()
    folder = reading.get("image_dir")
    if folder is None and not reading.has("image_dir"):
        own.problems.append(Problem("", f"{prefix}image_dir", "required, and missing: the folder of the images."))
    elif folder is not None:
        reading.record("image_dir", "honoured", "", "dataset.train_data_dir")
    is_reg = bool(reading.get("is_reg"))
    if is_reg:
        reading.record("is_reg", "honoured", "a subset with is_reg")
    reading.rest()
    level.entries += own.entries
    level.problems += own.problems
    level.unset += [*own.unset, *sorted(dropped)]
    return Folder(folder or "", f"{prefix}image_dir", own.values.get("dataset", {}), 1, is_reg, own.sources)


def _lines(source: Source) -> dict[str, int]:
    """The line of each key, by the name that the report has for it."""
    lines: dict[str, int] = {}
    for path, line in source.lines.items():
        if path[:1] == ("subsets",) and len(path) > 1:
            lines[f"subsets[{path[1]}]{''.join(f'.{part}' for part in path[2:])}"] = line
        elif len(path) > 1:
            lines.setdefault(str(path[-1]) if len(path) > 2 else ".".join(map(str, path)), line)
            if len(path) == 4:
                lines[f"{path[2]} {path[3]}"] = line
        else:
            lines[str(path[0])] = line
    return lines
