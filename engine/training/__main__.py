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
from engine.memory.classify import memory_error
from engine.runs.layout import RunDir
from engine.runs.lock import RunLock
from engine.training.processes import LEADER, Helper
from engine.training.session import Session, Signals


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
        with Session(run, waiting) as session:
            return _end(session)


def _help(run: RunDir) -> NoReturn:
    """A rank above 0: rank 0 tells what goes wrong, and takes this process with it."""
    from engine.training.trainer import train

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    train(Helper(run))
    os._exit(ExitCode.DONE)  # the group of processes is torn down by rank 0, and no complaint about it counts


def _end(session: Session) -> ExitCode:
    try:
        from engine.training.trainer import train

        if train(session):
            return session.finish("finished", ExitCode.DONE)
        return session.finish("stopped", ExitCode.STOPPED)
    except LoraSmithError as error:
        return _fail(session, error)
    except Exception as error:
        with suppress(OSError):
            traceback.print_exc()
        known = _known(error, session.run.path)
        return _fail(session, known) if known else _unexpected(session, error)


def _known(error: Exception, directory: Path) -> LoraSmithError | None:
    """What a person can mend about an error of the system or of torch; None when it is ours."""
    if isinstance(error, OSError):
        return storage_error(error, Path(os.fsdecode(error.filename)) if error.filename else directory, "Writing")
    return memory_error(error)


def _fail(session: Session, error: LoraSmithError) -> ExitCode:
    return session.finish("failed", error.exit_code, title=error.title, message=error.message, hint=error.hint)


def _unexpected(session: Session, error: BaseException) -> ExitCode:
    where = session.state_phase or "start"
    return session.finish(
        "failed",
        ExitCode.TRAINING_FAILED,
        title="Unexpected error",
        message=f"{type(error).__name__} in phase {where} at step {session.step}: {error}",
        hint=f"The whole traceback is in {session.run.log_path}; `lorasmith resume` tries again from the last state.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
