"""The errors that a person can fix, each with what, where and how. Our own mistakes keep their traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from engine.exit_codes import ExitCode


class LoraSmithError(ValueError):
    """A person's mistake or a machine's limit, in one sentence.

    Args:
        message: what is wrong and where, one plain sentence.
        hint: how to fix it; may be empty.
        code: which error it is, for programs and tests: words joined by hyphens, the same in every version.
    """

    title: ClassVar[str] = "Error"
    exit_code: ClassVar[ExitCode] = ExitCode.TRAINING_FAILED

    def __init__(self, message: str, hint: str = "", *, code: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code

    @property
    def details(self) -> dict[str, str]:
        """Code, title, message and hint, as events and exit.json have them."""
        return {"code": self.code, "title": self.title, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(LoraSmithError):
    """The command or the configuration asks for something impossible."""

    title = "Usage error"
    exit_code = ExitCode.USAGE


def raise_together(errors: Sequence[LoraSmithError]) -> None:
    """Raise a single error as it is, and several as one with a line for each, with the code of the first."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise UsageError("\n".join(str(error) for error in errors), code=errors[0].code)


def check_all(*checks: Callable[[], object]) -> None:
    """Make all checks, of which none needs another, and raise their errors together."""
    errors: list[LoraSmithError] = []
    for check in checks:
        try:
            check()
        except LoraSmithError as error:
            errors.append(error)
    raise_together(errors)


class DataError(LoraSmithError):
    """Images or captions are missing or broken."""

    title = "Images"
    exit_code = ExitCode.BAD_DATA


class ModelError(LoraSmithError):
    """A model or LoRA file is missing, broken or of the wrong kind."""

    title = "Model file"
    exit_code = ExitCode.BAD_DATA


class TrainingError(LoraSmithError):
    """The training cannot continue."""

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


_NO_PERMISSION = (
    "not-writable", "permission denied", "Give yourself write permission there, or choose another --output_dir."
)  # fmt: skip
_STORAGE_CAUSES = {
    errno.ENOSPC: (
        "disk-full", "no space left on the device", "Free some space there, or choose another --output_dir."
    ),
    errno.EDQUOT: ("disk-quota", "the disk quota is used up", "Free some space, or choose another --output_dir."),
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EROFS: ("file-system-read-only", "the file system is read-only", "Choose another --output_dir."),
    errno.EFBIG: (
        "file-size-limit", "the file is larger than this process may write", "Raise the file size limit (ulimit -f)."
    ),
}  # fmt: skip
"""Code, reason and hint by error number."""
_OTHER_HINTS = {errno.ENAMETOOLONG: "Choose another --output_dir, with a shorter path."}
_DEVICE_HINT = "Check the disk and its connection, or choose another --output_dir."


def is_storage_limit(error: OSError) -> bool:
    """Whether the error can only come from writing a file: no space, no permission, read-only."""
    return error.errno in _STORAGE_CAUSES


def storage_error(error: OSError, path: Path, doing: str) -> StorageError | None:
    """The error for an OSError while writing `path`; None when memory ran out, which is no problem of the disk."""
    if error.errno == errno.ENOMEM:
        return None
    number = error.errno or 0
    other = "write-failed", error.strerror or str(error) or "unknown error", _OTHER_HINTS.get(number, _DEVICE_HINT)
    code, reason, hint = _STORAGE_CAUSES.get(number, other)
    return StorageError(f"{doing} {path} failed: {reason}.", hint, code=code)


@contextmanager
def storing(path: Path, doing: str = "Writing") -> Iterator[None]:
    """Turn an OSError while writing `path` into a StorageError; an out-of-memory stays as it is."""
    try:
        yield
    except OSError as error:
        converted = storage_error(error, path, doing)
        if converted is None:
            raise
        raise converted from error


def causes(error: BaseException, *, context: bool = False) -> Iterator[BaseException]:
    """`error` and its causes, each once: a chain may contain a cycle.

    Args:
        context: also follow `__context__` where an error has no cause.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (cause.__context__ if context else None)
