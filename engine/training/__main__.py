"""The trainer's process: `python -m engine.training RUN_DIR`. Starts or resumes the run that is prepared there."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from engine.errors import LoraSmithError, StorageError, UsageError, is_storage_limit, storage_error, storing
from engine.exit_codes import ExitCode
from engine.memory.classify import is_out_of_memory
from engine.processes import end_with_parent
from engine.runs.inputs import ChangedInputsError
from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, sweep_run
from engine.runs.lock import RunLock
from engine.runs.state import true_state, write_exit
from engine.text import plural
from engine.training import exhausted
from engine.training.exhausted import Reserve
from engine.training.processes import LEADER, Helper
from engine.training.session import Session, Signals, phase_of, steady_output


def main(arguments: list[str]) -> int:
    """Train in the run directory; the exit code is also in exit.json."""
    if len(arguments) != 1:
        print("usage: python -m engine.training RUN_DIR", file=sys.stderr)
        return ExitCode.USAGE
    with steady_output():
        run = RunDir(Path(arguments[0]))
        if LEADER in os.environ:
            _help(run)
        return _lead(run)


def _lead(run: RunDir) -> int:
    waiting = Signals()
    waiting.install()
    try:
        require_sound(run)
        lock = RunLock(run.lock_path)
    except UsageError as error:  # another trainer has it, and everything here is its
        print(error, file=sys.stderr)
        return error.exit_code
    except LoraSmithError as error:
        return _unable(run, error)
    with lock:
        try:
            with storing(run.path):
                run.exit_path.unlink(missing_ok=True)
                exhausted.word_of_others(run)  # what an earlier life left
                session = Session(run, waiting)
        except StorageError as error:
            return _unable(run, error)
        with session:
            if left := sweep_run(run):
                session.say(f"Removed {plural(left, 'unfinished file')} of an earlier process that was killed.")
            return _end(session, Reserve())


def _unable(run: RunDir, error: LoraSmithError) -> ExitCode:
    """End before there is a session."""
    print(error, file=sys.stderr)
    with suppress(OSError, LoraSmithError):
        step = true_state(run).step
        write_exit(run, "failed", error.exit_code, step, title=error.title, message=error.message, hint=error.hint)
    return error.exit_code


def _help(run: RunDir) -> NoReturn:
    """A rank above 0: rank 0 tells what goes wrong, and takes this process with it."""
    end_with_parent(os.environ[LEADER])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    from engine.training.trainer import train  # seconds

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
            return _fail(session, error, "stopped" if isinstance(error, ChangedInputsError) else "failed")
        traceback.print_exc()
        known = _known(error, session.run.path)
        return _fail(session, known) if known else _unexpected(session, error)


def _known(error: Exception, directory: Path) -> LoraSmithError | None:
    """What a person can mend about an error of the system; None when it is ours."""
    if not isinstance(error, OSError) or not is_storage_limit(error):
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
