"""The state of the wizard: a preset, what was changed in it, and the current step. Kept between starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.atomic import read_json, write_text
from engine.errors import StorageError, UsageError
from engine.paths import user_state
from engine.text import printable, shell_line
from tui.setup.user_config import read_user_config
from tui.texts import _

if TYPE_CHECKING:
    from engine.config import RunConfig

FIRST_PRESET = "sd15-realistic"
_CHANGES = "training.changes"
EPOCHS, STEPS = "training.max_train_epochs", "training.max_train_steps"
"""The length of a run; where epochs are set, the steps are not used."""
OPTIONS = {
    "dataset.train_data_dir": "--images",
    "model.pretrained_model_name_or_path": "--model",
    "saving.output_name": "--name",
    "saving.output_dir": "--output_dir",
}
"""Dotted key to its own option on the command line."""
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
"""Dotted key to the step where it is entered; all others are parameters."""


STEP_NAMES = ("hardware", "model", "folders", "captions", "parameters", "review")
"""The steps of the wizard, as `tui.screens.steps` has them with their screens."""


@dataclass
class Draft:
    """An unfinished setup of a run. Every screen reads and writes this one object; `save` after each step."""

    preset: str = FIRST_PRESET
    """A preset's name, or the path of a configuration."""
    values: dict[str, Any] = field(default_factory=dict)
    """Dotted key ("training.unet_lr") to the value that differs from the preset; None leaves the key unset."""
    step: str = "hardware"
    """Name of the current step."""
    done: list[str] = field(default_factory=list)
    """Steps that were left forwards."""
    extras: dict[str, Any] = field(default_factory=dict)
    """State of the wizard that is no setting: "folders.place", "folders.take_in", ..."""
    notice: str = ""
    """Automatic changes that no screen has shown yet (`take_notice`)."""

    @classmethod
    def load(cls) -> Draft:
        """The draft of the last time; a new one when there is none, or none that can be read."""
        value = read_json(draft_path())
        names = {entry.name for entry in fields(cls)}
        draft = cls()
        for key, stored in value.items() if isinstance(value, dict) else ():
            if key in names and isinstance(stored, type(getattr(draft, key))):
                setattr(draft, key, stored)
        if draft.values:
            draft._rename()
        if draft.step not in STEP_NAMES:  # of another version of the program
            draft.step = STEP_NAMES[0]
        return draft

    def _rename(self) -> None:
        """Take over settings that an earlier version knew by another name or value."""
        from engine.config.moved import present_key, present_value

        started = self.extras.get("started") == self._settings()
        named = {present_key(key): value for key, value in self.values.items()}
        self.values = {key: present_value(key, value) for key, value in named.items()}
        if started:
            self.mark_started()

    def save(self) -> str | None:
        """Keep it for the next start; a sentence where that fails."""
        path = draft_path()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(asdict(self), indent=1))
        except (OSError, StorageError) as error:
            return f"The wizard's state is not kept for the next start: {error}"
        return None

    def base(self) -> RunConfig:
        """The preset's configuration, above the person's own defaults. A missing or broken preset is replaced by the
        first one, with a notice."""
        from engine.config import RunConfig

        for name in dict.fromkeys((self.preset, FIRST_PRESET)):
            try:
                config = _preset(name)
            except UsageError as error:
                self.note(f"The preset {name} cannot be used: {error.message}")
            else:
                if name != self.preset:
                    self.note(f"{name} replaces it.")
                    self.preset = name
                return config
        return RunConfig()

    @property
    def title(self) -> str:
        """The name of the run that is set up, for a sentence."""
        return printable(str(self.get("saving.output_name") or _("without a name yet")))

    @property
    def unfinished(self) -> bool:
        """Whether starting over would lose something: not after a run was started with exactly these settings."""
        return bool(self.values or self.done) and self.extras.get("started") != self._settings()

    def stay_for_another(self, kept: Mapping[str, Any]) -> None:
        """A run was started, or is in the queue. The draft stays for a next run, which begins at the first step.

        Args:
            kept: settings that keep the trigger word.
        """
        self.step = "hardware"
        self.done.clear()
        for key, value in kept.items():
            self.set(key, value)
        self.mark_started()

    def mark_started(self) -> None:
        """A run was started with these settings; they stay, as the start of the next one."""
        self.extras["started"] = self._settings()

    def _settings(self) -> str:
        return json.dumps([self.preset, self.values], sort_keys=True, default=str)

    def get(self, key: str) -> Any:
        """The value that a run would have now; the preset's where nothing was set. Changes during training that a
        run's file has are left out where the setting was set here: the new value is that of the whole run."""
        if key in self.values:
            return self.values[key]
        value = self.base().value(key)
        if key != _CHANGES:
            return value
        from engine.config.change import without_changes_of  # not at the start: it loads the configuration's model

        return without_changes_of(value, self.values)

    def set(self, key: str, value: Any) -> None:
        """Set a value; one that equals the preset's is removed."""
        self.values.pop(key, None)
        if self.get(key) != value:
            self.values[key] = value

    def config(self, **changed: Any) -> RunConfig:
        """The configuration so far, with `changed` keys (dots as double underscores) on trial.

        Raises:
            ConfigError: invalid values.
        """
        from engine.config import load_config

        self.base()
        self._drop_unknown()
        trial = {key.replace("__", "."): value for key, value in changed.items()}
        values = {key: (key, value) for key, value in {**self.values, **trial}.items()}
        return load_config(self.preset, (), values, read_user_config().beneath(self.preset))

    def adopt(self, text: str) -> None:
        """Take the settings of a configuration's text that differ from the present ones.

        Raises:
            ConfigError: it is no valid configuration.
        """
        from engine.config import config_of_text
        from engine.config.form import fields as settings

        edited, present = config_of_text(text, _("the edited text")), self.config()
        for key in settings():
            if edited.value(key) != present.value(key):
                self.set(key, edited.value(key))
        if self.get(_CHANGES) != edited.value(_CHANGES):  # the text has them, although it has their settings anew
            self.set(_CHANGES, edited.value(_CHANGES))

    def without_parameters(self) -> RunConfig:
        """The configuration without the changes of the step Parameters.

        Raises:
            ConfigError: invalid values.
        """
        from engine.config import load_config

        self.base()
        entered = {key: (key, value) for key, value in self.values.items() if key in STEP_OF}
        return load_config(self.preset, (), entered, read_user_config().beneath(self.preset))

    def choose_preset(self, preset: str) -> list[str]:
        """Choose another preset; keep what was changed, and the settings of the steps that are done.

        Returns:
            The dotted keys of the parameters that were kept.

        Raises:
            UsageError: it cannot be read; nothing was changed.
        """
        _preset(preset)
        if Path(self.preset).is_file():  # a run's own file, or another trainer's, which has the paths too
            self.values = {**{key: value for key in STEP_OF if (value := self.get(key))}, **self.values}
        entered = {key: self.get(key) for key, step in STEP_OF.items() if step in self.done and step != "hardware"}
        self.values = {**entered, **self.values}
        self.preset = preset
        for key, value in list(self.values.items()):
            self.set(key, value)
        return [key for key in self.values if key not in STEP_OF]

    def rebase(self, preset: str, config: RunConfig) -> None:
        """Choose another preset without changing the configuration: `config` stays.

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
        from engine.config.literals import written

        words = ["lorasmith", "--preset", self.preset]
        typed = {key: value for key in OPTIONS if isinstance(value := self.values.get(key), str) and value}
        for key, value in typed.items():
            words += [OPTIONS[key], value]
        rest = {key: self.values[key] for key in set(self.values) - set(typed)}
        if self.get(EPOCHS) is not None and (EPOCHS in rest or not self.base().training.changes):
            rest.pop(STEPS, None)  # alone, it also drops the preset's changes of the length
        if "folders.name" in self.extras and Path(self.preset).is_file() and not self.get("dataset.class_tokens"):
            rest["dataset.class_tokens"] = None  # chosen in Folders; --name alone may keep the word of the captions
        for key in sorted(rest):
            words += ["--set", f"{key}={written(rest[key])}"]
        return words

    def take_notice(self) -> str:
        """The automatic changes, to be shown now; empty the next time."""
        notice, self.notice = self.notice, ""
        return notice

    def note(self, sentence: str) -> None:
        """Keep a sentence about an automatic change until a screen has shown it."""
        if sentence not in self.notice:
            self.notice = f"{self.notice} {sentence}".strip()

    def _drop_unknown(self) -> None:
        """Drop settings of another version of the program."""
        from engine.config.problems import keys

        valid = keys()
        for key in list(self.values):
            table, _, name = key.partition(".")
            if name not in valid.get(table, ()):
                del self.values[key]
                self.note(f"{key} is not a setting of this version and was dropped.")

    def start_over(self, values: Mapping[str, Any] | None = None, preset: str = FIRST_PRESET) -> None:
        """Reset everything, or take over the values of another run."""
        fresh = Draft(preset=preset, values=dict(values or {}))
        for entry in fields(self):
            setattr(self, entry.name, getattr(fresh, entry.name))


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
        _presets[name] = load_config(name, defaults=read_user_config().beneath(name))
    return _presets[name]


def forget_presets() -> None:
    """Clear the cache of presets: one was written."""
    _presets.clear()
