"""What the wizard has been told so far: a preset, what was changed in it, and where one is. Kept between starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import read_json, write_text
from engine.errors import StorageError, UsageError
from engine.paths import user_state
from engine.text import shell_line

if TYPE_CHECKING:
    from engine.config import RunConfig

FIRST_PRESET = "sd15-realistic"
OPTIONS = {
    "dataset.train_data_dir": "--images",
    "model.pretrained_model_name_or_path": "--model",
    "saving.output_name": "--name",
    "saving.output_dir": "--output_dir",
}
"""Dotted key to the option of its own that it has on the command line."""
STEP_OF = {
    "memory.device": "hardware",
    "model.pretrained_model_name_or_path": "model",
    "dataset.train_data_dir": "folders",
    "dataset.reg_data_dir": "folders",
    "dataset.validation_data_dir": "folders",
    "dataset.validation_split": "folders",
    "dataset.num_repeats": "folders",
    "dataset.class_tokens": "folders",
    "saving.output_dir": "folders",
    "saving.output_name": "folders",
}
"""Dotted key to the step where it is asked for; all others are parameters."""


STEP_NAMES = ("hardware", "model", "folders", "captions", "parameters", "review")
"""The steps of the wizard, as `tui.screens.steps` has them with their screens."""


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
    notice: str = ""
    """What was changed without being asked, until a screen has said it (`take_notice`)."""

    @classmethod
    def load(cls) -> Draft:
        """The draft of the last time; a new one when there is none, or none that can be read."""
        value = read_json(draft_path())
        known = {one.name: one for one in fields(cls)}
        draft = cls()
        for key, given in value.items() if isinstance(value, dict) else ():
            if key in known and isinstance(given, type(getattr(draft, key))):
                setattr(draft, key, given)
        if draft.step not in STEP_NAMES:  # of another version of the program
            draft.step = STEP_NAMES[0]
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

    def base(self) -> RunConfig:
        """The preset's own configuration. One that is gone or broken makes way for the first preset, which is noted."""
        from engine.config import RunConfig

        for name in dict.fromkeys((self.preset, FIRST_PRESET)):
            try:
                found = _preset(name)
            except UsageError as error:
                self.note(f"The preset {name} cannot be used: {error.message}")
            else:
                if name != self.preset:
                    self.note(f"{name} takes its place.")
                    self.preset = name
                return found
        return RunConfig()

    @property
    def in_the_making(self) -> bool:
        """Whether beginning anew would lose something: not after a run was started with just these settings."""
        return bool(self.values or self.done) and self.extras.get("started") != self._settings()

    def mark_started(self) -> None:
        """A run was started with the settings as they are; they stay, to begin the next one with."""
        self.extras["started"] = self._settings()

    def _settings(self) -> str:
        return json.dumps([self.preset, self.values], sort_keys=True, default=str)

    def get(self, key: str) -> Any:
        """The value that a run would have now; the preset's where nothing was set."""
        if key in self.values:
            return self.values[key]
        table, _, name = key.partition(".")
        return getattr(getattr(self.base(), table), name)

    def set(self, key: str, value: Any) -> None:
        """Note a value; one that equals the preset's is forgotten."""
        self.values.pop(key, None)
        if self.get(key) != value:
            self.values[key] = value

    def config(self, **changed: Any) -> RunConfig:
        """The configuration so far, with `changed` keys (dots as double underscores) on trial.

        Raises:
            ConfigError: values that cannot be.
        """
        from engine.config import load_config

        self.base()
        self._forget_unknown()
        trial = {key.replace("__", "."): value for key, value in changed.items()}
        return load_config(self.preset, (), {key: (key, value) for key, value in {**self.values, **trial}.items()})

    def without_parameters(self) -> RunConfig:
        """What the run would be if nothing had been changed in the step Parameters.

        Raises:
            ConfigError: values that cannot be.
        """
        from engine.config import load_config

        self.base()
        answered = {key: (key, value) for key, value in self.values.items() if key in STEP_OF}
        return load_config(self.preset, (), answered)

    def choose_preset(self, preset: str) -> list[str]:
        """Take another preset and keep what was set, and all that a step was left with, which is no preset's business.

        Returns:
            The dotted keys of the parameters that were kept.

        Raises:
            UsageError: it cannot be read; nothing was changed.
        """
        _preset(preset)
        if Path(self.preset).is_file():  # a run's own file, or one of Kohya's, which has the paths too
            self.values = {**{key: value for key in STEP_OF if (value := self.get(key))}, **self.values}
        answered = {key: self.get(key) for key, step in STEP_OF.items() if step in self.done and step != "hardware"}
        self.values = {**answered, **self.values}
        self.preset = preset
        for key, value in list(self.values.items()):
            self.set(key, value)
        return [key for key in self.values if key not in STEP_OF]

    def rebase(self, preset: str, config: RunConfig) -> None:
        """Stand on another preset and mean `config` all the same.

        Raises:
            UsageError: the preset cannot be read; nothing was changed.
        """
        _preset(preset)
        self.preset = preset
        for table, values in config.model_dump().items():
            for key, value in values.items():
                self.set(f"{table}.{key}", value)

    def command(self) -> str:
        """The command line that starts the same run without a screen."""
        return shell_line(self.command_words())

    def command_words(self) -> list[str]:
        """The same, before a shell reads it."""
        from engine.config.load import written

        words = ["lorasmith", "--preset", self.preset]
        typed = {key: value for key in OPTIONS if isinstance(value := self.values.get(key), str) and value}
        for key, value in typed.items():
            words += [OPTIONS[key], value]
        rest = {key: self.values[key] for key in set(self.values) - set(typed)}
        if "folders.name" in self.extras and Path(self.preset).is_file() and not self.get("dataset.class_tokens"):
            rest["dataset.class_tokens"] = None  # chosen in Folders; --name alone may keep the word of the captions
        for key in sorted(rest):
            words += ["--set", f"{key}={written(rest[key])}"]
        return words

    def take_notice(self) -> str:
        """What was changed without being asked, to be said now; empty the next time."""
        notice, self.notice = self.notice, ""
        return notice

    def note(self, sentence: str) -> None:
        """Keep something that was changed without being asked, until a screen has said it."""
        if sentence not in self.notice:
            self.notice = f"{self.notice} {sentence}".strip()

    def _forget_unknown(self) -> None:
        """Settings of another version of the program."""
        from engine.config.problems import keys

        known = keys()
        for key in list(self.values):
            table, _, name = key.partition(".")
            if name not in known.get(table, ()):
                del self.values[key]
                self.note(f"{key} is no setting of this version and is forgotten.")

    def begin_anew(self, values: Mapping[str, Any] | None = None, preset: str = FIRST_PRESET) -> None:
        """Forget everything, or take over the values of another run."""
        fresh = Draft(preset=preset, values=dict(values or {}))
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))


def draft_path() -> Path:
    """Where the draft is kept."""
    return user_state() / "draft.json"


_presets: dict[str, RunConfig] = {}


def _preset(name: str) -> RunConfig:
    """The preset's configuration, read once.

    Raises:
        UsageError: there is none of that name, or it cannot be read.
    """
    from engine.config import load_config

    if name not in _presets:
        _presets[name] = load_config(name)
    return _presets[name]


def forget_presets() -> None:
    """Read presets anew: one was written."""
    _presets.clear()
