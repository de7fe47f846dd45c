"""Runs as tasks of a Ray cluster. Ray is imported in functions only: it is an extra, and loads slowly.

The queue's process prepares run directories, on storage that every node has, submits a task for each run, and stays the
only writer of the entries. A task trains in a child process on its node. When the node is lost, Ray starts the task on
another node, where the run continues from its last state.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.errors import LoraSmithError, UsageError
from engine.queue.cards import Place
from engine.queue.entry import Entry
from engine.queue.local import state_here
from engine.runs.begin import prepare_to_resume
from engine.runs.find import record_run
from engine.runs.follow import SILENT_SECONDS
from engine.runs.identity import host
from engine.runs.launch import launch
from engine.runs.layout import RunDir, read_record, write_record
from engine.runs.lock import is_locked
from engine.runs.state import RunState, mark_starting, read_exit, true_state, write_exit
from engine.runs.values import seconds, text

MAX_RETRIES = 3
"""How often Ray starts a task again whose node or worker process was lost."""
NODE_FILE = "node.json"
"""In `.run/`: the node of the task that trains."""
LOOK_SECONDS = 0.5
ANSWER_SECONDS = 10.0
"""Within them a cluster takes a connection."""
_NOBODY: dict[str, object] = {"pid": None, "process_start": None}


class RayCluster:
    """Trains runs as tasks of a Ray cluster.

    Args:
        address: "ray://HOST:PORT", "HOST:PORT" or "auto".
        most: the number of cards (of CPU cores for runs on the CPU) that may be asked for; None: what the cluster has
            now. A number lets an autoscaler add nodes.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at the address.
    """

    outlives_runner = False

    def __init__(self, address: str, most: int | None = None) -> None:
        self.place = address
        self._ray = _connected(address)
        self._most = most
        self._tasks: dict[str, Any] = {}
        """Entry's id to the reference of its task."""

    def uses_gpu(self, entry: Entry) -> bool:
        """Whether the run asks for GPUs: "auto" does where the cluster has any, or may get some."""
        if entry.device == "cpu":
            return False
        return entry.device != "auto" or self._most is not None or self._total("GPU") > 0

    def refusal(self, entry: Entry) -> str:
        """Nothing is refused for good: a cluster can grow."""
        return ""

    def kind(self, entry: Entry) -> str:
        """Entries of a kind wait for each other."""
        return "GPU" if self.uses_gpu(entry) else "CPU"

    def room(self, entry: Entry, running: Sequence[Entry]) -> Place | None:
        """Whether the entry may be submitted now."""
        kind = self.kind(entry)
        taken = sum(other.processes for other in running if self.kind(other) == kind)
        limit = self._total(kind) if self._most is None else self._most
        return Place() if taken + entry.processes <= limit else None

    def start(self, entry: Entry, run_dir: RunDir, place: Place) -> str:
        """Submit the task of a prepared run; its node is not known yet."""
        record_run(run_dir)
        with suppress(OSError):
            (run_dir.private / NODE_FILE).unlink(missing_ok=True)
        gpus = entry.processes if self.uses_gpu(entry) else 0
        options = {"num_gpus": gpus, "num_cpus": entry.processes, "max_retries": MAX_RETRIES, "name": entry.name}
        task = self._ray.remote(train_on_node).options(**options)
        self._tasks[entry.id] = task.remote(str(run_dir.path))
        return ""

    def state(self, entry: Entry, run_dir: RunDir) -> RunState | None:
        """The state of a run; None while its task waits for a node. Lost is only what Ray has given up."""
        task = self._tasks.get(entry.id)
        if task is None:  # submitted by an earlier process of the queue, with whose end its tasks ended
            return state_here(run_dir)
        if not self._ray.wait([task], timeout=0)[0]:
            return self._while_it_runs(run_dir)
        del self._tasks[entry.id]
        detail = "its task ended without a report"
        try:
            self._ray.get(task)
        except Exception as error:  # every kind of lost worker, lost node, or a fault in our task
            print(f"{entry.id} {entry.name}: {error}", file=sys.stderr, flush=True)
            detail = _first_line(error)
        state = state_here(run_dir)
        if state is not None and state.live and is_locked(run_dir.lock_path) is None:
            mark_starting(run_dir, _NOBODY)  # by this process, which lives, and no task has started it
            return replace(state, state="lost", detail=detail)
        return state

    def _while_it_runs(self, run_dir: RunDir) -> RunState | None:
        is_started = os.path.lexists(run_dir.private / NODE_FILE)
        state = true_state(run_dir)
        return state if is_started and state.live else None

    def node(self, entry: Entry, run_dir: RunDir) -> str:
        """The node of the task that trains it."""
        return text(read_record(run_dir.private / NODE_FILE).get("node")) or ""

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    def _total(self, kind: str) -> float:
        return float(self._ray.cluster_resources().get(kind, 0.0))


