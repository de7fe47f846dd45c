"""What a logger costs a training: step times without one, with TensorBoard, and with one that blocks for a minute.

The third is a stand-in for Weights & Biases whose every call of `log` takes 60 seconds, as on a line that is down. The
sides take turns, each turn is a run of its own on the demo base, in a process of one thread; a step's time is that
between the events of two steps, the first three of a run left out. `trainer's end` is from the event of the last
step to the event that the run has finished, in which nothing waits for a logger either.

    python benchmarks/logger_wait.py [--turns 5] [--steps 40]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from engine.config import load_config
from engine.runs import RunDir, prepare_run
from engine.runs.events import RunFinishedEvent, StepEvent, read_events
from engine.runs.launch import trainer_command
from engine.runs.state import read_exit

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 3
BLOCKING = """
import time
class _Run:
    def log(self, values): time.sleep(60)
    def finish(self, exit_code=0): time.sleep(60)
def init(**_): return _Run()
"""
SIDES: Mapping[str, Mapping[str, str]] = {
    "without": {},
    "TensorBoard": {"logging.log_with": "tensorboard"},
    "blocked for a minute": {"logging.log_with": "wandb"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    ends: dict[str, list[float]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "packages" / "wandb").mkdir(parents=True)
        (place / "packages" / "wandb" / "__init__.py").write_text(BLOCKING)
        for turn in range(options.turns):
            for name in SIDES if turn % 2 == 0 else reversed(SIDES):
                steps, end = run(place, f"{turn}-{name.replace(' ', '-')}", SIDES[name], options.steps)
                seconds[name] += steps
                ends[name].append(end)
                print(f"{turn} {name}: {statistics.median(steps) * 1000:.1f} ms", flush=True)
    print(f"\n| logger | step, median of {options.turns} × {options.steps - WARM_UP} | ratio | trainer's end, median |")
    print("|---|---|---|---|")
    base = statistics.median(seconds["without"])
    for name, values in seconds.items():
        median, end = statistics.median(values), statistics.median(ends[name])
        print(f"| {name} | {median * 1000:.1f} ms | {median / base:.3f} | {end:.2f} s |")


def run(place: Path, name: str, logging: Mapping[str, str], steps: int) -> tuple[list[float], float]:
    """Train once; the seconds of each step, and those from the last step to the end."""
    settings = {
        "model.pretrained_model_name_or_path": ROOT / "engine/assets/demo_base",
        "dataset.train_data_dir": ROOT / "engine/assets/demo_pictures",
        "saving.output_name": "speed",
        "saving.output_dir": place / name,
        "saving.save_state_every_n_steps": 0,
        "dataset.resolution": 64,
        "dataset.enable_bucket": "false",
        "training.max_train_steps": steps,
        "training.train_batch_size": 4,
        "training.max_check_share": 0,
        "sampling.sample_every_n_steps": 0,
        "memory.device": "cpu",
        "memory.num_cpu_threads_per_process": 1,
        **logging,
    }
    run_dir = prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]))
    path = os.pathsep.join([str(place / "packages"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "WANDB_MODE": "offline", "XDG_CACHE_HOME": str(place / "cache")}
    log = run_dir.log_path.open("wb")
    with log, subprocess.Popen(trainer_command(run_dir), stdout=log, stderr=log, env=environment) as process:
        process.wait()
    return times_of(run_dir)


def times_of(run_dir: RunDir) -> tuple[list[float], float]:
    """The seconds between the steps of an ended run, and from its last step to its end."""
    ending = read_exit(run_dir)
    assert ending is not None and ending["state"] == "finished", run_dir.log_path.read_text()
    events = read_events(run_dir.events_path)
    moments = [event.time for event in events if isinstance(event, StepEvent)]
    end = next(event.time for event in events if isinstance(event, RunFinishedEvent))
    between = [later - earlier for earlier, later in pairwise(moments)]
    return between[WARM_UP - 1 :], end - moments[-1]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
