"""What the wizard has been told so far: a preset, what was changed in it, and where one is. Kept between starts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import read_json, write_text
from engine.errors import StorageError
from engine.paths import user_state

if TYPE_CHECKING:
    from engine.config import RunConfig

FIRST_PRESET = "sd15-realistic"


@dataclass
class Draft:
    """A run in the making. Every screen reads and writes this one object; `save` after each step."""

    preset: str = FIRST_PRESET
    """A preset's name, or the path of a configuration."""
    values: dict[str, Any] = field(default_factory=dict)
    """Dotted key ("training.unet_lr") to the value that differs from the preset; None leaves the key unset."""
    step: str = "hardware"
    """Name of the step where one is."""
    done: list[str] = field(default_factory=list)
    """Steps that were left forwards."""
    extras: dict[str, Any] = field(default_factory=dict)
    """What belongs to the wizard and to no configuration: "folders.place", "folders.take_in", ..."""

    @classmethod
    def load(cls) -> Draft:
        """The draft of the last time; a new one when there is none, or none that can be read."""
        value = read_json(draft_path())
        known = {one.name: one for one in fields(cls)}
        draft = cls()
        for key, given in value.items() if isinstance(value, dict) else ():
            if key in known and isinstance(given, type(getattr(draft, key))):
                setattr(draft, key, given)
        return draft

    def save(self) -> str | None:
        """Keep it for the next start; a sentence when that is not possible."""
        path = draft_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(asdict(self), indent=1))
        except (OSError, StorageError) as error:
            return f"The wizard's state is not kept for the next start: {error}"
        return None

    def get(self, key: str) -> Any:
        """The value that a run would have now; the preset's where nothing was set. None where that is broken."""
        if key in self.values:
            return self.values[key]
        table, _, name = key.partition(".")
        return getattr(getattr(_preset(self.preset), table), name)

    def set(self, key: str, value: Any) -> None:
        """Note a value; one that equals the preset's is forgotten."""
        self.values.pop(key, None)
        if self.get(key) != value:
            self.values[key] = value

    def config(self, **changed: Any) -> RunConfig:
        """The configuration so far, with `changed` keys (dots as double underscores) on trial.

        Raises:
            ConfigError: values that cannot be.
            UsageError: no such preset.
        """
        from engine.config import load_config

        trial = {key.replace("__", "."): value for key, value in changed.items()}
        return load_config(self.preset, (), {key: (key, value) for key, value in {**self.values, **trial}.items()})

    def command(self) -> str:
        """The command line that starts the same run without a screen."""
        options = {"dataset.train_data_dir": "--images", "model.pretrained_model_name_or_path": "--model",
                   "saving.output_name": "--name", "saving.output_dir": "--output_dir"}  # fmt: skip
        words = ["lorasmith", "--preset", self.preset]
        for key, option in options.items():
            if self.values.get(key):
                words += [option, str(self.values[key])]
        for key in sorted(set(self.values) - set(options)):
            words += ["--set", f"{key}={written(self.values[key])}"]
        return shlex.join(words)

    def begin_anew(self, values: Mapping[str, Any] | None = None, preset: str = FIRST_PRESET) -> None:
        """Forget everything, or take over the values of another run."""
        fresh = Draft(preset=preset, values=dict(values or {}))
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))


def written(value: Any) -> str:
    """A value as `--set` takes it: TOML, or bare text where that means the same."""
    from engine.config.load import parse_value

    if value is None:
        return "none"
    if isinstance(value, str):
        return value if parse_value(value) == value else json.dumps(value, ensure_ascii=False)
    return json.dumps(value, ensure_ascii=False)


def draft_path() -> Path:
    """Where the draft is kept."""
    return user_state() / "draft.json"


_presets: dict[str, RunConfig] = {}


def _preset(name: str) -> RunConfig:
    """The preset's configuration, read once."""
    from engine.config import load_config

    if name not in _presets:
        _presets[name] = load_config(name)
    return _presets[name]
