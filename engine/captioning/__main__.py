"""The captioning process: `python -m engine.captioning JOB_DIR`."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from engine.captioning.job import CaptionJob
from engine.captioning.process import Work
from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from engine.masking import masked
from engine.processes import end_with_parent
from engine.runs.integrity import require_sound
from engine.runs.lock import RunLock


def main(arguments: list[str]) -> int:
    """Run the job in the given directory; the exit code is also written to exit.json."""
    end_with_parent()  # for a trial; a job has no such parent and continues on its own
    if len(arguments) != 1:
        print("usage: python -m engine.captioning JOB_DIR", file=sys.stderr)
        return ExitCode.USAGE
    job = CaptionJob(Path(arguments[0]))
    try:
        require_sound(job)
        lock = RunLock(job.lock_path)
    except LoraSmithError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    with lock:
        job.exit_path.unlink(missing_ok=True)
        work = Work(job)
        work.install_signals()
        try:
            return work.run()
        except LoraSmithError as error:
            print(masked(traceback.format_exc()), file=sys.stderr)
            return work.fail(error)
        except Exception as error:
            print(masked(traceback.format_exc()), file=sys.stderr)
            return work.finish(
                "failed",
                ExitCode.TRAINING_FAILED,
                code="unexpected",
                title="Unexpected error",
                message=masked(f"{type(error).__name__}: {error}"),
                hint=f"The full traceback is in {job.log_path}.",
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
