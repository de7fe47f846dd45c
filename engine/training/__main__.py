"""The trainer's process: `python -m engine.training RUN_DIR`. Starts or resumes the run that is prepared there."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from engine.errors import LoraSmithError, storage_error
from engine.exit_codes import ExitCode
from engine.memory.classify import is_out_of_memory
from engine.runs.inputs import ChangedInputsError
from engine.runs.layout import RunDir
from engine.runs.lock import RunLock
from engine.training import exhausted
from engine.training.exhausted import Reserve
from engine.training.processes import LEADER, Helper
from engine.training.session import Session, Signals, phase_of


def main(arguments: list[str]) -> int:
    """Train in the run directory; the exit code is also in exit.json."""
    if len(arguments) != 1:
        print("usage: python -m engine.training RUN_DIR", file=sys.stderr)
        return ExitCode.USAGE
    run = RunDir(Path(arguments[0]))
    if LEADER in os.environ:
        _help(run)
    waiting = Signals()
    waiting.install()
    try:
        lock = RunLock(run.lock_path)
    except LoraSmithError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with lock:
        run.exit_path.unlink(missing_ok=True)
        exhausted.word_of_others(run)  # what an earlier life left
        with Session(run, waiting) as session:
            return _end(session, Reserve())


def _help(run: RunDir) -> NoReturn:
    """A rank above 0: rank 0 tells what goes wrong, and takes this process with it."""
    from engine.training.trainer import train

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    helper, reserve = Helper(run), Reserve()
    try:
        train(helper)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        exhausted.leave_word(helper, reserve, error)
        os._exit(ExitCode.OUT_OF_MEMORY)
    os._exit(ExitCode.DONE)  # the group of processes is torn down by rank 0, and no complaint about it counts


def _end(session: Session, reserve: Reserve) -> ExitCode:
    try:
        from engine.training.trainer import train

        if train(session):
            exhausted.keep_what_fits(session)
            return session.finish("finished", ExitCode.DONE)
        return session.finish("stopped", ExitCode.STOPPED)
    except Exception as error:
        if is_out_of_memory(error):
            return exhausted.end(session, reserve, error)
        if told := exhausted.word_of_others(session.run):  # then this error is what became of it here
            return exhausted.tell(session, told)
        if isinstance(error, LoraSmithError):
            state = "stopped" if isinstance(error, ChangedInputsError) else "failed"
            return _fail(session, error, state)
        with suppress(OSError):
            traceback.print_exc()
        known = _known(error, session.run.path)
        return _fail(session, known) if known else _unexpected(session, error)


def _known(error: Exception, directory: Path) -> LoraSmithError | None:
    """What a person can mend about an error of the system; None when it is ours."""
    if not isinstance(error, OSError):
        return None
    return storage_error(error, Path(os.fsdecode(error.filename)) if error.filename else directory, "Writing")


def _fail(session: Session, error: LoraSmithError, state: str = "failed") -> ExitCode:
    return session.finish(state, error.exit_code, title=error.title, message=error.message, hint=error.hint)


def _unexpected(session: Session, error: BaseException) -> ExitCode:
    return session.finish(
        "failed",
        ExitCode.TRAINING_FAILED,
        title="Unexpected error",
        message=f"{type(error).__name__} in phase {phase_of(error)} at step {session.step}: {error}",
        hint=f"The whole traceback is in {session.run.log_path}; `lorasmith resume` tries again from the last state.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