def train_on_node(path: str) -> int:
    """The task: train a prepared run in a child process on this node, to its end; returns the exit code.

    When Ray runs it again, the run continues from its last state. The trainer of a lost node may live some seconds
    longer than its node: this waits until it no longer has the run's lock.
    """
    from engine.processes import child_variables

    run_dir = RunDir(Path(path))
    _wait_until_free(run_dir)
    if (ending := read_exit(run_dir)) is not None:  # the node was lost after the run had ended
        return int(ending["exit_code"])
    try:
        if os.path.lexists(run_dir.private / NODE_FILE):  # an earlier try of this task
            prepare_to_resume(run_dir)
        command = [sys.executable, "-P", "-m", "engine.queue.child", path]
        process = launch(run_dir, command=command, variables=child_variables())
        write_record(run_dir.private / NODE_FILE, {"node": _node_name()})
    except LoraSmithError as error:
        write_exit(run_dir, "failed", error.exit_code, true_state(run_dir).step, **error.details)
        return int(error.exit_code)
    return process.wait()


def _wait_until_free(run_dir: RunDir) -> None:
    """Wait while another trainer works on the run. Where the file system has no locks, a run of another machine counts
    as ended when it has shown no life for a minute."""
    has_locks = _has_locks(run_dir)
    while is_locked(run_dir.lock_path) is not None or not (has_locks or _is_silent(run_dir)):
        time.sleep(LOOK_SECONDS)


def _is_silent(run_dir: RunDir) -> bool:
    """Whether the last trainer was on this machine, or has shown no life for a minute."""
    record = read_record(run_dir.state_path)
    updated = seconds(record.get("updated"))
    if record.get("host") == host() or record.get("state") not in ("running", "paused", "stopping"):
        return True
    return updated is None or time.time() - updated > SILENT_SECONDS


def _has_locks(run_dir: RunDir) -> bool:
    """Whether the file system of a run has locks, so that a free lock means that its trainer has ended."""
    try:
        with run_dir.meta_path.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return True


def _node_name() -> str:
    import ray

    context = ray.get_runtime_context()
    return f"{host()} {context.get_node_id()[:8]}"


def _first_line(error: Exception) -> str:
    """The first line of an error; Ray's have many."""
    return str(error).strip().partition("\n")[0]


def _require_answer(address: str) -> None:
    """Raise an OSError where nothing listens at HOST:PORT: Ray itself would wait for minutes."""
    host_name, _, port = address.removeprefix("ray://").partition("/")[0].rpartition(":")
    if host_name and port.isdecimal():
        socket.create_connection((host_name.strip("[]"), int(port)), ANSWER_SECONDS).close()


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError(
            "Ray is not installed.", "Install it with LoRA Smith: pip install 'lorasmith[cluster]'", code="no-ray"
        ) from None
    try:
        _require_answer(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False, namespace="lorasmith")
    except Exception as error:  # ConnectionError, RuntimeError, ValueError, of grpc too
        raise UsageError(
            f"There is no Ray cluster at {address}: {_first_line(error)}",
            "Start it with `ray start --head`, and give --on ray://HOST:10001, HOST:6379 or auto.",
            code="no-cluster",
        ) from error
    return ray
