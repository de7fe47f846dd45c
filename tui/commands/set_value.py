"""`lorasmith set RUN key=value`: change a setting of a run that is training, and print the trainer's answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from engine.errors import LoraSmithError, UsageError
from engine.exit_codes import ExitCode
from engine.runs import Event, RunDir, request, resolve, true_state
from engine.runs.events import ControlAckEvent
from engine.runs.follow import follow, skip_history
from engine.text import printable, shell_line
from tui.shell import output

WAIT_SECONDS = 120.0
"""The trainer reads requests between two steps; a step, a sample and a save may come before it does."""


class _Command(click.Command):
    """Names the settings in its help, without loading them for the help of other commands."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The settings that can change."""
        from engine.config.change import LIVE_KEYS

        with formatter.section("Settings that can change while a run trains"):
            for key in LIVE_KEYS:
                formatter.write_text(key)


@click.command("set", cls=_Command)
@click.argument("run")
@click.argument("assignment", metavar="TABLE.KEY=VALUE")
@click.option("--no-wait", is_flag=True, help="Return at once instead of waiting for the trainer's answer.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    default=WAIT_SECONDS,
    help=f"How long to wait for the trainer's answer; without it {WAIT_SECONDS:g}.",
)
def command(run: str, assignment: str, no_wait: bool, timeout: float) -> int:
    """Change a setting of RUN while it trains: rates, length, intervals, prompts, caption dropout."""
    run_dir = resolve(run)
    key, value = _parsed(run_dir, assignment)
    state = true_state(run_dir)
    if not state.live:
        hint = _way_on(run_dir, {key: value}, ("lorasmith", "resume", run, "--set", assignment))
        raise UsageError(f"The run {run_dir.path} is not running ({state.state}).", hint, code="run-not-live")
    follower, _ = skip_history(run_dir)
    identifier = request(run_dir, "set", {"key": key, "value": value})
    if no_wait:
        output.message(f"Requested: {key} of {run_dir.path}. The trainer answers in the run's events.")
        return ExitCode.DONE
    answers: list[str] = []

    def answered(event: Event) -> bool:
        if isinstance(event, ControlAckEvent) and event.id == identifier:
            answers.append(event.result)
        return bool(answers)

    deadline = time.monotonic() + timeout

    def tick() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError

    try:
        ending = follow(run_dir, lambda _: None, follower=follower, until=answered, tick=tick)
    except TimeoutError:
        phase = true_state(run_dir).phase
        output.message(
            f"No answer in {timeout:g} seconds: the trainer reads requests between two steps"
            f"{f', and is in the phase {phase}' if phase else ''}. The request stays, and the answer will be among the "
            "events."
        )
        return ExitCode.TRAINING_FAILED
    if not answers:
        output.message(printable(f"The run ended before it answered: {ending.state.state}, {ending.state.detail}."))
        return ExitCode.TRAINING_FAILED
    output.result(_as_text(answers[0], true_state(run_dir).phase))
    return ExitCode.USAGE if answers[0].startswith("refused") else ExitCode.DONE


def _as_text(answer: str, phase: str) -> str:
    """The trainer's answer, with the phase that it is in where it refuses for that."""
    from tui.text.run import answer_text, phase_text

    refused, _, reason = answer.partition(": ")
    if refused != "refused":
        return printable(answer)
    text = answer_text(answer).removeprefix("refused: ")
    return f"refused: {text}{f' (now: {phase_text(phase)})' if phase and text != reason else ''}"


def _way_on(run_dir: RunDir, changes: Mapping[str, Any], command: Sequence[str]) -> str:
    """The command that resumes an ended run with the changes; where that is refused, why and what to do instead."""
    from engine.runs.resume import plan_resume

    try:
        plan_resume(run_dir, changes)
    except LoraSmithError as error:
        return f"{error.message} {error.hint}".strip()
    return f"Resume it with:\n  {shell_line(command)}"


def _parsed(run_dir: RunDir, assignment: str) -> tuple[str, Any]:
    """The key and its value, checked like those of a configuration.

    Raises:
        ConfigError: no such key, or an invalid value.
    """
    from engine.config import load_config
    from engine.config.change import LIVE_KEYS
    from engine.config.moved import present_key
    from engine.runs.prepare import absolute_paths

    config = absolute_paths(load_config(str(run_dir.config_path), [assignment], flag=""))
    typed = assignment.partition("=")[0].strip()
    key = present_key(typed)
    return key if key in LIVE_KEYS else typed, config.value(key)
