"""The user's own presets: configurations without the settings of a single run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomlkit

from engine.atomic import write_text
from engine.config.foreign import conversion_of
from engine.config.form import PROMPT_FILES
from engine.config.presets import find_preset
from engine.config.schema import RunConfig
from engine.config.write import update_toml
from engine.errors import UsageError, storing
from engine.paths import user_config
from engine.reading import read_script
from engine.text import printable

PERSONAL = (
    "model.pretrained_model_name_or_path", "model.vae", "model.base_weights", "model.base_weights_multiplier",
    "dataset.train_data_dir", "dataset.in_json", "dataset.reg_data_dir", "dataset.validation_data_dir",
    "dataset.dataset_config", "dataset.conditioning_data_dir", "dataset.class_tokens", "dataset.num_repeats",
    "network.network_weights", "network.dim_from_weights", "training.changes", "memory.cache_dir", "saving.output_dir",
    "saving.output_name",
)  # fmt: skip
"""Paths, and settings of one folder of images or one run: not in a preset."""
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def own_preset_path(name: str) -> Path:
    """The file of an own preset.

    Raises:
        UsageError: an invalid name.
    """
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise UsageError(
            f"The name {printable(name)!r} cannot be a preset's.",
            "Letters, digits, -, _ and dots.",
            code="preset-name-not-possible",
        )
    return user_config() / "presets" / f"{name}.toml"


def preset_name(text: str) -> str:
    """`text` with hyphens instead of all characters that a preset's name cannot have."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.")[:100] or "preset"


def preset_text(base: str, config: RunConfig, title: str) -> str:
    """The text of a preset: that of the preset or file `base`, comments included, with the values of `config`.

    Raises:
        UsageError: `base` cannot be read.
    """
    path = find_preset(base)
    try:
        text = read_script(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The preset {printable(path)} cannot be read: {error}.", code="preset-unreadable") from None
    if conversion_of(path, text) is not None:
        text = ""
    personal = [dotted.split(".") for dotted in PERSONAL]
    prompts = config.sampling.sample_prompts
    if isinstance(prompts, str) and prompts.lower().endswith(PROMPT_FILES):
        personal.append(["sampling", "sample_prompts"])
    defaults, changes = RunConfig(), dict[str, dict[str, Any]]()
    for table, key in personal:
        changes.setdefault(table, {})[key] = getattr(getattr(defaults, table), key)
    document = tomlkit.parse(update_toml(_retitled(text, title), config.changed(**changes)))
    for table, key in personal:
        if table in document:
            document[table].pop(key, None)
    return tomlkit.dumps(document)


def _retitled(text: str, title: str) -> str:
    """The first comment line is a preset's title; the lines right after it describe it."""
    first, _, rest = text.partition("\n")
    return f"# {title}\n{rest}" if first.startswith("#") else f"# {title}\n\n{text}"


def save_preset(name: str, base: str, config: RunConfig, title: str, *, overwrite: bool = False) -> Path:
    """Write an own preset; returns its file.

    Raises:
        UsageError: an invalid name, or one that exists while `overwrite` is off.
        StorageError: it cannot be written.
    """
    path = own_preset_path(name)
    if path.exists() and not overwrite:
        raise UsageError(f"There is a preset {name} already: {path}.", "Choose another name.", code="preset-exists")
    with storing(path.parent, "Making"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, preset_text(base, config, title))
    return path
