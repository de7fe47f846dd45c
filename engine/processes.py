"""Whether processes are alive, and children that end with their parent, whatever they are doing."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import engine

PARENT = "LORASMITH_PARENT"
"""Environment variable of a child: its parent, and whether the main thread of that started the child."""
LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


_OF_LAUNCHERS = {
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMI_SIZE", "PMI_RANK",
    "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK",
    "LORASMITH_LEADER",
}  # fmt: skip
"""Variables of cluster launchers: with them a trainer would wait for others that do not exist."""
_PREFIXES = ("ACCELERATE_", "TORCHELASTIC_")
_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it cuBLAS may add in another order each time
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_OF_THE_ALLOCATOR = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}
"""A person's own value is kept. Expandable segments reduce fragmentation."""


@contextmanager
def large_imports() -> Iterator[None]:
    """For the imports of torch and the libraries on it: Python collects no garbage within, and none of what exists at
    the end later.

    They create a million objects that stay until the process ends. Each search among them for garbage takes a quarter
    of a second, and there would be a few until the first step. Does nothing where torch is imported already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def process_start(pid: int) -> float | None:
    """When process `pid` started, in the system's unit (Linux: clock ticks since boot); None when it is not alive.

    It distinguishes two processes that had the same id. A zombie counts as dead.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return _process_start_elsewhere(pid) if not Path("/proc/self/stat").exists() else None
    fields = stat[stat.rindex(b")") + 2 :].split()  # the name before ")" may hold spaces
    return None if fields[0] in (b"Z", b"X") else float(fields[19])


def _process_start_elsewhere(pid: int) -> float | None:
    import psutil  # 100 ms, and only where /proc is missing

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(process.create_time())
    except psutil.Error:
        return None


def started_at(pid: int) -> float | None:
    """When process `pid` started, in seconds since 1970; None when it is not alive."""
    start = process_start(pid)
    if start is None or not Path("/proc/self/stat").exists():
        return start
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / os.sysconf("SC_CLK_TCK")


def child_variables() -> dict[str, str]:
    """Variables for a child that calls `end_with_parent`; call it in the thread that starts the child."""
    return {PARENT: parent_token()}


def parent_token() -> str:
    """This process and the kind of the calling thread, for `end_with_parent`."""
    return f"{os.getpid()} {'main' if threading.get_native_id() == os.getpid() else 'thread'}"


def end_with_parent(token: str | None = None) -> None:
    """End this process when its parent ends. Call it first; does nothing without a token.

    On Linux the kernel kills it, even while it is stopped or inside a call that lets no Python run. The kernel does so
    when the *thread* ends that started this process, so this is used only for a parent's main thread. A thread that
    polls the parent covers other threads and other systems.

    Args:
        token: the parent's `parent_token()`; None: from the environment, where it is removed, as it is not meant for
            this process's own children.
    """
    token = token or os.environ.pop(PARENT, "")
    number, _, thread = token.partition(" ")
    if not number:
        return
    parent = int(number)
    if thread == "main" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)


def trainer_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The trainer's environment: this one, offline, with the path of `engine` where it runs from a checkout."""
    own = {name: value for name, value in base.items() if name not in _OF_LAUNCHERS and not name.startswith(_PREFIXES)}
    environment = {**own, **_ENVIRONMENT}
    if not _OF_THE_ALLOCATOR & own.keys():
        environment["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
    home = Path(engine.__file__).resolve().parent.parent
    if not {"site-packages", "dist-packages"} & set(home.parts):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), base.get("PYTHONPATH")]))
    return environment
