"""The errors that a person can mend. Each says what, where and how; a traceback is for our own mistakes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from engine.exit_codes import ExitCode


class LoraSmithError(ValueError):
    """A person's mistake or a machine's limit, told in one sentence.

    Args:
        message: what is wrong and where, one plain sentence.
        hint: how to mend it; may be empty.
    """

    title: ClassVar[str] = "Error"
    exit_code: ClassVar[ExitCode] = ExitCode.TRAINING_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(LoraSmithError):
    """The command or the configuration asks for something that cannot be."""

    title = "Wrong use"
    exit_code = ExitCode.USAGE


class DataError(LoraSmithError):
    """Pictures or captions are missing or broken."""

    title = "Pictures"
    exit_code = ExitCode.BAD_DATA


class ModelError(LoraSmithError):
    """A model or LoRA file is missing, broken or of the wrong kind."""

    title = "Model file"
    exit_code = ExitCode.BAD_DATA


class TrainingError(LoraSmithError):
    """The training cannot go on."""

    title = "Training"
    exit_code = ExitCode.TRAINING_FAILED


class MemoryLimitError(LoraSmithError):
    """Out of memory, and no remedy is left."""

    title = "Out of memory"
    exit_code = ExitCode.OUT_OF_MEMORY


class StorageError(LoraSmithError):
    """A file cannot be written: no space, no permission, read-only."""

    title = "Storage"
    exit_code = ExitCode.NO_SPACE


_STORAGE_CAUSES = {
    errno.ENOSPC: ("no space left on the device", "Free some space there, or choose another --output_dir."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose another --output_dir."),
    errno.EACCES: ("permission denied", "Give yourself write permission there, or choose another --output_dir."),
    errno.EPERM: ("permission denied", "Give yourself write permission there, or choose another --output_dir."),
    errno.EROFS: ("the file system is read-only", "Choose another --output_dir."),
    errno.EFBIG: ("the file is larger than this process may write", "Raise the file size limit (ulimit -f)."),
}
_OTHER_HINTS = {errno.ENAMETOOLONG: "Choose another --output_dir, with a shorter path."}
_DEVICE_HINT = "Check the disk and its connection, or choose another --output_dir."


def is_storage_limit(error: OSError) -> bool:
    """Whether the system's reason can only concern a file that is written: no space, no permission, read-only."""
    return error.errno in _STORAGE_CAUSES


def storage_error(error: OSError, path: Path, doing: str) -> StorageError | None:
    """The sentence for an OSError met while writing `path`; None when memory ran out, which no disk can help."""
    if error.errno == errno.ENOMEM:
        return None
    number = error.errno or 0
    other = error.strerror or str(error) or "unknown error", _OTHER_HINTS.get(number, _DEVICE_HINT)
    reason, hint = _STORAGE_CAUSES.get(number, other)
    return StorageError(f"{doing} {path} failed: {reason}.", hint)


@contextmanager
def storing(path: Path, doing: str = "Writing") -> Iterator[None]:
    """Turn what the system reports about writing `path` into a StorageError; an out-of-memory stays what it is."""
    try:
        yield
    except OSError as error:
        known = storage_error(error, path, doing)
        if known is None:
            raise
        raise known from error


def causes(error: BaseException, *, context: bool = False) -> Iterator[BaseException]:
    """`error` and what it was raised from, each once: a chain may lead back to itself.

    Args:
        context: also follow what was being handled where an error names no cause.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (cause.__context__ if context else None)
