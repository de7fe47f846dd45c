"""What the batches of a step cost the training thread, in CPU milliseconds: read in the step, and prepared ahead.

The trainer's own source of batches and loader, on the shipped demo images; latents and texts are random numbers of the
sizes that each model has. "demo base": in memory, four images a batch, captions tokenised for the text encoder that
runs in the step. The others: a cache on disk, whose checksums were verified before, one image a batch. The sides take
turns, step by step; between two steps the thread has time to finish, as it has while a model computes.

    python benchmarks/feed_time.py [--steps 200]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from engine import paths  # noqa: E402
from engine.config import load_config  # noqa: E402
from engine.config.training import TrainingTable  # noqa: E402
from engine.dataset.arithmetic import make_items, plan_steps  # noqa: E402
from engine.dataset.buckets import BucketGrid  # noqa: E402
from engine.dataset.latents import LatentCache  # noqa: E402
from engine.dataset.scan import scan  # noqa: E402
from engine.dataset.text_cache import TextCache  # noqa: E402
from engine.families.registry import family_named, recognise  # noqa: E402
from engine.families.resolved import resolve_run  # noqa: E402
from engine.training.batch_source import BatchSource  # noqa: E402
from engine.training.loader import BatchLoader  # noqa: E402
from engine.training.objective import DiffusionObjective  # noqa: E402

BASE, CPU = paths.ASSETS / "demo_base", torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """Sizes of what is cached for one image."""

    batch_size: int
    latents: tuple[int, int, int]
    texts: Mapping[str, tuple[int, ...]]
    """Empty: the text encoder runs in the step."""


CASES = {
    "demo base": Case(4, (4, 16, 16), {}),
    "SDXL, 1024²": Case(1, (4, 128, 128), {"hidden_states": (77, 2048), "pooled": (1280,)}),
    "FLUX, 1024²": Case(1, (16, 128, 128), {"states": (512, 4096), "pooled": (768,)}),
}


class Alone(BatchLoader):
    """Prepares nothing ahead."""

    def _following(self, place: Any) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| batch | in the step | ahead |\n|---|---|---|")
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            alone, ahead = measured(case, Path(folder), options.steps)
        print(f"| {name} | {alone:.3f} ms | {ahead:.3f} ms |", flush=True)


def measured(case: Case, place: Path, steps: int) -> tuple[float, float]:
    """Median CPU milliseconds of the training thread for a batch."""
    batches, objective = source(case, place), DiffusionObjective(TrainingTable(), torch.rand(1000), "epsilon")
    with Alone(batches, objective, CPU) as alone, BatchLoader(batches, objective, CPU) as ahead:
        spent: dict[BatchLoader, list[float]] = {alone: [], ahead: []}
        for step in range(steps):
            for loader in (alone, ahead) if step % 2 else (ahead, alone):
                begin = time.thread_time()
                loader.load(step, 0)
                spent[loader].append((time.thread_time() - begin) * 1000)
                time.sleep(0.02)
    return statistics.median(spent[alone]), statistics.median(spent[ahead])


def source(case: Case, place: Path) -> BatchSource:
    """The batches of the demo images, with caches of the case's sizes."""
    settings = {
        "model.pretrained_model_name_or_path": BASE, "dataset.train_data_dir": paths.ASSETS / "demo_pictures",
        "training.train_batch_size": case.batch_size, "training.num_processes": 1, "training.max_train_steps": 10**6,
    }  # fmt: skip
    config = load_config("demo", [f"{key}={value}" for key, value in settings.items()])
    run, scanned = resolve_run(config), scan(config)
    grid = BucketGrid.of_run(run)
    items, plan = make_items(scanned, grid), plan_steps(scanned, grid, run.config)
    latents = LatentCache(place / "latents" if case.texts else None, "random", config.dataset)
    channels, height, width = case.latents
    latents.build(items, lambda pixels: torch.randn(len(pixels), 2 * channels, height, width))
    model = (
        None if case.texts else family_named("sd15").load(run.config, recognise(BASE), "cpu", "fp32", lambda _: None)
    )
    batches = BatchSource(run.config, items, plan, cast("Any", model), CPU, latents)
    if case.texts:
        batches.texts = TextCache(place / "texts", "random")
        batches.texts.build(batches.all_captions(), lambda captions: random_texts(case, len(captions)))
    else:
        batches.uncached_encoders = ("text_encoder",)
    return batches


def random_texts(case: Case, count: int) -> dict[str, torch.Tensor]:
    return {name: torch.randn(count, *shape).bfloat16() for name, shape in case.texts.items()}


if __name__ == "__main__":
    main()
