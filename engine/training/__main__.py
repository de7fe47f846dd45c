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
from engine.out_of_memory import is_out_of_memory
from engine.processes import end_with_parent, large_imports
from engine.runs.inputs import ChangedInputsError
from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, sweep_run
from engine.runs.lock import RunLock
from engine.runs.on_end import command_from, run_on_end
from engine.runs.state import true_state, write_exit
from engine.text import plural
from engine.training import oom
from engine.training.oom import Reserve
from engine.training.processes import LEADER, Worker
from engine.training.session import Session, Signals, phase_of, unfailing_output


def main(arguments: list[str]) -> int:
    """Train in the run directory; the exit code is also in exit.json."""
    if len(arguments) != 1:
        print("usage: python -m engine.training RUN_DIR", file=sys.stderr)
        return ExitCode.USAGE
    with unfailing_output():
        run = RunDir(Path(arguments[0]))
        if LEADER in os.environ:
            _worker(run)
        code = _main_rank(run)
        from engine.training.loggers import end_loggers  # loads pydantic: not before the lock is taken

        end_loggers()
        if words := command_from():
            run_on_end(run, words, code)
        return code


def _main_rank(run: RunDir) -> int:
    """Rank 0: lock the run, train and report how it ended; returns the exit code."""
    signals = Signals()
    signals.install()
    try:
        require_sound(run)
        lock = RunLock(run.lock_path)
    except UsageError as error:  # another trainer holds the lock: touch nothing in its run directory
        print(error, file=sys.stderr)
        return error.exit_code
    except LoraSmithError as error:
        return _end_unstarted(run, error)
    with lock:
        try:
            with storing(run.path):
                run.exit_path.unlink(missing_ok=True)
                oom.read_rank_oom(run)  # discard what an earlier process left behind
                session = Session(run, signals)
        except StorageError as error:
            return _end_unstarted(run, error)
        with session:
            if removed := sweep_run(run):
                session.log(f"Removed {plural(removed, 'unfinished file')} of an earlier process that was killed.")
            return _train(session, Reserve())


def _end_unstarted(run: RunDir, error: LoraSmithError) -> ExitCode:
    """Write exit.json for an error that comes before the session exists."""
    print(error, file=sys.stderr)
    with suppress(OSError, LoraSmithError):
        step = true_state(run).step
        write_exit(run, "failed", error.exit_code, step, **error.details)
    return error.exit_code


def _worker(run: RunDir) -> NoReturn:
    """A rank above 0: rank 0 reports errors, and this process ends with it."""
    end_with_parent(os.environ[LEADER])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    worker, reserve = Worker(run), Reserve()
    try:
        _read_and_train(worker)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        oom.write_rank_oom(worker, reserve, error)
        os._exit(ExitCode.OUT_OF_MEMORY)
    os._exit(ExitCode.DONE)  # rank 0 tears down the process group; errors of that do not matter here


def _read_and_train(session: Session) -> bool:
    """See `train`; settings and images are read while it is imported, which takes seconds."""
    with large_imports():
        from engine.training.run_reader import RunReader
    with RunReader(session.run, is_main=session.is_main) as reader:
        with large_imports():
            from engine.training.trainer import train
        return train(session, reader)


def _train(session: Session, reserve: Reserve) -> ExitCode:
    """Train, and finish the session with the outcome."""
    try:
        if _read_and_train(session):
            oom.save_fitting_preset(session)
            return session.finish("finished", ExitCode.DONE)
        return session.finish("stopped", ExitCode.STOPPED)
    except Exception as error:
        if is_out_of_memory(error):
            return oom.end_out_of_memory(session, reserve, error)
        if shortage := oom.read_rank_oom(session.run):  # this error follows from another rank's out-of-memory
            return oom.report_oom(session, shortage)
        if isinstance(error, LoraSmithError):
            return _fail(session, error, "stopped" if isinstance(error, ChangedInputsError) else "failed")
        traceback.print_exc()
        failure = _storage_failure(error, session.run.path)
        return _fail(session, failure) if failure else _unexpected(session, error)


def _storage_failure(error: Exception, directory: Path) -> LoraSmithError | None:
    """A full disk, a missing permission or the like as an error with a hint; None for any other error."""
    if not isinstance(error, OSError) or not is_storage_limit(error):
        return None
    return storage_error(error, Path(os.fsdecode(error.filename)) if error.filename else directory, "Writing")


def _fail(session: Session, error: LoraSmithError, state: str = "failed") -> ExitCode:
    return session.finish(state, error.exit_code, **error.details)


def _unexpected(session: Session, error: BaseException) -> ExitCode:
    return session.finish(
        "failed",
        ExitCode.TRAINING_FAILED,
        code="unexpected",
        title="Unexpected error",
        message=f"{type(error).__name__} in phase {phase_of(error)} at step {session.step}: {error}",
        hint=f"The whole traceback is in {session.run.log_path}; `lorasmith resume` tries again from the last state.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
