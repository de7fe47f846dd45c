"""A disk that refuses: system calls on chosen files fail with a chosen error, from Python's side, in this process."""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

OPERATIONS = ("open", "write", "fsync", "rename")


@dataclass
class Fault:
    """Which calls fail.

    Args:
        operation: one of `OPERATIONS`.
        number: the errno.
        where: a part of the path of the file that is written.
        times: calls that fail; None: all.
        armed: asked at each such call.
    """

    operation: str
    number: int
    where: str
    times: int | None = None
    armed: Callable[[], bool] = lambda: True
    failed: int = 0

    def strike(self, operation: str, path: object) -> None:
        """Raise where this call is to fail."""
        if operation != self.operation or self.where not in os.fsdecode(str(path)) or not self.armed():
            return
        if self.times is None or self.failed < self.times:
            self.failed += 1
            raise OSError(self.number, os.strerror(self.number), str(path))


class _Writer:
    """A file whose writes are asked first."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> Any:
        self._fault.strike("write", self._file.name)
        return self._file.write(data)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


@contextmanager
def failing(fault: Fault) -> Iterator[Fault]:
    """Inside, the calls of `fault` fail."""
    real_open, real_os_open, fsync, write = io.open, os.open, os.fsync, os.write
    replace, rename, output = os.replace, os.rename, sys.stdout.write

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = not isinstance(file, int) and bool(set(mode) & set("wax+"))
        if writes:
            fault.strike("open", file)
        made = real_open(file, mode, *arguments, **options)
        return _Writer(made, fault) if writes and fault.operation == "write" and fault.where in str(file) else made

    def os_opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):
            fault.strike("open", path)
        return real_os_open(path, flags, *arguments, **options)

    def with_name(operation: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: Any, *arguments: Any) -> Any:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            fault.strike(operation, Path(f"/proc/self/fd/{number}").readlink())
            return real(descriptor, *arguments)

        return call

    def moved(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(source: Any, target: Any, **options: Any) -> Any:
            fault.strike("rename", f"{source}\n{target}")
            return real(source, target, **options)

        return call

    def printed(text: str) -> int:
        fault.strike("write", "train.log")
        return output(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(builtins, "open", opened)
        patch.setattr(os, "open", os_opened)
        patch.setattr(os, "fsync", with_name("fsync", fsync))
        patch.setattr(os, "write", with_name("write", write))
        patch.setattr(os, "replace", moved(replace))
        patch.setattr(os, "rename", moved(rename))
        patch.setattr(sys.stdout, "write", printed)
        yield fault
