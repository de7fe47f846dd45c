"""What kinds of adapter learn on the demo base: validation losses, and scores by the classifier of verdict_judge.py.

Each kind trains Smithy from the demo's own images, with the demo's steps, batch and schedule, at each of its learning
rates in turn; every rate is printed. The score is that of verdicts.py, on 16 samples of the last file:

    score = (2 · mean of character × background, 10 prompts + mean of object × colour × background, 6 prompts) / 3

    python benchmarks/kinds.py --place DIR [--kinds LoRA,DoRA] [--seeds 42]

A run that exists at DIR is not trained again; one takes two to four minutes of a core.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from verdict_judge import ROOT
from verdicts import Truth

from engine.runs import RunDir, read_events
from engine.runs.events import StepEvent, ValidationEvent


@dataclass(frozen=True)
class Entry:
    """A kind, what chooses it, and the learning rates of the UNet that are tried; the text encoder has a quarter."""

    settings: Mapping[str, Any]
    rates: Sequence[float]


ENTRIES = {
    "LoRA 8 (the demo)": Entry({}, (2e-3, 4e-3)),
    "LoRA 16": Entry({"network_dim": 16, "network_alpha": 16, "conv_dim": 16, "conv_alpha": 16}, (2e-3, 4e-3)),
    "DoRA 16": Entry(
        {"network_dim": 16, "network_alpha": 16, "conv_dim": 16, "conv_alpha": 16, "dora_wd": True}, (2e-3, 4e-3)
    ),
    "LoHa 8": Entry({"algo": "loha"}, (2e-3, 4e-3)),
    "LoKr 10000, factor 8": Entry(  # the rank of Kohya's presets for full matrices, as their files are converted
        {"algo": "lokr", "network_dim": 1024, "conv_dim": 1024, "full_matrix": True, "factor": 8}, (2e-3, 4e-3)
    ),
}


def train(place: Path, name: str, rate: float, seed: int) -> RunDir:
    """The finished run of a kind at a learning rate."""
    output = place / f"{name.replace(' ', '-').replace(',', '')}-{rate:g}-{seed}"
    run = RunDir(output)
    if (output / "smithy.safetensors").is_file():
        return run
    settings = {
        **{f"network.{key}": value for key, value in ENTRIES[name].settings.items()},
        **{"training.unet_lr": rate, "training.text_encoder_lr": rate / 4, "training.seed": seed},
        **{"sampling.sample_every_n_steps": 0, "training.max_check_share": 0, "saving.save_every_n_steps": 1000},
    }
    words = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "tui.main", "--preset", "demo", "--name", "smithy", "--output_dir", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--restart", *words], env=environment, check=True, capture_output=True)
    return run


def numbers_of(path: Path) -> int:
    """How many numbers a file has."""
    with safe_open(path, "pt") as file:
        return sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118  (safe_open is no mapping)


def figures(run: RunDir, truth: Truth) -> dict[str, float]:
    """Validation losses, score, seconds and numbers of a run; the score is kept in the run."""
    events = list(read_events(run.events_path))
    losses = [event.loss for event in events if isinstance(event, ValidationEvent) and event.loss is not None]
    seconds = [event.seconds_per_step for event in events if isinstance(event, StepEvent) and event.seconds_per_step]
    path = run.path / "kind-score.json"
    if not path.is_file():
        path.write_text(json.dumps(truth.of_file(run.path / "smithy.safetensors")))
    return {
        **json.loads(path.read_text()),
        **{"before": losses[0], "after": losses[-1], "step": statistics.median(seconds)},
        "numbers": numbers_of(run.path / "smithy.safetensors"),
    }


def report(place: Path, kinds: Sequence[str], seeds: Sequence[int]) -> Iterator[str]:
    """The lines of the table: means over the seeds."""
    yield "| kind | rate | validation loss before | after | score | character | others | numbers | step |"
    yield "|---|---|---|---|---|---|---|---|---|"
    truth: Truth | None = None
    for name in kinds:
        for rate in ENTRIES[name].rates:
            runs = [train(place, name, rate, seed) for seed in seeds]
            truth = truth or Truth(place, runs[0])
            rows = [figures(run, truth) for run in runs]
            mean = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}
            yield (
                f"| {name} | {rate:g} | {mean['before']:.4f} | {mean['after']:.4f} | {mean['score']:.3f} | "
                f"{mean['character']:.2f} | {mean['others']:.2f} | {mean['numbers']:,.0f} | {mean['step']:.2f} s |"
            )


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default="", help="Only those whose name begins with one of these, by comma.")
    parser.add_argument("--seeds", default="42")
    parser.add_argument("--place", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.place.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kinds = [name for name in ENTRIES if name.startswith(tuple(arguments.kinds.split(",")))]
    for line in report(arguments.place, kinds, [int(seed) for seed in arguments.seeds.split(",")]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
