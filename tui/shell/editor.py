"""A text in the person's own editor."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engine.errors import UsageError
from tui.texts import _

USUAL = ("nano", "vim", "vi")
_TAKES_LINE = frozenset(
    ("nano", "pico", "vi", "vim", "nvim", "emacs", "emacsclient", "kak", "micro", "joe", "mcedit", "ne", "mg")
)
"""Editors that open a file at a line by `+LINE`."""


def editor(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The words of the command: VISUAL, else EDITOR, else a usual editor that is installed.

    Raises:
        UsageError: none of them, or a variable that is no command or names one that is not installed.
    """
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(environment.get(variable, ""))
        except ValueError as error:
            raise UsageError(
                _("The environment variable {0} is not a command: {1}.").format(variable, error),
                _("Set it to the name of your editor, with quotes that are closed."),
                code="editor-not-readable",
            ) from None
        if words:
            if shutil.which(words[0]) is None:
                raise _failed(words[0], os.strerror(errno.EACCES if Path(words[0]).exists() else errno.ENOENT))
            return words
    for name in USUAL:
        if path := shutil.which(name):
            return [path]
    raise UsageError(
        _("No editor is set, and none of {0} is installed.").format(", ".join(USUAL)),
        _("Set the environment variable EDITOR to the name of your editor."),
        code="editor-missing",
    )


class EditedFile:
    """A text in a temporary file, which can be edited again until it is right. `close` removes it.

    Args:
        text: what is edited.
        suffix: of the file, by which editors choose their colours.
        command: from `editor`.
    """

    def __init__(self, text: str, suffix: str, command: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lorasmith-")
        self._path = Path(self._folder.name) / f"edit{suffix}"
        self._path.write_text(text, "utf-8")
        self._command = command

    def edit(self, line: int = 0) -> str:
        """The text as it is when the editor has ended. It takes over the terminal.

        Args:
            line: where the editor opens it, if it is one of those that can.

        Raises:
            UsageError: the editor does not start or reports an error; or the text is no UTF-8. The file stays.
        """
        name = self._command[0]
        at = [f"+{line}"] if line and Path(name).name in _TAKES_LINE else []
        try:
            code = subprocess.call([*self._command, *at, str(self._path)])
        except OSError as error:
            raise _failed(name, str(error.strerror)) from None
        if code:
            raise _failed(name, _ended(code))
        try:
            return self._path.read_text("utf-8")
        except ValueError:
            raise UsageError(
                _("What the editor wrote is not UTF-8."), _("Nothing was changed."), code="editor-not-utf8"
            ) from None
        except OSError as error:
            raise _failed(name, str(error.strerror)) from None

    def close(self) -> None:
        """Remove the file."""
        self._folder.cleanup()


def edit(text: str, suffix: str, command: Sequence[str]) -> str:
    """The text after one edit.

    Raises:
        UsageError: as with `EditedFile.edit`.
    """
    file = EditedFile(text, suffix, command)
    try:
        return file.edit()
    finally:
        file.close()


def _ended(code: int) -> str:
    """How an editor has failed, by its exit code."""
    with suppress(ValueError):
        if code < 0:
            return _("it was ended by the signal {0}").format(signal.Signals(-code).name)
    return _("it ended with code {0}").format(code)


def _failed(name: str, why: str) -> UsageError:
    return UsageError(
        _("The editor {0} did not work: {1}. Nothing was changed.").format(name, why),
        _("VISUAL and EDITOR name the editor."),
        code="editor-failed",
    )
