"""From what was typed to the configuration of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.paths import ASSETS

if TYPE_CHECKING:
    from engine.config import RunConfig

DEMO = "demo"
OPTIONS = {
    "images": ("--images", "dataset.train_data_dir"),
    "dataset_config": ("--dataset_config", "dataset.dataset_config"),
    "model": ("--model", "model.pretrained_model_name_or_path"),
    "name": ("--name", "saving.output_name"),
    "output_dir": ("--output_dir", "saving.output_dir"),
}
"""Parameter to (the option as typed, the key that it sets)."""


def read(preset: str, overrides: Sequence[str] = (), **typed: str | None) -> RunConfig:
    """The configuration of a preset with what was typed; an option that was not typed changes nothing.

    Raises:
        UsageError: something in it is wrong, or a model, pictures or a name are missing.
    """
    from engine.config import load_config, require_paths

    options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
    config = load_config(preset, overrides, options)
    if preset == DEMO:
        config = _with_demo_paths(config)
    require_paths(config)
    return config


def _with_demo_paths(config: RunConfig) -> RunConfig:
    """The preset demo needs nothing else: the model and the pictures that come with the program."""
    defaults = {
        ("model", "pretrained_model_name_or_path"): str(ASSETS / "demo_base"),
        ("dataset", "train_data_dir"): str(ASSETS / "demo_pictures"),
        ("saving", "output_name"): DEMO,
    }
    if not config.dataset.train_data_dir:
        defaults["dataset", "validation_data_dir"] = str(ASSETS / "demo_heldout")
    changes: dict[str, dict[str, str]] = {}
    for (table, key), value in defaults.items():
        if not getattr(getattr(config, table), key):
            changes.setdefault(table, {})[key] = value
    return config.changed(**changes)


def read_partly(preset: str | None, overrides: Sequence[str] = (), **typed: str | None) -> RunConfig:
    """The same where model, pictures and name may be missing; a shipped preset names its family by its own name.

    Raises:
        UsageError: something in it is wrong.
    """
    from engine.config import load_config
    from engine.models.registry import families

    options = {OPTIONS[key][1]: (OPTIONS[key][0], value) for key, value in typed.items() if value is not None}
    config = load_config(preset, overrides, options)
    if preset == DEMO:
        return _with_demo_paths(config)
    named = next((family.name for family in families() if (preset or "").startswith(family.name)), None)
    if named is not None and config.model.family == "auto" and not config.model.pretrained_model_name_or_path:
        return config.changed(model={"family": named})
    return config
