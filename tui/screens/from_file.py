"""A new run that begins with a file of an earlier one: where the step Parameters was opened from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.runs import RunDir
from engine.text import printable
from tui.screens.step import StepScreen
from tui.texts import _, ngettext

if TYPE_CHECKING:
    from tui.setup.draft import Draft

_ORIGIN = "parameters.from_file"
"""In the draft's extras, until the step is shown: the file."""


def begin_from_file(draft: Draft, file: Path) -> None:
    """Record that the step Parameters is opened for a run that begins with `file`."""
    draft.extras[_ORIGIN] = str(file)


class FromFile(StepScreen):
    """Base of the step Parameters."""

    _file: Path | None = None
    """Set where the step was opened from the results of this file's run."""

    @property
    def help_text(self) -> str:
        """About such a run, then about the step."""
        about = _(
            "## Train on\n\nThis is a new run, which begins with a file of an earlier one instead of an empty LoRA. It "
            "has the settings of that run, a new optimizer and schedule, and trains a few epochs more. Escape leads "
            "back to the results."
        )
        return f"{about}\n\n{self.HELP}" if self._file is not None else self.HELP or ""

    def show_origin(self) -> bool:
        """Show what the run begins with; False where the step was opened as usual."""
        file = self.draft.extras.pop(_ORIGIN, None)
        if not isinstance(file, str):
            return False
        self._file = Path(file)
        count = self.draft.get("training.max_train_epochs") or 0
        words = ngettext("{0} epoch more from {1}", "{0} epochs more from {1}", count)
        self.set_message(words.format(count, printable(self._file.stem)))
        return True

    def retreat(self) -> None:
        """Back to the results, where the step was opened from there."""
        if self._file is None:
            super().retreat()
            return
        from tui.screens.results import ResultsScreen

        run_dir = RunDir(self._file.parent)
        self.smith.open_run(run_dir)
        self.app.push_screen(ResultsScreen(run_dir))
