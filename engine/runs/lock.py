"""The lock that the trainer's main process holds for its lifetime: the kernel frees it however the process ends.

POSIX record locks (`fcntl.lockf`) and not `flock`: a forked DataLoader worker does not keep them. But any close of the
file in the holding process drops the lock. So it is opened once, and queries of the holder about its own lock are
answered from memory.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import UsageError, storing
from engine.reading import NotRegularFileError, open_file, open_for_writing
from engine.runs.identity import is_alive, own_identity
from engine.runs.layout import read_record, record_root
from engine.runs.values import MAX_PID, count, number
from engine.text import attach_line, printable

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_own_locks: dict[Path, LockInfo] = {}
_files: dict[Path, int] = {}


@dataclass(frozen=True)
class LockInfo:
    """The process that holds a run's lock."""

    pid: int
    process_start: float | None = None
    boot_id: str = ""
    host: str = ""


class RunLock:
    """Held by the trainer while it lives. Take it after the signal handlers are in place, before the slow imports.

    Raises:
        UsageError: another process holds it.
        StorageError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        assert path not in _own_locks, "one process takes a run's lock once"
        with storing(path):
            try:
                self._file = open_for_writing(path, os.O_RDWR | os.O_CREAT, below=record_root(path))
            except NotRegularFileError as error:
                raise UsageError(
                    f"{error.filename}: {error.strerror}.", "Delete it.", code="lock-not-regular"
                ) from error
            self._lock()
            identity = own_identity()
            try:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, (json.dumps(identity) + "\n").encode(), 0)
            except OSError:
                os.close(self._file)
                raise
        _own_locks[path], _files[path] = _info(identity), self._file

    def _lock(self) -> None:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return  # a file system without locks: pid, start time and boot id are checked instead
            os.close(self._file)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            holder = is_locked(self.path)
            run = self.path.parent.parent
            who = f"process {holder.pid}" if holder else "another process"
            raise UsageError(
                f"{who} already trains in {printable(run)}: two runs on one directory are not possible.",
                f"Watch it with:\n  {attach_line(run)}",
                code="run-is-live",
            ) from error

    def release(self) -> None:
        """Release the lock; the end of the process does it as well."""
        if _own_locks.pop(self.path, None) is not None:
            os.close(_files.pop(self.path))

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def keep_lock(path: Path) -> None:
    """Keep a lock of this process through `execve`; the new program then takes it again."""
    os.set_inheritable(_files[path], True)


def is_locked(path: Path) -> LockInfo | None:
    """The holder of the lock `path`, without touching it; None when nobody holds it, or it does not exist."""
    if path in _own_locks:
        return _own_locks[path]
    try:
        file = open_file(path, below=record_root(path))
    except OSError:
        return None
    with file:
        try:
            holder = _holder(file.fileno())
        except OSError:
            identity = read_record(path)
            return _info(identity) if is_alive(identity) else None
    if holder is None:
        return None
    info = _info(read_record(path))
    return info if holder <= 0 or info.pid == holder else LockInfo(holder)


def _holder(file: int) -> int | None:
    """The pid that holds a write lock (0 or -1: of another host or container), by F_GETLK."""
    layout = "qqihh" if sys.platform == "darwin" else "hhqqi"
    query = (0, 0, 0, fcntl.F_WRLCK, 0) if sys.platform == "darwin" else (fcntl.F_WRLCK, 0, 0, 0, 0)
    answer = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *query)))
    kind, pid = (answer[3], answer[2]) if sys.platform == "darwin" else (answer[0], answer[4])
    return None if kind == fcntl.F_UNLCK else int(pid)


def _info(identity: dict[str, Any]) -> LockInfo:
    return LockInfo(
        count(identity.get("pid"), MAX_PID) or 0,
        number(identity.get("process_start")),
        str(identity.get("boot_id", "")),
        str(identity.get("host", "")),
    )
