"""The configuration of a run from options on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.paths import expanded
from tui.setup.demo import DEMO, with_demo_paths
from tui.setup.user_config import effective_defaults, read_user_config, user_config_path

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.families.base import Family

OPTIONS = {
    "images": ("--images", "dataset.train_data_dir"),
    "dataset_config": ("--dataset_config", "dataset.dataset_config"),
    "model": ("--model", "model.pretrained_model_name_or_path"),
    "name": ("--name", "saving.output_name"),
    "output_dir": ("--output_dir", "saving.output_dir"),
}
"""Parameter to (the option as typed, the key that it sets)."""


def read(preset: str, overrides: Sequence[str] = (), **typed: str | None) -> RunConfig:
    """The configuration of a preset with the typed options; an option that was not typed changes nothing.

    Raises:
        UsageError: something in it is wrong, or a model, images or a name are missing.
    """
    from engine.config import load_config, require_paths

    options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
    config = load_config(preset, overrides, options, read_user_config().beneath(preset))
    if preset == DEMO:
        config = with_demo_paths(config)
    require_paths(config)
    if typed.get("output_dir") is None:
        config = own_folder(preset, overrides, config)
    return keep_trigger(preset, overrides, config)


def own_folder(preset: str, overrides: Sequence[str], config: RunConfig) -> RunConfig:
    """Where a run's file is used under another name, let that run have a folder of its own, not the earlier run's.

    A folder that a file names for every run, as Kohya's do, stays.
    """
    from engine.config import load_config
    from engine.config.presets import find_preset
    from engine.runs.layout import CURRENT

    saving, chosen = load_config(preset).saving, {text.partition("=")[0].strip() for text in overrides}
    if saving.output_name in ("", config.saving.output_name) or not saving.output_dir:
        return config
    directory = expanded(saving.output_dir)
    is_project = (directory.name, directory.parent.name) == (CURRENT, saving.output_name)
    is_there = find_preset(preset).absolute().parent == directory.absolute()
    if "saving.output_dir" in chosen or not (is_project or is_there):
        return config
    return config.changed(saving={"output_dir": ""})


def from_options(
    preset: str,
    overrides: Sequence[str] = (),
    *,
    on_oom: str | None = None,
    early_stop: bool = False,
    kohya_exact: bool = False,
    **typed: str | None,
) -> RunConfig:
    """The configuration of `lorasmith --preset` with its options; see `read`.

    Raises:
        UsageError: as `read`.
    """
    short = {
        "memory.on_oom": on_oom,
        "training.early_stop": "true" if early_stop else None,
        "training.kohya_exact": "true" if kohya_exact else None,
    }
    settings = [f"{key}={value}" for key, value in short.items() if value]
    return read(preset, (*overrides, *settings), **typed)


def remarks(preset: str, config: RunConfig, name: str | None) -> list[str]:
    """What a person should know about a configuration from options, each with its kind: "note: ...".

    Args:
        name: as it was typed.
    """
    from engine.config.load import conversion_notes

    notes = (defaults_note(preset, config), another_trigger(config, name))
    unfit = of_another_family(preset, config)
    return [
        *conversion_notes(preset, exact=config.training.kohya_exact),
        *(f"note: {text}" for text in notes if text),
        *([f"warning: {unfit}"] if unfit else []),
    ]


def keep_trigger(preset: str, overrides: Sequence[str], config: RunConfig) -> RunConfig:
    """Keep the trigger word where a run's file is used under another name, and the captions hold the old name."""
    from engine.config import load_config
    from engine.dataset.caption_files import has_word, list_captions
    from engine.dataset.trigger import kept_trigger
    from engine.errors import DataError

    old, new, folder = load_config(preset).saving.output_name, config.saving.output_name, config.dataset.train_data_dir
    chosen = {text.partition("=")[0].strip() for text in overrides}
    if old in ("", new) or not folder or config.dataset.class_tokens or "dataset.class_tokens" in chosen:
        return config
    try:
        files = list_captions(Path(folder), config.dataset.caption_extension)
    except DataError:  # the check of the images reports it
        return config
    if sum(has_word(file.text or "", old) - has_word(file.text or "", new) for file in files) <= 0:
        return config
    for dotted, value in kept_trigger(config.changed(saving={"output_name": old})).items():
        table, _dot, key = dotted.partition(".")
        config = config.changed(**{table: {key: value}})
    return config


def defaults_note(preset: str, config: RunConfig) -> str | None:
    """A sentence with the settings of this run that come from the person's own file; None without any."""
    from engine.config.literals import written
    from engine.text import printable

    values = {key: value for key, value in effective_defaults(preset).items() if config.value(key) == value}
    if not values:
        return None
    texts = ", ".join(f"{key}={written(value)}" for key, value in values.items())
    return f"From {printable(user_config_path())}: {printable(texts)}"


def another_trigger(config: RunConfig, name: str | None) -> str | None:
    """A sentence where --name is not the trigger word as well."""
    from engine.text import printable

    if name is None or config.trigger == name:
        return None
    return (
        f"The trigger word is {printable(config.trigger)}, as in the preset or file; --name names the output only. For "
        "another word: --set dataset.class_tokens=WORD"
    )


def read_partly(preset: str | None, overrides: Sequence[str] = (), **typed: str | None) -> RunConfig:
    """Like `read`, but model, images and name may be missing; a shipped preset's name sets its family.

    Raises:
        UsageError: something in it is wrong.
    """
    from engine.config import load_config

    options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
    config = load_config(preset, overrides, options, read_user_config().beneath(preset))
    if preset == DEMO:
        return with_demo_paths(config)
    family = _named_family(preset or "")
    if family is not None and config.model.family == "auto" and not config.model.pretrained_model_name_or_path:
        return config.changed(model={"family": family.name})
    return config


def _named_family(preset: str) -> Family | None:
    from engine.families.registry import families

    return next((family for family in families() if preset.startswith(family.name)), None)


def of_another_family(preset: str, config: RunConfig) -> str | None:
    """A sentence where a shipped preset is made for another family than the model's; None also where the model cannot
    be read, which is reported later."""
    from engine.config import list_presets
    from engine.errors import LoraSmithError
    from engine.families.registry import family_named, recognise

    shipped = [entry.name for entry in list_presets() if entry.shipped]
    intended = _named_family(preset) if preset in shipped else None
    if intended is None:
        return None
    try:
        real = family_named(recognise(config.model.pretrained_model_name_or_path).family)
    except LoraSmithError:
        return None
    if real.name == intended.name:
        return None
    suitable = ", ".join(name for name in shipped if name.startswith(real.name))
    return (
        f"The preset {preset} is made for {intended.spec.title}, and this model is {real.spec.title}: learning rate, "
        f"resolution and steps are not meant for it. Presets for it: {suitable}."
    )
