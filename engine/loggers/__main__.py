"""A logger's process: `python -m engine.loggers RUN_DIR NAME EVENT`. It follows the run and ends soon after it.

The trainer starts it and never waits for it while it trains. Its standard output has one line at most: why it failed.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from engine.masking import masked
from engine.runs.layout import RunDir

_NICE = 10
_LONGEST = 300
"""Characters of a reason."""


def main(arguments: list[str]) -> int:
    """Follow the run; 1 where the logger failed."""
    if len(arguments) != 3:
        print("usage: python -m engine.loggers RUN_DIR NAME EVENT", file=sys.stderr)
        return ExitCode.USAGE
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the run, which finishes its step first
    with suppress(OSError):
        os.nice(_NICE)
    channel = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to train.log
    from engine.loggers.following import Following, NotReadyError, Trainer, lock_of

    run_dir, name = RunDir(Path(arguments[0])), arguments[1]
    trainer = Trainer(os.getppid())
    trainer.end_with_it()
    try:
        with lock_of(run_dir, name):
            Following(run_dir, name, int(arguments[2])).run(trainer)
    except (LoraSmithError, NotReadyError) as error:
        _report(channel, str(error))
        return ExitCode.TRAINING_FAILED
    except BaseException as error:  # a library's own errors, and its calls of sys.exit
        traceback.print_exc()
        _report(channel, f"{type(error).__name__}: {error}")
        return ExitCode.TRAINING_FAILED
    return ExitCode.DONE


def _report(channel: int, reason: str) -> None:
    """Write why the logger failed to the trainer, or to train.log where that has ended."""
    line = " ".join(masked(reason).split())[:_LONGEST].encode("utf-8", "replace") + b"\n"
    try:
        os.write(channel, line)
    except OSError:
        with suppress(OSError):
            os.write(2, line)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # threads of a library must not keep the process
