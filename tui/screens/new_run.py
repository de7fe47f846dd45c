"""How the list of runs begins a new one: from scratch, from a file, from another run's settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tui.screens.ask import AskScreen
from tui.screens.ask_text import AskTextScreen
from tui.screens.run_actions import RunActions
from tui.screens.steps import STEPS, position
from tui.setup.names import free_name
from tui.setup.preset_file import begin_with_notes, conversion_notes, own_trigger, read_file
from tui.texts import _, ngettext

if TYPE_CHECKING:
    from engine.runs import KnownRun


class NewRuns(RunActions):
    """Base of the list of runs. An unfinished setup is discarded only after a question."""

    def _draft_sentence(self) -> str:
        """What the key `n` does."""
        draft = self.smith.draft
        if not (draft.values or draft.done):
            return _("n  Set up a new run")
        if not draft.unfinished:
            return _("n  Set up a new run, optionally from the last run's settings")
        name = draft.title
        step = STEPS[position(draft.step)].title
        return _("n  Continue setting up {0} at {1}, or start another run").format(name, step)

    def action_new(self) -> None:
        """Open the wizard; with an unfinished setup, ask first."""
        draft = self.smith.draft
        if not (draft.values or draft.done):
            self.smith.go_to(draft.step)
            return
        name = draft.title
        if draft.unfinished:
            step = STEPS[position(draft.step)].title
            answers = {"on": _("Continue at {0}").format(step), "start_over": _("Discard it and start over")}
            question = _("You have an unfinished setup: {0}").format(name)
        else:
            answers = {"on": _("With the settings of {0}").format(name), "start_over": _("Start from scratch")}
            question = _("A new run")
        self.app.push_screen(AskScreen(question, answers), self._begin)

    def _begin(self, answer: str | None) -> None:
        draft = self.smith.draft
        if answer == "start_over":
            draft.start_over()
        elif answer == "on" and not draft.unfinished:
            self._take_free_name()
        if answer is not None:
            self.smith.go_to(draft.step)

    def _take_free_name(self) -> None:
        """The settings of the run that was started last, under the next free name, with its trigger word."""
        from tui.setup.folder_entries import Entries

        draft = self.smith.draft
        entries = Entries.from_draft(draft)
        name = self._free_name(entries.name, Path(entries.place))
        replace(entries, name=name, trigger=entries.word).store(draft)
        draft.done = [step.name for step in STEPS[:-1]]
        draft.step = "folders"

    def _free_name(self, name: str, place: Path) -> str:
        """The first of the following names that no known run and no file in `place` has."""
        names = {known.name for known in (self.runs or {}).values()}
        return free_name(name, lambda name: name in names or (place / name).exists())

    def action_file(self) -> None:
        """A new run with the settings of a file."""
        text = _("A preset, or a configuration of Kohya's scripts, ai-toolkit, OneTrainer or another trainer.")
        if self.smith.draft.values or self.smith.draft.done:
            text += " " + _("It replaces the unfinished setup.")
        from tui.widgets.path_input import PathInput

        screen = AskTextScreen(_("Start from a file"), text, read_file, path=PathInput(compact=True))
        self.app.push_screen(screen, self._begin_from)

    def _begin_from(self, answer: str | None) -> None:
        if answer is None:
            return
        draft, path = self.smith.draft, read_file(answer)
        draft.start_over(own_trigger(path), preset=str(path))
        from tui.setup.folder_entries import place_note

        notes = [*conversion_notes(path), *filter(None, [place_note(draft)])]
        begin_with_notes(draft, notes)
        if notes:
            words = ngettext(
                "Review explains {0} key of the file.",
                "Review explains {0} keys of the file.",
                len(notes),
            )
            draft.note(words.format(len(notes)))
        self.smith.go_to("model")

    def action_copy(self) -> None:
        """A new run with the settings of the highlighted one; its place is left to choose."""
        run, draft = self.chosen(), self.smith.draft
        if run is None:
            return
        if draft.unfinished:
            answers = {"no": _("Keep it"), "yes": _("Discard it and copy the settings")}
            question = _("You have an unfinished setup: {0}").format(draft.title)
            self._ask(question, answers, lambda: self._copy(run))
        else:
            self._copy(run)

    def _copy(self, run: KnownRun) -> None:
        from engine.config import load_config
        from engine.dataset.trigger import kept_trigger

        try:
            config = load_config(run.run_dir.config_path)
            trigger = kept_trigger(config)
        except (ValueError, OSError) as error:
            self.smith.show_error(error)
            return
        draft = self.smith.draft
        name = self._free_name(config.saving.output_name, Path())
        values = {"saving.output_dir": "", "saving.output_name": name, **trigger}
        draft.start_over(values, preset=str(run.run_dir.config_path))
        draft.done = [step.name for step in STEPS[:-1]]
        self.smith.go_to("folders")
