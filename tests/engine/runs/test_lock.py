"""The trainer's lock: seen by others, freed by any death, not kept by its children."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from engine.runs.identity import identity_of, is_alive, own_identity, process_start
from engine.runs.lock import RunLock, is_locked
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import os, sys, time
from pathlib import Path
from engine.runs.lock import RunLock, is_locked
lock = RunLock(Path(sys.argv[1]))
assert is_locked(Path(sys.argv[1])).pid == os.getpid()
child = os.fork() if len(sys.argv) > 2 else 1
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


def hold(path: Path, *fork: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path), *fork]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert process.stdout is not None
    process.child = int(process.stdout.readline())  # type: ignore[attr-defined]
    return process


def test_nobody_holds_a_missing_or_free_lock(tmp_path: Path) -> None:
    assert is_locked(tmp_path / "lock") is None
    RunLock(tmp_path / "lock").release()
    assert is_locked(tmp_path / "lock") is None


def test_another_process_sees_the_holder_and_cannot_take_it(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock")
    try:
        info = is_locked(tmp_path / "lock")
        assert info is not None and info.pid == process.pid
        assert info.process_start == process_start(process.pid)
        with refused("run-is-live", process.pid):
            RunLock(tmp_path / "lock")
        assert is_locked(tmp_path / "lock") == info
    finally:
        process.kill()
        process.wait()
    assert is_locked(tmp_path / "lock") is None
    RunLock(tmp_path / "lock").release()


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock", "fork")
    try:
        process.kill()
        process.wait()
        os.kill(process.child, 0)  # type: ignore[attr-defined]
        assert is_locked(tmp_path / "lock") is None
    finally:
        os.kill(process.child, signal.SIGKILL)  # type: ignore[attr-defined]


def test_the_holder_may_query_without_losing_it(tmp_path: Path) -> None:
    with RunLock(tmp_path / "lock") as lock:
        first = is_locked(lock.path)
        assert first is not None and first.pid == os.getpid()
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            assert pool.apply(is_locked, (lock.path,)) == first


def test_alive_means_the_very_process(eventually: Callable[..., None]) -> None:
    assert is_alive(own_identity())
    assert not is_alive({**own_identity(), "process_start": 1.0})
    assert not is_alive({**own_identity(), "boot_id": "another boot"})
    assert not is_alive({**own_identity(), "host": "another host"})
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    identity = identity_of(process.pid)
    assert is_alive(identity)
    process.kill()
    eventually(lambda: not is_alive(identity))  # dead though nobody has waited for it yet
    process.wait()
