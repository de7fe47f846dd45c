"""Work in a child process, so that the parent stays quick and loads nothing heavy: both ends of the pipe. No torch.

The process reads requests on standard input and answers them in order on standard output, one JSON object a line:
any number of `progress` ([what, done, total]) and `event`, at the end `answer`, or `error` with `message` and `hint`.
It ends with its parent. What libraries print goes to standard error, which is kept for the reason of a failure.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any, Self, TextIO

from engine import errors
from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from engine.processes import child_variables, end_with_parent, trainer_environment

OnProgress = Callable[[str, int, int], object]
"""Called with (what is done, count, total)."""
POLL_SECONDS = 0.2
"""Interval at which `cancelled` is called."""
_REPORT_SECONDS = 0.1
"""Shortest interval between two reports of progress."""


class Cancelled(Exception):
    """The request was cancelled; the process has ended."""


class Worker:
    """A process that answers requests; it starts with the first request and ends with the `with` block.

    Args:
        module: `python -m module` calls `serve`.
        title: subject of the sentence about a failure: "The memory plan".
        failure: the error class raised then.
        hint: what a person can do about it.
        patience: seconds to save results and clean up before it is killed.
        variables: additional environment variables.
        waiting: called before the start, which takes time.
        command: replaces `python -m module`; for tests.
    """

    def __init__(
        self,
        module: str,
        title: str,
        *,
        failure: type[LoraSmithError] = LoraSmithError,
        hint: str = "Please report this.",
        patience: float = 0.0,
        variables: Mapping[str, str] | None = None,
        waiting: Callable[[], None] = lambda: None,
        command: Sequence[str] | None = None,
    ) -> None:
        self.title, self._failure, self._hint = title, failure, hint
        self._patience, self._variables, self._waiting = patience, variables or {}, waiting
        self._command = list(command or (sys.executable, "-P", "-m", module))
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(
        self,
        request: Mapping[str, Any],
        progress: OnProgress = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        """The answer to a request; arguments and errors as of `messages`.

        Args:
            progress: called in this thread.
        """
        messages = self.messages(request, cancelled)
        while True:
            try:
                message = next(messages)
            except StopIteration as end:
                answer: dict[str, Any] = end.value
                return answer
            if "progress" in message:
                progress(*message["progress"])

    def messages(
        self, request: Mapping[str, Any], cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[dict[str, Any], None, dict[str, Any]]:
        """Yield the reports of the process and return its answer. Closing the generator early ends the process.

        Args:
            request: becomes JSON.
            cancelled: polled; True ends the process.

        Raises:
            LoraSmithError: the error of the process as it was raised there, or `failure`.
            Cancelled: `cancelled` returned True.
        """
        answered = False
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                raise self._failed(process) from None
            while True:
                message = json.loads(self._line(process, cancelled))
                answered = "answer" in message or "error" in message
                if answered:
                    break
                yield message
        finally:
            if not answered:  # still computing something that nobody waits for
                self.close()
        if "error" in message:
            kind = getattr(errors, message["error"], None) if message["error"] else None
            if isinstance(kind, type) and issubclass(kind, LoraSmithError):
                raise kind(message["message"], message["hint"], code=message.get("code", ""))
            raise self._failure(f"{self.title} failed: {message['message']}", self._hint, code="worker-failed")
        return dict(message["answer"])

    def close(self) -> None:
        """End the process, whatever it is doing. Files that it has written stay."""
        process, self._process, self._read = self._process, None, b""
        if process is not None:
            _end(process, self._patience)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _start(self) -> subprocess.Popen[bytes]:
        self._waiting()
        # A pipe that nobody reads would stop the process when it is full.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0,
            env={**trainer_environment(), **child_variables(), **self._variables}, start_new_session=True,
        )  # fmt: skip
        return self._process

    def _line(self, process: subprocess.Popen[bytes], cancelled: Callable[[], bool]) -> bytes:
        assert process.stdout is not None
        while b"\n" not in self._read:
            if cancelled():
                raise Cancelled
            if select.select([process.stdout], [], [], POLL_SECONDS)[0]:
                piece = os.read(process.stdout.fileno(), 2**16)
                if not piece:
                    raise self._failed(process)
                self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line

    def _failed(self, process: subprocess.Popen[bytes]) -> LoraSmithError:
        """The error for a process that ended without an answer."""
        code = process.wait()
        lines: list[str] = []
        if self._log is not None:
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
        if code < 0:
            reason = f"its process was ended by {signal.Signals(-code).name}."
        else:
            reason = lines[-1] if lines else f"exit code {code}."
        return self._failure(f"{self.title} failed: {reason}", self._hint, code="worker-failed")


def ask(
    module: str,
    request: Mapping[str, Any],
    title: str,
    progress: OnProgress = lambda *_: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The answer to one request, from a process that ends afterwards: see `Worker`."""
    with Worker(module, title, patience=10.0) as worker:
        return worker.ask(request, progress, cancelled)


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    if patience:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    process.kill()
    process.wait()


class Reporter:
    """Sends reports from the process; reports of progress are rate-limited."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last, self._what = 0.0, ""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report a progress."""
        now = time.monotonic()
        if what != self._what or done == total or now - self._last >= _REPORT_SECONDS:
            self._last, self._what = now, what
            self.send(progress=[what, done, total])

    def event(self, **values: Any) -> None:
        """Report something else; never rate-limited."""
        self.send(event=values)

    def send(self, **message: Any) -> None:
        """Write one line."""
        print(json.dumps(message), file=self._out, flush=True)


def serve(work: Callable[[Any, Reporter], Mapping[str, Any]]) -> int:
    """The child's side: answer every request with the result of `work`; returns the exit code."""
    end_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    reporter = Reporter(os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is not a message
    try:
        for line in sys.stdin:
            reporter.send(**_answer(work, json.loads(line), reporter))
    except BrokenPipeError:
        return ExitCode.STOPPED  # the parent is gone
    return ExitCode.DONE


def _answer(work: Callable[[Any, Reporter], Mapping[str, Any]], request: Any, reporter: Reporter) -> dict[str, Any]:
    try:
        return {"answer": dict(work(request, reporter))}
    except BrokenPipeError:
        raise
    except LoraSmithError as error:
        return {"error": type(error).__name__, **error.details}
    except Exception as error:
        traceback.print_exc()
        return {"error": "", "message": f"{type(error).__name__}: {str(error).partition(os.linesep)[0]}", "hint": ""}


def _stop(*_: object) -> None:
    sys.exit(ExitCode.STOPPED)  # runs every `finally`: results are kept, partial files are removed
