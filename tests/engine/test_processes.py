"""Children end with their parent, whatever they are doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.processes import PARENT, child_variables, end_with_parent, process_start
from tests.gone import still_there

ROOT = Path(__file__).resolve().parents[2]
DOING = {
    "waiting": "time.sleep(600)",
    "blocked on a pipe that nobody writes": "os.mkfifo(sys.argv[1]); open(sys.argv[1]).read()",
    "inside a call that lets no Python run": "ctypes.PyDLL(None).sleep(600)",
    "stopped": "os.kill(os.getpid(), signal.SIGSTOP)",
    "ignoring signals": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)",
    "computing": "[0 for _ in iter(int, 1)]",
}
CHILD = "import ctypes, os, signal, sys, time; from engine.processes import end_with_parent; end_with_parent(); {}"
PARENTS = """
import os, subprocess, sys, threading, time
from engine.processes import child_variables
def start():
    child = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1], sys.argv[2]], env=dict(os.environ, **child_variables()),
        stdin=subprocess.DEVNULL, start_new_session=True)
    print(child.pid, flush=True)
    return child
if sys.argv[3] == "thread":
    child = []
    thread = threading.Thread(target=lambda: child.append(start()))
    thread.start()
    thread.join()
else:
    start()
sys.stdin.read(1)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("doing", "thread"),
    [(doing, "main") for doing in DOING]
    + [(doing, "thread") for doing in DOING if doing not in ("stopped", "inside a call that lets no Python run")],
)
@pytest.mark.parametrize("how", [signal.SIGKILL, None])
def test_a_child_ends_with_its_parent(doing: str, thread: str, how: signal.Signals | None, tmp_path: Path) -> None:
    """Killed or ended by itself. From another thread than the first, a child that can run no Python is out of reach."""
    command = [sys.executable, "-c", PARENTS, CHILD.format(DOING[doing]), str(tmp_path / "pipe"), thread]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert parent.stdin is not None and parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        time.sleep(0.5)
        assert process_start(child) is not None, "it lives as long as its parent, whatever becomes of the thread"
        if how is None:
            parent.stdin.close()
        else:
            parent.send_signal(how)
        parent.wait(20)
        assert still_there([child]) == []
    finally:
        if process_start(child) is not None:
            os.kill(child, signal.SIGKILL)
        parent.stdout.close()


def test_a_child_that_comes_too_late_ends_at_once() -> None:
    command = [sys.executable, "-c", CHILD.format("time.sleep(600)")]
    done = subprocess.run(command, env={**os.environ, PARENT: "1 main"}, cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 1


def test_without_a_parent_nothing_happens_and_grandchildren_are_not_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    end_with_parent()
    assert child_variables() == {PARENT: f"{os.getpid()} main"}
    code = (
        f"import os; from engine.processes import end_with_parent; end_with_parent(); print({PARENT!r} in os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **child_variables()}, cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"


def test_large_imports_leave_no_work_for_the_garbage_collector() -> None:
    program = """
import gc, sys
from engine.processes import large_imports
for _ in range(2):
    with large_imports():
        print(gc.isenabled(), "torch" in sys.modules)
        sys.modules["torch"] = sys
    print(gc.isenabled(), gc.get_freeze_count() > 1000)
    gc.unfreeze()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["False False", "True True", "True True", "True False"]


def test_a_trainer_imports_its_libraries_without_the_garbage_collector() -> None:
    program = """
import gc, sys, types
from engine.training import __main__ as trainer
sys.modules["engine.training.trainer"] = module = types.ModuleType("trainer")
module.__getattr__ = lambda name: print(name, gc.isenabled())
trainer._train(types.SimpleNamespace(run=None, is_main=True), None)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "train False" in done.stdout
