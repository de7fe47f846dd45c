"""Which runs are compared: the marked ones, or the highlighted one with one that the person chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.text import printable
from tui.screens.ask import AskScreen
from tui.text.rows import about_place
from tui.texts import _

if TYPE_CHECKING:
    from engine.runs import KnownRun
    from tui.screens.base import BaseScreen


def comparable(runs: Mapping[str, KnownRun]) -> dict[str, KnownRun]:
    """The runs that can be compared, by path; empty where there are not two."""
    sound = {path: run for path, run in runs.items() if run.state.state != "damaged"}
    return sound if len(sound) > 1 else {}


def begin_comparison(screen: BaseScreen, runs: Mapping[str, KnownRun], marked: Sequence[str], highlighted: str) -> None:
    """Show the comparison above `screen`, after a question where fewer than two runs are marked."""
    candidates = comparable(runs)
    chosen = [path for path in marked if path in candidates]
    first = chosen[0] if chosen else highlighted
    if len(chosen) > 1:
        _show(screen, candidates, chosen)
    elif first in candidates:
        others = {path: about_place(run) for path, run in candidates.items() if path != first}
        question = _("Compare {0} with …").format(printable(candidates[first].title))
        screen.app.push_screen(
            AskScreen(question, others),
            lambda path: _show(screen, candidates, [first, path]) if path is not None else None,
        )


def _show(screen: BaseScreen, runs: Mapping[str, KnownRun], paths: Sequence[str]) -> None:
    from engine.results.comparison import MOST_RUNS
    from tui.screens.compare import CompareScreen

    if len(paths) > MOST_RUNS:
        screen.notify(_("At most {0} runs can be compared; unmark some.").format(MOST_RUNS))
        return
    screen.app.push_screen(CompareScreen([runs[path].run_dir for path in paths]))
