"""The entry point of `lorasmith`: runs the command line, and turns every end into an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from engine.errors import LoraSmithError, StorageError, UsageError, is_storage_limit
from engine.exit_codes import ExitCode
from engine.text import printable
from tui.shell import output
from tui.shell.setting_hint import setting_hint

COMPLETION = "_LORASMITH_COMPLETE"
"""Set by a shell that completes a command line."""


def main() -> None:
    """`lorasmith` in the shell."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. Errors are printed on stderr."""
    output.prepare_streams()
    try:
        code = _command(arguments) if arguments or COMPLETION in os.environ else _screen()
        sys.stdout.flush()
        return code
    except LoraSmithError as error:
        output.show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader went away. What Python still holds for it would raise once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.TRAINING_FAILED
    except OSError as error:
        refusal = _as_refusal(error)
        if refusal is None:
            traceback.print_exc()
            return ExitCode.TRAINING_FAILED
        output.show_error(refusal)
        return refusal.exit_code
    except Exception:
        traceback.print_exc()
        return ExitCode.TRAINING_FAILED


def _command(arguments: Sequence[str]) -> int:
    import click

    from tui.cli import cli

    try:
        return int(cli.main(args=list(arguments), prog_name="lorasmith", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        if isinstance(error, click.NoSuchOption) and (hint := setting_hint(error.option_name, arguments)):
            output.message(hint)
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED


def _screen() -> int:
    """`lorasmith` alone: without click, whose import is a tenth of the time to the first paint."""
    from tui.start import show

    return show()


def _as_refusal(error: OSError) -> LoraSmithError | None:
    """The error for a path that a person named and the system refuses; None for what may be our mistake."""
    if not error.filename:
        return None
    path = Path(os.fsdecode(error.filename))
    sentence = f"{printable(path)}: {error.strerror}."
    if is_storage_limit(error):
        return StorageError(sentence, "Check its permissions, and the space there.", code="write-failed")
    if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR):
        return UsageError(sentence, "Check the path.", code="path-not-possible")
    return None


if __name__ == "__main__":
    main()
