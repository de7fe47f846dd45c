"""The state of the form of parameters: what is shown, what was typed, what is wrong with it. Draws nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from engine.config.change import CHANGES
from engine.config.changes import later_values
from engine.config.form import FieldFacts, fields, form, input_text, parse, unit, value_text
from engine.errors import UsageError
from engine.text import printable
from tui.setup.draft import EPOCHS, STEP_OF, STEPS, Draft
from tui.setup.family_presets import foreign_to
from tui.texts import _

SHARED_RATE = "training.learning_rate"
"""For the parts of a model that have no rate of their own."""
OWN_RATES = ("training.unet_lr", "training.text_encoder_lr")


MOST_UNDONE = 200
"""Edits that can be undone."""


@dataclass(frozen=True)
class _Before:
    """The state before an edit: of a setting, or of all of them for an empty key."""

    key: str
    values: dict[str, Any]
    rejected: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One line of the form."""

    kind: Literal["table", "field", "error"]
    text: str
    """A table's title, or the sentence about a field."""
    key: str = ""
    """Dotted key of the field that it is about."""


class Form:
    """The settings of a draft as rows. Typed values go into the draft at once; invalid ones are kept as text.

    Args:
        draft: read and written.
    """

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.search = ""
        self.advanced = bool(draft.extras.get("parameters.advanced"))
        stored = draft.extras.get("parameters.rejected")
        self.rejected: dict[str, str] = {key: str(text) for key, text in (stored or {}).items() if key in fields()}
        """Key to an invalid text that was typed."""
        self.wrong: dict[str, str] = {}
        """Key to the sentence about what is wrong."""
        self.fault: dict[str, str] = {}
        """The field and sentence of what only Review can find, until the next edit: it may be right then."""
        self.dropped: list[str] = []
        """Changes during training that the last edit of their setting has left out."""
        self._past: list[_Before] = []
        """What `take_back` restores, the newest last."""
        self.judge()

    def store(self) -> None:
        """Keep the state of the form in the draft."""
        self.draft.extras["parameters.advanced"] = self.advanced
        self.draft.extras["parameters.rejected"] = dict(self.rejected)

    def rows(self) -> list[Row]:
        """Tables and fields that are shown, with the sentences about what is wrong."""
        rows: list[Row] = []
        for table in form():
            members = [facts for facts in table.fields if self.shows(facts)]
            if members:
                rows.append(Row("table", table.title))
            for facts in members:
                rows.append(Row("field", "", facts.key))
                if sentence := self.sentence(facts.key):
                    rows.append(Row("error", sentence, facts.key))
        return rows

    def sentence(self, key: str) -> str:
        """What is wrong with a field; empty where nothing is."""
        return self.wrong.get(key) or self.fault.get(key, "")

    def shows(self, facts: FieldFacts) -> bool:
        """A search looks through everything; without one, advanced fields are hidden unless they were changed."""
        if self.search.strip():
            return facts.fits(self.search)
        stands_out = self.is_changed(facts.key) or bool(self.sentence(facts.key))
        if self.is_of_another_family(facts.key) and not stands_out:
            return False
        if self.advanced or not facts.advanced or stands_out:
            return True
        return facts.key == CHANGES and bool(self.draft.get(CHANGES))

    def is_of_another_family(self, key: str) -> bool:
        """Whether only other families of models than the preset's have this setting."""
        return key in foreign_to(self.draft.preset)

    def best(self) -> str:
        """The field that the search fits best; of equals the first in the form. Empty where it fits none."""
        ranked = {key: rank for key, facts in fields().items() if (rank := facts.rank(self.search)) is not None}
        return min(ranked, key=lambda key: ranked[key], default="")

    def is_changed(self, key: str) -> bool:
        """Whether it differs from the preset."""
        return key in self.draft.values or key in self.rejected

    def changed(self) -> list[str]:
        """Keys of the parameters that differ from the preset."""
        return [key for key in fields() if key not in STEP_OF and self.is_changed(key)]

    def text(self, key: str) -> str:
        """The value as shown in its row."""
        if key in self.rejected:
            return printable(self.rejected[key])
        facts, value = fields()[key], self.draft.get(key)
        if key == "dataset.class_tokens" and not value and (name := self.draft.get("saving.output_name")):
            return _("{0} (the name)").format(printable(name))
        if self._is_not_used(key):
            return _("{0} (not used)").format(printable(value_text(facts, value)))
        return printable(f"{value_text(facts, value)} {unit(facts, value)}".rstrip())

    def _is_not_used(self, key: str) -> bool:
        """Whether other settings decide instead of this one."""
        if key == STEPS:
            return self.draft.get(EPOCHS) is not None
        return key == SHARED_RATE and all(self.draft.get(rate) is not None for rate in OWN_RATES)

    def later(self, key: str) -> str:
        """The first later value of a setting that changes during the training; empty where it does not."""
        later = later_values(self.draft.get(CHANGES), key)
        if not later:
            return ""
        step, value = later[0]
        text = printable(_("from step {0}: {1}").format(step, value_text(fields()[key], value)))
        return text if len(later) == 1 else f"{text}, …"

    def typed(self, key: str) -> str:
        """The value as text for editing."""
        return self.rejected.get(key, input_text(fields()[key], self.draft.get(key)))

    def adopt(self, text: str) -> None:
        """Take all settings from a configuration's text.

        Raises:
            ConfigError: it is no valid configuration; nothing was changed.
        """
        before = _Before("", dict(self.draft.values), dict(self.rejected))
        self.draft.adopt(text)
        self._record(before)
        self.rejected.clear()
        self.judge()

    def take_back(self) -> str | None:
        """Undo the last edit. The key of its setting, "" where `adopt` took them all; None if there is none to undo."""
        while self._past:
            before = self._past.pop()
            if (before.values, before.rejected) != (self.draft.values, self.rejected):
                self.draft.values, self.rejected, self.dropped = before.values, before.rejected, []
                self.fault.clear()
                self.judge()
                return before.key
        return None

    def forget_edits(self) -> None:
        """Nothing before now can be undone: another preset was chosen."""
        self._past.clear()

    def _record(self, before: _Before) -> None:
        self._past.append(before)
        del self._past[:-MOST_UNDONE]
        self.fault.clear()

    def _record_edit(self, key: str) -> None:
        self._record(_Before(key, dict(self.draft.values), dict(self.rejected)))

    def enter(self, key: str, text: str) -> None:
        """Set a field to a typed text."""
        self._record_edit(key)
        try:
            self._set(key, parse(fields()[key], text))
        except UsageError:
            self.rejected[key] = text
        self.judge()

    def _set(self, key: str, value: Any) -> None:
        """Set a field; changes of it during the training end."""
        before = self.draft.get(CHANGES)
        self.draft.set(key, value)
        self.rejected.pop(key, None)
        after = self.draft.get(CHANGES)
        self.dropped = [text for text in before if text not in after] if key != CHANGES else []

    def try_out(self, key: str, text: str) -> bool:
        """Check a text that is still being typed; True if the sentence about it changed."""
        before, sentence = self.wrong.pop(key, ""), self.verdict(key, text)
        if sentence:
            self.wrong[key] = sentence
        return before != sentence

    def verdict(self, key: str, text: str) -> str:
        """What is wrong with a text before it is entered; empty when nothing is."""
        try:
            parse(fields()[key], text)
        except UsageError as error:
            return error.message
        return ""

    def turn(self, key: str, by: int) -> bool:
        """Change to another choice; False if the field has none."""
        facts = fields()[key]
        choices: tuple[Any, ...] = facts.choices or ((False, True) if facts.kind == "flag" else ())
        if not choices:
            return False
        value = self.draft.get(key)
        place = choices.index(value) + by if value in choices else 0
        self._record_edit(key)
        self._set(key, choices[place % len(choices)])
        self.judge()
        return True

    def reset(self, key: str) -> None:
        """Back to the preset's value."""
        self._record_edit(key)
        self.rejected.pop(key, None)
        self.draft.values.pop(key, None)
        self.dropped = []
        self.judge()

    def preset_text(self, key: str) -> str:
        """The preset's value as shown."""
        facts = fields()[key]
        return printable(value_text(facts, getattr(getattr(self.draft.base(), facts.table), facts.name))) or _("empty")

    def judge(self) -> None:
        """Update `wrong`: texts that are no values, and values that contradict each other."""
        self.wrong = {key: sentence for key, text in self.rejected.items() if (sentence := self.verdict(key, text))}
        from engine.config import ConfigError

        try:
            self.draft.config()
        except ConfigError as error:
            for problem in error.problems:
                key = problem.key if problem.key in fields() else _named(problem.key, problem.message)
                self.wrong.setdefault(key, problem.message)


def _named(table: str, sentence: str) -> str:
    """The field of a table that a sentence about the table names first."""
    names = [facts for facts in fields().values() if facts.table == table]
    matches = [(sentence.index(facts.name), facts.key) for facts in names if facts.name in sentence]
    return min(matches)[1] if matches else names[0].key if names else next(iter(fields()))
