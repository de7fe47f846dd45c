"""One run on several processes of one machine: images a second by their number, and what a killed one costs.

    python benchmarks/ranks.py speed [--turns 3] [--steps 12]    1 and 2 processes of one thread each, in turns
    python benchmarks/ranks.py kills [--kills 20] [--seed 0]     SIGKILL of a rank at random moments, then a resume

`speed` trains the demo base on the demo's images, without samples and measuring, and takes the median time of a step
without the first three. `kills` prints for each kill when the run had reported it, and at the end whether the last
file has the same bytes as that of a run that was left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from engine.processes import trainer_environment  # noqa: E402
from engine.runs import RunDir, prepare_resume, prepare_run, read_events, true_state  # noqa: E402
from engine.runs.events import StepEvent  # noqa: E402
from tui.setup.configuration import read  # noqa: E402

BARE = {
    "sampling.sample_every_n_steps": 0, "sampling.sample_at_first": "false",
    "saving.save_every_n_epochs": 0, "training.max_check_share": 0, "memory.num_cpu_threads_per_process": 1,
}  # fmt: skip
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "kills"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(XDG_CACHE_HOME=f"{folder}/cache", XDG_STATE_HOME=f"{folder}/state", **ENVIRONMENT)
        if options.what == "speed":
            speed(Path(folder), options.turns, options.steps)
        else:
            kills(Path(folder), options.kills, options.seed)


def speed(folder: Path, turns: int, steps: int) -> None:
    """Train with 1 and 2 processes in turns, and print the medians."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    starts: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(turns):
        for processes in (1, 2) if turn % 2 == 0 else (2, 1):
            run = prepared(folder / f"{turn}-{processes}", {"training.max_train_steps": steps}, processes)
            begun = time.time()
            if subprocess.run(trainer(run), env=trainer_environment(), check=False, capture_output=True).returncode:
                sys.exit((run / ".run" / "train.log").read_text()[-3000:])
            events = steps_of(run)
            starts[processes].append(events[0].time - begun)
            rates[processes].append(statistics.median(event.images_per_second or 0.0 for event in events[3:]))
            print(f"turn {turn + 1}, {processes} processes: {rates[processes][-1]:.2f} images/s", flush=True)
    alone, both = (statistics.median(rates[processes]) for processes in (1, 2))
    print(
        f"\n{turns} turns, medians: {alone:.2f} and {both:.2f} images/s, 2 processes : 1 process = {both / alone:.2f}"
    )
    first = {processes: min(seconds) for processes, seconds in starts.items()}
    print(f"first step after {first[1]:.1f} s with 1 process, {first[2]:.1f} s with 2 (best start)")


def kills(folder: Path, count: int, seed: int) -> None:
    """Kill a rank of two `count` times, resume each time, and compare the last file."""
    settings = {
        "training.max_train_steps": 12 * count, "saving.save_state_every_n_steps": 3, "saving.save_every_n_steps": 25,
        "sampling.sample_every_n_steps": 50,
    }  # fmt: skip
    straight = prepared(folder / "straight", settings, 2)
    subprocess.run(trainer(straight), env=trainer_environment(), check=True, capture_output=True)
    run = prepared(folder / "killed", settings, 2)
    rng, seconds = random.Random(seed), []
    for number in range(count):
        process = subprocess.Popen(
            trainer(run), env=trainer_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ranks = wait_for_ranks(process, run, at_step=number % 4 != 0, delay=rng.uniform(0, 8))
        if not ranks:
            print("the run has ended")
            break
        rank = rng.randrange(2)
        where = json.loads((run / ".run" / "state.json").read_text())
        os.kill(ranks[rank], 9)
        killed = time.monotonic()
        code = process.wait(60)
        seconds.append(time.monotonic() - killed)
        state = true_state(RunDir(run))
        print(
            f"{number + 1}: rank {rank} in phase {where['phase'] or where['state']} at step {where['step']}: reported "
            f"after {seconds[-1]:.1f} s, code {code}, {state.state}: {state.detail}",
            flush=True,
        )
        prepare_resume(RunDir(run))
    subprocess.run(trainer(run), env=trainer_environment(), check=True, capture_output=True)
    same = digest(straight) == digest(run)
    print(f"\n{len(seconds)} kills, reported after at most {max(seconds):.1f} s; the last file: same bytes: {same}")
    sys.exit(not same)


def wait_for_ranks(process: subprocess.Popen[bytes], run: Path, *, at_step: bool, delay: float) -> list[int]:
    """The ranks, `delay` seconds after there were two, or after the first step of this start; empty when the run ended
    before."""
    ranks: list[int] = []
    before = len(steps_of(run))
    while process.poll() is None and (len(ranks) < 2 or (at_step and len(steps_of(run)) == before)):
        time.sleep(0.1)
        children = psutil.Process(process.pid).children()
        ranks = [child.pid for child in children if "engine.training" in " ".join(child.cmdline())]
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    return ranks if process.poll() is None else []


def prepared(directory: Path, settings: Mapping[str, Any], processes: int) -> Path:
    """A run of the demo, not started."""
    overrides = [f"{key}={value}" for key, value in {**BARE, **settings, "training.num_processes": processes}.items()]
    return prepare_run(read("demo", overrides, output_dir=str(directory))).path


def trainer(run: Path) -> list[str]:
    """The command line of its trainer."""
    return [sys.executable, "-P", "-m", "engine.training", str(run)]


def steps_of(run: Path) -> list[StepEvent]:
    """Its events of steps."""
    return [event for event in read_events(RunDir(run).events_path) if isinstance(event, StepEvent)]


def digest(run: Path) -> str:
    """SHA-256 of its last file."""
    return hashlib.sha256((run / "smithy.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
