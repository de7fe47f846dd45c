"""What the screen costs: its start against that of an empty Textual app, and its work at rest while a run trains.

    python benchmarks/tui.py [--starts 11] [--seconds 60]

Everything happens in a pseudo-terminal of 80 × 24, in a home of its own. The starts of both sides alternate; first
paint is when the heading of the list of runs, or the empty app's first row, has reached the terminal. The run at rest
is a fake trainer that writes a step into the events three times a second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "terminal")]

from terminal import Terminal  # noqa: E402

from engine.config import RunConfig  # noqa: E402
from engine.runs import RunDir, prepare_run  # noqa: E402
from engine.runs.launch import launch  # noqa: E402

EMPTY = [sys.executable, "-c", "from textual.app import App; App().run()"]
LORASMITH = [sys.executable, "-m", "tui.main"]
FAKE_TRAINER = ROOT / "tests" / "engine" / "runs" / "fake_trainer.py"
GOALS = {"start": 1.3, "cpu": 2.0, "bytes": 4096, "low bandwidth": 25.0}
WARM_UP = 10.0
"""Seconds after its start in which the dashboard may work: it reads the history and renders."""


def environment(home: Path) -> dict[str, str]:
    """This environment with a home of its own and an ordinary terminal."""
    own = {name: str(home) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    return {**os.environ, **own, "TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}


def first_paint(command: Sequence[str], variables: dict[str, str], sign: bytes) -> float:
    """Seconds from the start of the process until `sign` has reached the terminal."""
    begun = time.monotonic()
    terminal = Terminal(command, variables)
    try:
        terminal.until(lambda: sign in terminal.raw)
        return time.monotonic() - begun
    finally:
        terminal.close()


def starts(count: int, variables: dict[str, str]) -> tuple[list[float], list[float]]:
    """Times to first paint of the empty app and of `lorasmith`; the first start of each is not counted."""
    empty, own = [], []
    for _ in range(count + 1):
        empty.append(first_paint(EMPTY, variables, b"\x1b[1;1H"))
        own.append(first_paint(LORASMITH, variables, "LoRA Smith · runs".encode()))
    return empty[1:], own[1:]


@contextmanager
def trained(name: str) -> Iterator[RunDir]:
    """A run that a fake trainer works on, three steps a second."""
    run_dir = prepare_run(RunConfig().changed(saving={"output_name": name}))
    process = launch(run_dir, command=[sys.executable, str(FAKE_TRAINER), str(run_dir.path), "99999", "0.333"])
    try:
        yield run_dir
    finally:
        process.kill()
        process.wait()


def at_rest(command: Sequence[str], variables: dict[str, str], sign: str, seconds: float) -> tuple[float, float]:
    """Share of one core in percent, and bytes a second to the terminal, of a screen that nobody touches."""
    terminal = Terminal(command, variables)
    try:
        terminal.until_shown(sign)
        watch(terminal, WARM_UP)
        cpu, written, begun = cpu_seconds(terminal.process), len(terminal.raw), time.monotonic()
        watch(terminal, seconds)
        wall = time.monotonic() - begun
        return 100 * (cpu_seconds(terminal.process) - cpu) / wall, (len(terminal.raw) - written) / wall
    finally:
        terminal.close()


def watch(terminal: Terminal, seconds: float) -> None:
    """Take what it writes for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        terminal.read()


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=11, help="starts of each side (default 11)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long a screen is watched (default 60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        variables = environment(Path(place) / "home")
        os.environ.update(variables)
        os.chdir(place)
        empty, own = (statistics.median(times) for times in starts(options.starts, variables))
        with trained("robot"):
            attach, sign = [*LORASMITH, "attach", "robot"], "▶ running  · training"
            dashboard = at_rest(attach, variables, sign, options.seconds)
            slow_line = at_rest([*attach, "--low-bandwidth"], variables, sign, options.seconds)
            home = at_rest(LORASMITH, variables, "▶ running", options.seconds)
    rows = [
        ("empty Textual app, first paint", f"{empty:.2f} s", ""),
        ("lorasmith, first paint", f"{own:.2f} s", ""),
        ("ratio", f"{own / empty:.2f}", f"≤ {GOALS['start']}"),
    ]
    for name, (cpu, rate) in (("dashboard", dashboard), ("list of runs", home)):
        rows.append((f"{name} at rest, one core", f"{cpu:.1f} %", f"≤ {GOALS['cpu']:.0f} %"))
        rows.append(
            (f"{name} at rest, to the terminal", f"{rate / 1024:.2f} KiB/s", f"≤ {GOALS['bytes'] // 1024} KiB/s")
        )
    share = 100 * slow_line[1] / dashboard[1]
    rows.append(("dashboard with --low-bandwidth, bytes", f"{share:.0f} %", f"≤ {GOALS['low bandwidth']:.0f} %"))
    width = max(len(name) for name, _, _ in rows)
    print(f"{'':{width}}  {'measured':>12}  goal")
    for name, value, goal in rows:
        print(f"{name:{width}}  {value:>12}  {goal}")


if __name__ == "__main__":
    main()
