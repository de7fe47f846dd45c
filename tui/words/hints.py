"""What there is to say about a run's state, and which key helps."""

from __future__ import annotations

from textual.content import Content

from engine.exit_codes import ExitCode
from engine.runs import RunDir
from engine.runs.history import RunHistory
from engine.text import printable
from tui.texts import _
from tui.watching.run import Look
from tui.words.rows import SIGNS


def notice(run_dir: RunDir, history: RunHistory, look: Look) -> list[str]:
    """Lines for a run that ended badly, that may go on elsewhere, or that is none; else nothing."""
    state = look.state.state
    if look.gone:
        sentence = _("There is no run in {0} any more: it was moved, renamed or deleted.")
        return ["✗ " + sentence.format(printable(run_dir.path))]
    if state == "damaged":
        return [f"{SIGNS[state][0]} {printable(look.state.detail)}"]
    if look.explanation:
        return [f"{SIGNS[state][0]} {printable(look.explanation[0])}", *_resume_hint(history, look)]
    if state == "failed" or _refused(look):
        told = history.error or {"title": _("Failed"), "message": look.state.detail}
        sentence = f"{told.get('title') or ''}: {told.get('message') or ''} {told.get('hint') or ''}"
        return [*map(printable, f"✗ {sentence.strip()}".split("\n")), *_resume_hint(history, look)]
    return []


def _refused(look: Look) -> bool:
    """Whether it stopped itself before the first step, because what it was trained on changed."""
    return look.state.state == "stopped" and look.state.exit_code == ExitCode.USAGE


def _resume_hint(history: RunHistory, look: Look) -> list[str]:
    if not look.writable:
        return []
    if history.state_step is None:
        return [_("No state was saved yet; r tries again from the beginning.")]
    return [_("r resumes it from the saved state of step {0}.").format(history.state_step)]


def hint(history: RunHistory, look: Look) -> Content:
    """One line: what to know or to press in this state."""
    state = look.state.state
    if look.gone:
        return Content(_("Escape goes to the list of runs."))
    if not look.writable:
        return Content("! " + _("You may not write here: this run is only shown."))
    if _refused(look):
        return Content(_("r names what changed, and asks."))
    if state == "failed" and history.oom is not None:
        return Content(_("m shows what helps against the out-of-memory."))
    if state == "running" and history.warning is not None:
        return Content.styled("! " + printable(str(history.warning.get("text", ""))), "$text-warning")
    hints = {
        "starting": _("The trainer starts; the first seconds go into loading its libraries.")
        if not history.phase
        else "",
        "paused": _("Paused after step {0}; p lets it go on.").format(history.step),
        "stopping": _("It finishes its step, saves and ends."),
        "stopped": _("Stopped with everything saved. r goes on, Enter shows the files."),
        "finished": _("Finished. Enter shows the files and their samples."),
    }
    return Content(hints.get(state, ""))
