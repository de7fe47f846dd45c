"""The entry point of `lorasmith`: runs the command line, and turns every end into an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from tui import output
from tui.cli import cli


def main() -> None:
    """`lorasmith` in the shell."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code. What went wrong is said on stderr."""
    output.prepare_streams()
    try:
        value = cli.main(args=list(arguments), prog_name="lorasmith", standalone_mode=False)
        sys.stdout.flush()
        return int(value or 0)
    except LoraSmithError as error:
        output.show_error(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # The reader went away. What Python still holds for it would raise once more at the end of the process.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.TRAINING_FAILED
    except Exception:
        traceback.print_exc()
        return ExitCode.TRAINING_FAILED


if __name__ == "__main__":
    main()
