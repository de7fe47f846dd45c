"""The trainer's process: `python -m engine.training RUN_DIR`. Starts or resumes the run that is prepared there."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from engine.errors import LoraSmithError, UsageError, is_storage_limit, storage_error, storing
from engine.exit_codes import ExitCode
from engine.out_of_memory import is_out_of_memory
from engine.processes import end_with_parent, large_imports
from engine.reading import MAX_CONFIG, parse_toml, read_text
from engine.runs.inputs import ChangedInputsError
from engine.runs.integrity import require_sound
from engine.runs.layout import RunDir, sweep_run
from engine.runs.lock import RunLock
from engine.runs.on_end import command_from, run_on_end
from engine.runs.state import true_state, write_exit
from engine.text import plural
from engine.training import oom
from engine.training.oom import Reserve
from engine.training.other_rank import OtherRank
from engine.training.rank_errors import take_rank_errors, write_rank_error
from engine.training.session import Session, Signals, phase_of, unfailing_output
from engine.world import World, own_world


def main(arguments: list[str]) -> int:
    """Train in the run directory; the exit code is also in exit.json."""
    if len(arguments) != 1:
        print("usage: python -m engine.training RUN_DIR", file=sys.stderr)
        return ExitCode.USAGE
    with unfailing_output():
        try:
            world = own_world()
        except UsageError as error:
            print(error, file=sys.stderr)
            return error.exit_code
        run = RunDir(Path(arguments[0]))
        if world.is_led or world.rank > 0:
            return _rank(run, world)
        code = _main_rank(run)
        _end_loggers()
        if words := command_from():
            run_on_end(run, words, code)
        return code


def _end_loggers() -> None:
    from engine.training.loggers import end_loggers  # loads pydantic: not before the lock is taken

    end_loggers()


def _main_rank(run: RunDir) -> int:
    """Lock the run, train and report how it ended; returns the exit code. Rank 0 of another launcher does so too."""
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
                take_rank_errors(run)
            if own_world().size == 1 and (processes := _several(run)):
                return _train_in_ranks(run, signals, processes)
            with storing(run.path):
                session = Session(run, signals)
        except LoraSmithError as error:
            return _end_unstarted(run, error)
        with session:
            _sweep(session)
            return _train(session, Reserve())


def _several(run: RunDir) -> int:
    """How many processes the run asks for, 0 for one: read without the model of the configuration, which takes a
    quarter of a second to load."""
    try:
        table = parse_toml(read_text(run.config_path, MAX_CONFIG, below=run.path)).get("training")
        wanted = table.get("num_processes", 1) if isinstance(table, dict) else 1
    except (OSError, ValueError):
        return 0  # the trainer reports it
    if wanted == 1:
        return 0
    from engine.training.launcher import processes_of

    count = processes_of(run)
    return count if count > 1 else 0


def _train_in_ranks(run: RunDir, signals: Signals, processes: int) -> int:
    from engine.training.launcher import train_in_ranks

    return train_in_ranks(run, signals, processes)


def _sweep(session: Session) -> None:
    if removed := sweep_run(session.run):
        session.log(f"Removed {plural(removed, 'unfinished file')} of an earlier process that was killed.")


def _end_unstarted(run: RunDir, error: LoraSmithError) -> ExitCode:
    """Write exit.json for an error that comes before the session exists."""
    print(error, file=sys.stderr)
    with suppress(OSError, LoraSmithError):
        step = true_state(run).step
        write_exit(run, "failed", error.exit_code, step, **error.details)
    return error.exit_code


def _rank(run: RunDir, world: World) -> ExitCode:
    """A rank that this run's own process started, or one above 0: the holder of the lock reports how it failed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if world.is_led:
        end_with_parent(world.leader)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # at once: it may wait for a rank that is gone
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reserve = Reserve()
    session = Session(run, leader=world.leader_pid) if world.rank == 0 else OtherRank(run)
    try:
        if world.rank > 0:
            _read_and_train(session)
            return ExitCode.DONE
        with session:
            _sweep(session)
            code = _finish(session, complete=_read_and_train(session))
        _end_loggers()
        return code
    except Exception as error:
        return _leave_error(session, world, reserve, error)


def _leave_error(session: Session, world: World, reserve: Reserve, error: Exception) -> ExitCode:
    """Write why a rank failed, for the process that reports it."""
    if is_out_of_memory(error):
        oom.write_rank_oom(session, reserve, error)
        return ExitCode.OUT_OF_MEMORY
    if not isinstance(error, LoraSmithError):
        traceback.print_exc()
    state, code, details = _outcome_of(session, error)
    print(details["message"], file=sys.stderr)
    with suppress(OSError, LoraSmithError):
        write_rank_error(session.run, world.rank, state, code, details)
    return code


def _read_and_train(session: Session) -> bool:
    """See `train`; settings and images are read while it is imported, which takes seconds."""
    world = own_world()
    if world.size > 1 and not world.is_led:  # maybe on several machines
        with large_imports():
            from engine.training.run_copy import common_run
        session.copies = common_run(session.run, world)
        session.run = session.run if session.copies is None else session.copies.run
    with large_imports():
        from engine.training.run_reader import RunReader
    with RunReader(session.run, is_main=session.is_main) as reader:
        with large_imports():
            from engine.training.trainer import train
        return train(session, reader)


def _finish(session: Session, *, complete: bool) -> ExitCode:
    """Finish the session of a run that ended without an error."""
    if complete:
        oom.save_fitting_preset(session)
        return session.finish("finished", ExitCode.DONE)
    return session.finish("stopped", ExitCode.STOPPED)


def _train(session: Session, reserve: Reserve) -> ExitCode:
    """Train, and finish the session with the outcome."""
    try:
        return _finish(session, complete=_read_and_train(session))
    except Exception as error:
        if is_out_of_memory(error):
            return oom.end_out_of_memory(session, reserve, error)
        if shortage := oom.read_rank_oom(session.run):  # this error follows from another rank's out-of-memory
            return oom.report_oom(session, shortage)
        if not isinstance(error, LoraSmithError):
            traceback.print_exc()
        state, code, details = _outcome_of(session, error)
        return session.finish(state, code, **details)


def _outcome_of(session: Session, error: Exception) -> tuple[str, ExitCode, dict[str, str]]:
    """The state, exit code, and code, title, message and hint of a run that ended with an error."""
    known = error if isinstance(error, LoraSmithError) else _storage_failure(error, session.run.path)
    if known is not None:
        state = "stopped" if isinstance(known, ChangedInputsError) else "failed"
        return state, known.exit_code, known.details
    details = {
        "code": "unexpected",
        "title": "Unexpected error",
        "message": f"{type(error).__name__} in phase {phase_of(error)} at step {session.step}: {error}",
        "hint": f"The traceback is in {session.run.log_path}; `lorasmith resume` tries again from the last state.",
    }
    return "failed", ExitCode.TRAINING_FAILED, details


def _storage_failure(error: Exception, directory: Path) -> LoraSmithError | None:
    """A full disk, a missing permission or the like as an error with a hint; None for any other error."""
    if not isinstance(error, OSError) or not is_storage_limit(error):
        return None
    return storage_error(error, Path(os.fsdecode(error.filename)) if error.filename else directory, "Writing")


if __name__ == "__main__":
    code = main(sys.argv[1:])
    if "RANK" in os.environ:  # the group of processes is torn down by its end; errors of that do not matter any more
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
