"""Notices and hints about a run's state, and which key helps."""

from __future__ import annotations

from textual.content import Content

from engine.exit_codes import ExitCode
from engine.runs import RunDir
from engine.runs.history import RunHistory
from engine.text import printable
from tui.text.rows import SIGNS
from tui.texts import _
from tui.watching.run import Look


def notice(run_dir: RunDir, history: RunHistory, look: Look) -> list[str]:
    """Lines for a run that failed, may be running elsewhere, or is no run; else nothing."""
    state = look.state.state
    if look.gone:
        sentence = _("There is no run in {0} any more: it was moved, renamed or deleted.")
        return ["✗ " + sentence.format(printable(run_dir.path))]
    if state == "damaged":
        return [f"{SIGNS[state][0]} {printable(look.state.detail)}"]
    if look.explanation:
        return [f"{SIGNS[state][0]} {printable(look.explanation[0])}", *_resume_hint(history, look)]
    if state == "failed" or _refused(look):
        error = history.error or {"title": _("Failed"), "message": look.state.detail}
        sentence = f"{error.get('title') or ''}: {error.get('message') or ''} {error.get('hint') or ''}"
        return [*map(printable, f"✗ {sentence.strip()}".split("\n")), *_resume_hint(history, look)]
    return []


def help_text(state: str, *, live: bool) -> str:
    """Markdown about a run in its state: what can be done now."""
    parts = [_("## Train")]
    if live:
        parts.append(
            _(
                "The training is a separate process. This screen only watches it: closing it, or losing the "
                "connection, stops nothing.\n\n"
                "* **Sample**, **Save**, **Pause** and **Stop** are requests; the trainer acts on them after the "
                "current step.\n"
                "* **Stop** finishes the step and saves everything. **Resume** continues from exactly there.\n"
                "* **Settings** changes learning rates, length, intervals and prompts while it trains.\n"
                "* **Detach** leaves LoRA Smith; `lorasmith attach` returns."
            )
        )
    elif state == "finished":
        parts.append(
            _(
                "The training is finished.\n\n"
                "* **Results** lists the saved files, recommends one, and shows their samples next to each other. "
                "There, **Use** copies one into a models folder, and **What now** shows how to use it in "
                "ComfyUI, A1111 and diffusers.\n"
                "* **Train longer** continues this run, to more steps or epochs."
            )
        )
    else:
        parts.append(
            _(
                "The training is not running.\n\n"
                "* **Resume** continues from the last saved state, exactly as if it had not stopped.\n"
                "* **Results** shows the files that were saved so far."
            )
        )
    parts.append(
        _(
            "**1** to **4** choose a part: the loss, samples, events, what else the trainer has printed. **F11** gives "
            "it the whole screen, **/** filters events and log, **y** copies what is shown there."
        )
    )
    return "\n\n".join(parts)


def _refused(look: Look) -> bool:
    """Whether it stopped before the first step, because its inputs changed."""
    return look.state.state == "stopped" and look.state.exit_code == ExitCode.USAGE


def _resume_hint(history: RunHistory, look: Look) -> list[str]:
    if not look.writable:
        return []
    if history.state_step is None:
        return [_("No state was saved yet; r tries again from the beginning.")]
    return [_("r resumes it from the saved state of step {0}.").format(history.state_step)]


def hint(history: RunHistory, look: Look) -> Content:
    """One line: information or a key for this state."""
    state = look.state.state
    if look.gone:
        return Content(_("Escape goes to the list of runs."))
    if not look.writable:
        return Content("! " + _("Read-only: you don't have write permission."))
    if _refused(look):
        return Content(_("r lists what changed, and asks."))
    if state == "failed" and history.oom is not None:
        return Content(_("m shows how to fix the out-of-memory error."))
    if state == "running" and history.warning is not None:
        return Content.styled("! " + printable(history.warning.text), "$text-warning")
    hints = {
        "starting": _("The trainer is starting: it loads its libraries first.") if not history.phase else "",
        "paused": _("Paused after step {0}; p continues.").format(history.step),
        "stopping": _("It finishes its step, saves and ends."),
        "stopped": _("Stopped with everything saved. r continues, Enter shows the files."),
        "finished": _("Finished. Enter shows the files and their samples."),
    }
    return Content(hints.get(state, ""))
