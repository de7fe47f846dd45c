"""Which processes live, and children that end with their parent, whatever they are doing."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PARENT = "LORASMITH_PARENT"
"""Environment variable of a child: the process that it ends with, and whether its main thread started the child."""
LOOK_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1


def process_start(pid: int) -> float | None:
    """When process `pid` began, in the system's own unit (Linux: clock ticks since boot); None when it is not alive.

    Two processes that reuse one id differ in it. A zombie counts as dead.
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
    """When process `pid` began, in seconds since 1970; None when it is not alive."""
    start = process_start(pid)
    if start is None or not Path("/proc/self/stat").exists():
        return start
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + start / os.sysconf("SC_CLK_TCK")


def child_variables() -> dict[str, str]:
    """What goes into the environment of a child that calls `end_with_parent`; call it in the thread that starts it."""
    return {PARENT: parent_word()}


def parent_word() -> str:
    """This process, and the kind of the calling thread, as `end_with_parent` reads them."""
    return f"{os.getpid()} {'main' if threading.get_native_id() == os.getpid() else 'thread'}"


def end_with_parent(word: str | None = None) -> None:
    """End this process when its parent does. Call it first of all; does nothing where no parent is named.

    On Linux the kernel kills it, even while it is stopped or inside a call that lets no Python run. The kernel does so
    when the *thread* ends that started this process, so only a parent's main thread can be relied on that way. A thread
    that looks at the parent covers other threads and other systems.

    Args:
        word: the parent's `parent_word()`; None: from the environment, where it is removed, as it is not meant for
            this process's own children.
    """
    word = word or os.environ.pop(PARENT, "")
    number, _, thread = word.partition(" ")
    if not number:
        return
    parent = int(number)
    if thread == "main" and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before
        os._exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
