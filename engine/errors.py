"""The errors that a person can mend. Each says what, where and how; a traceback is for our own mistakes."""

from __future__ import annotations

import errno
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


def storage_error(error: OSError, path: Path, doing: str) -> StorageError | None:
    """The sentence for an OSError met while writing `path`; None when it is not a storage limit."""
    cause = _STORAGE_CAUSES.get(error.errno or 0)
    if cause is None:
        return None
    return StorageError(f"{doing} {path} failed: {cause[0]}.", cause[1])
