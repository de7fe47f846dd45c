"""Names of runs: the next free one, and which run has a name already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.runs import RunDir, true_state
from tui.texts import _


def next_name(name: str) -> str:
    """ "robot-2" after "robot", "robot-3" after "robot-2"."""
    stem, dash, number = name.rpartition("-")
    return f"{stem}-{int(number) + 1}" if dash and stem and number.isdecimal() else f"{name}-2"


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of the following names that is not taken."""
    following = next_name(name)
    while is_taken(following):
        following = next_name(following)
    return following


@dataclass(frozen=True)
class Occupied:
    """What a start does to the run that is there already."""

    sentence: str = ""
    """Empty: there is none."""
    needs_decision: bool = False
    is_live: bool = False
    """No other run can start there."""


def occupied(run_dir: RunDir) -> Occupied:
    """Which run is in a directory already. Reads files: call it in a worker."""
    if not run_dir.is_run:
        return Occupied()
    state = true_state(run_dir)
    if state.live:
        words = _("A run of this name is training now: choose another name, or watch it from the list of runs.")
        return Occupied(words, needs_decision=True, is_live=True)
    if state.state == "finished" or not state.step:
        return Occupied(_("An earlier run of this name is there. It is kept next to the new one, as results_<time>."))
    words = _("An unfinished run of this name is there ({0}, step {1}): the start asks whether to continue it.")
    return Occupied(words.format(state.state, state.step), needs_decision=True)
