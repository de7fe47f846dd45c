"""Identifies machine and process: a process id alone is ambiguous after a reboot or on another host."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path

from engine.processes import process_start as process_start
from engine.runs.values import MAX_PID, count


@cache
def host() -> str:
    """The name of this machine (of this container, inside one)."""
    return socket.gethostname()


@cache
def boot_id() -> str:
    """Changes with every boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def own_identity() -> dict[str, object]:
    """pid, start time, boot id and host of this process."""
    return identity_of(os.getpid())


def identity_of(pid: int) -> dict[str, object]:
    """pid, start time, boot id and host of a process of this machine."""
    return {"pid": pid, "process_start": process_start(pid), "boot_id": boot_id(), "host": host()}


def is_alive(identity: dict[str, object]) -> bool:
    """True when the process of `identity` still runs on this machine."""
    pid = count(identity.get("pid"), MAX_PID)
    if pid is None or identity.get("host") != host() or identity.get("boot_id") != boot_id():
        return False
    start = process_start(pid)
    return start is not None and start == identity.get("process_start")
