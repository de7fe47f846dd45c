"""A text in the person's own editor."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import UsageError
from tui.texts import _

USUAL = ("nano", "vim", "vi")


def editor(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The words of the command: VISUAL, else EDITOR, else a usual editor that is installed.

    Raises:
        UsageError: none of them, or a variable that is no command.
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
            return words
    for name in USUAL:
        if path := shutil.which(name):
            return [path]
    raise UsageError(
        _("No editor is set, and none of {0} is installed.").format(", ".join(USUAL)),
        _("Set the environment variable EDITOR to the name of your editor."),
        code="editor-missing",
    )


def edit(text: str, suffix: str, command: Sequence[str]) -> str:
    """The text as it is when the editor has ended. It takes over the terminal.

    Args:
        text: what is edited, in a temporary file.
        suffix: of that file, by which editors choose their colours.
        command: from `editor`.

    Raises:
        UsageError: the editor does not start or reports an error; or the text is no UTF-8.
    """
    with tempfile.TemporaryDirectory(prefix="lorasmith-") as folder:
        path = Path(folder) / f"edit{suffix}"
        path.write_text(text, "utf-8")
        try:
            code = subprocess.call([*command, str(path)])
        except OSError as error:
            code, why = -1, str(error.strerror)
        else:
            why = _("it ended with code {0}").format(code)
        if code:
            raise UsageError(
                _("The editor {0} did not work: {1}.").format(command[0], why),
                _("Nothing was changed. VISUAL and EDITOR name the editor."),
                code="editor-failed",
            )
        try:
            return path.read_text("utf-8")
        except ValueError:
            raise UsageError(
                _("What the editor wrote is not UTF-8."), _("Nothing was changed."), code="editor-not-utf8"
            ) from None
