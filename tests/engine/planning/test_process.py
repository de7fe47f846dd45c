"""The planner's process as a process."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

PATIENCE = 60
"""Seconds after which the process is taken to stay for ever."""


def test_it_ends_with_the_process_that_started_it() -> None:
    requests, held_open = os.pipe()
    shell = f"exec 3<&0; {sys.executable} -m engine.planning $$ <&3 & echo; wait"
    parent = subprocess.Popen(["sh", "-c", shell], stdin=requests, stdout=subprocess.PIPE, bufsize=0)
    assert parent.stdout is not None
    try:
        assert parent.stdout.read(1) == b"\n"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        ended, _, _ = select.select([parent.stdout], [], [], PATIENCE)
        assert ended and parent.stdout.read(1) == b""
    finally:
        os.close(held_open)
        os.close(requests)
        parent.stdout.close()
