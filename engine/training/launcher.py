"""Several ranks on this machine: torch's elastic agent starts and watches them, and this process reports their end.

This process trains nothing. It holds the lock, has the process id that viewers see, takes the signals, and starts the
run again after an out-of-memory. Ranks end with it, also when it is killed.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import NamedTuple

from engine.config import load_config
from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from engine.hardware import process_count, require_processors
from engine.processes import large_imports, parent_token
from engine.runs.control import request
from engine.runs.launch import trainer_command
from engine.runs.layout import RunDir
from engine.runs.state import read_exit, true_state
from engine.training.oom import read_rank_oom, report_oom
from engine.training.rank_errors import take_rank_errors
from engine.training.session import Session, Signals
from engine.world import LEADER

LOOK_SECONDS = 0.2
"""Between two looks of the agent at its ranks."""
_END_SECONDS = 5
"""For the other ranks to end after SIGTERM; then SIGKILL."""
_UNUSED = "SIGUSR1"
"""The agent takes over at least one signal; those that mean something here are ours."""


_AGENTS = ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing")
"""Loggers of what starts and watches ranks."""


class Entry(NamedTuple):
    """How a rank is started."""

    start: str | Callable[..., object]
    """A program or a function."""
    arguments: Sequence[str]
    method: str
    """Of multiprocessing, for a function."""


def entry_of(run: RunDir) -> Entry:
    """A rank is a trainer of its own, with a place in the world."""
    program, *arguments = trainer_command(run)
    return Entry(program, arguments, "spawn")


def processes_of(run: RunDir) -> int:
    """How many processes train the run on this machine.

    Raises:
        LoraSmithError: the configuration cannot be read.
    """
    config = load_config(run.config_path)
    return process_count(config.training.num_processes, config.memory.device)


def train_in_ranks(run: RunDir, signals: Signals, processes: int) -> ExitCode:
    """Train with so many ranks on this machine; this process has the lock of the run.

    Raises:
        LoraSmithError: the ranks cannot be started.
    """
    with large_imports():
        import torch

        device = load_config(run.config_path).memory.device
        require_processors(processes, device, torch.cuda.device_count() if torch.cuda.is_available() else 0)
        signals.at_first = lambda name: _pass_on(run, name)
        exit_codes = _run_agent(run, processes)
    if ending := read_exit(run):  # rank 0 has reported it
        return ExitCode(ending["exit_code"])
    session = Session(run, signals)
    session.step = true_state(run).step
    with session:
        return _report(session, exit_codes, processes)


def _pass_on(run: RunDir, name: str) -> None:
    """A signal to this process is a stop for rank 0, which finishes its step and saves."""
    try:
        request(run, "stop", {"reason": name})
    except LoraSmithError as error:
        print(f"{name} could not be passed on to the ranks: {error} A second signal ends the run at once.", flush=True)


def _run_agent(run: RunDir, processes: int) -> Mapping[int, int]:
    """Start the ranks and wait for their end; the exit code of each that failed."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith(_AGENTS)]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the log has our own sentence: a stop is no failure
    os.environ[LEADER] = parent_token()
    entry = entry_of(run)
    with TemporaryDirectory(prefix="lorasmith-ranks-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=f"lorasmith-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,  # a remedy or a person decides what comes after a failure
            monitor_interval=LOOK_SECONDS,
            start_method=entry.method,
            signals_to_handle=_UNUSED,
            shutdown_timeout=_END_SECONDS,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, entry.start)(*entry.arguments)
        except ChildFailedError as error:
            return {rank: failure.exitcode for rank, failure in error.failures.items()}
        finally:
            del os.environ[LEADER]
    return {}


def _report(session: Session, exit_codes: Mapping[int, int], processes: int) -> ExitCode:
    """Report why the ranks ended: an out-of-memory, then a rank that was killed, then an error with a sentence, then
    any other error. What the other ranks say follows from it: they wait for one that is gone."""
    errors = take_rank_errors(session.run)
    if shortage := read_rank_oom(session.run):
        return report_oom(session, shortage)
    killed = {rank: -code for rank, code in exit_codes.items() if code < 0 and -code != signal.SIGTERM}
    if errors and (errors[0].is_expected or not killed):
        return session.finish(errors[0].state, errors[0].exit_code, **errors[0].details)
    rank, code = next(iter((killed or exit_codes or {0: 0}).items()))
    end = f"was killed by {signal.Signals(code).name}" if killed else f"ended with code {code}"
    return session.finish(
        "failed",
        ExitCode.TRAINING_FAILED,
        code="process-lost",
        title="Process lost",
        message=f"Rank {rank} of {processes} training processes {end} after step {session.step}.",
        hint=f"Its output is in {session.run.log_path}; `lorasmith resume` continues from the last state.",
    )
