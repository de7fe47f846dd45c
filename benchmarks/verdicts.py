"""How often the verdict of a file is right, and how good the recommended file is, on the demo base.

Four kinds of training of Smithy, each with images, order and validation images of its own for every seed: too short,
right, far too long with a high rate, and on twenty copies and mirrored copies of four images. The truth is measured
independently of the verdict, by the classifier of verdict_judge.py on samples of each file: is it Smithy, is the
background as requested, and are other objects unchanged.

    score = (2 · mean of character × background, 10 prompts + mean of object × colour × background, 6 prompts) / 3

A file is good in truth with at least 90 % of the best score of all runs with that seed; below it is undertrained
where the character lags behind the other objects, and else overtrained. Printed are each file's figures, the table of
verdicts against truth, and in how many runs the recommended file is within 5 % of the run's best score, next to two
choices without a verdict.

    python benchmarks/verdicts.py --seeds 12,13,15 --place DIR

An existing run is not trained again; a seed takes some 20 minutes of one core. With --measure-again the
files of such runs are measured by the present code, and not by the one that they were trained with.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import ImageOps
from safetensors.torch import load_file
from torch import Tensor
from verdict_judge import GROUNDS, KINDS, PAINTS, ROOT, Judge, pixels_of, random_shot, smithy, train_judge

from engine.adapters.applied import AppliedLoras
from engine.config import load_config
from engine.families.registry import family_named, recognise
from engine.paths import ASSETS
from engine.results.measures import MeasureBook
from engine.results.record import read_run
from engine.results.verdict import Assessment, assess
from engine.runs import RunDir, read_events
from engine.runs.events import Event, MeasuresEvent
from engine.training.checks import Checks
from engine.training.prepare import prepare
from engine.training.session import Session
from engine.training.step import objective_for
from engine.types import SampleRequest

IMAGES, DIFFERENT = 20, 4
"""Images of a run, and how many different ones where they are copies."""
GROUND_PROMPTS = ("green", "pink", "blue", "yellow", "purple", "red", "orange", "brown", "white", "gray")
OBJECT_PROMPTS = (
    ("red", "house", "yellow"), ("yellow", "star", "white"), ("blue", "car", "pink"), ("blue", "house", "white"),
    ("red", "star", "gray"), ("blue", "cup", "green"),
)  # fmt: skip
SAMPLE_STEPS, SCALE, FIRST_SEED = 16, 3.0, 100
GOOD, NEAR = 0.9, 0.95


@dataclass(frozen=True)
class Recipe:
    """One kind of training."""

    steps: int
    save_every: int
    rate: float
    schedule: str
    copies: bool = False


RECIPES = {
    "short": Recipe(45, 15, 2e-3, "cosine"),
    "right": Recipe(200, 40, 2e-3, "cosine"),
    "copies": Recipe(180, 45, 3e-3, "constant", copies=True),
    "long": Recipe(300, 60, 8e-3, "constant"),
}


def draw_images(folder: Path, seed: int, copies: bool) -> None:
    """The images and captions of one seed."""
    if folder.is_dir():
        return
    folder.mkdir(parents=True)
    rng = random.Random(seed * 1000 + 7)
    shots = [random_shot(rng) for _ in range(DIFFERENT if copies else IMAGES)]
    for number in range(IMAGES):
        shot, image = shots[number % len(shots)], smithy.draw_smithy(shots[number % len(shots)])
        if number // len(shots) % 2:
            image = ImageOps.mirror(image)
        image.save(folder / f"s_{number:02d}.png")
        (folder / f"s_{number:02d}.txt").write_text(shot.caption + "\n")


def train(place: Path, name: str, seed: int) -> RunDir:
    """The finished run of one recipe and seed."""
    recipe, output = RECIPES[name], place / f"{name}-{seed}"
    run = RunDir(output)
    if run.is_run and (output / "smithy.safetensors").is_file():
        return run
    images = place / f"data-{'copies' if recipe.copies else 'own'}-{seed}"
    draw_images(images, seed, recipe.copies)
    settings = {
        "training.max_train_steps": recipe.steps, "saving.save_every_n_steps": recipe.save_every,
        "sampling.sample_every_n_steps": recipe.save_every, "sampling.sample_steps": 12,
        "training.unet_lr": recipe.rate, "training.text_encoder_lr": recipe.rate / 4,
        "training.lr_scheduler": recipe.schedule,
        "training.lr_warmup_steps": 0 if recipe.schedule == "constant" else 10, "training.num_processes": 1,
        "training.seed": seed, "dataset.validation_seed": seed, "dataset.validation_data_dir": "none",
        "training.max_check_share": 1, "saving.save_state_every_n_steps": 0,
    }  # fmt: skip
    words = [f"--set={key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "tui.main", "--preset", "demo", "--images", str(images), "--name", "smithy"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, "--output_dir", str(output), "--restart", *words], env=environment, check=True, capture_output=True
    )
    return run


class Truth:
    """Scores files: the demo base with one file after the other in it, and the judge."""

    def __init__(self, place: Path, run: RunDir) -> None:
        base = ASSETS / "demo_base"
        recognition = recognise(str(base))
        config = load_config(str(run.config_path))
        family = family_named(recognition.family)
        self.spec, self.model = family.spec, family.load(config, recognition, "cpu", "fp32", lambda _: None)
        for part in ("vae", "text_encoder", "denoiser"):
            self.model.acquire(part)  # type: ignore[arg-type]
        self.judge: Judge = train_judge(self._through_vae, place / "judge.pt")

    @torch.no_grad()
    def _through_vae(self, pixels: Tensor) -> Tensor:
        return self.model.decode_latents(self.model.encode_pixels(pixels).chunk(2, dim=1)[0])

    def base(self) -> dict[str, float]:
        """Of the untouched base model."""
        return self._score()

    def of_file(self, path: Path) -> dict[str, float]:
        """Of the base model with a file of any kind, at strength 1."""
        applied = AppliedLoras(self.model, [path], self.spec.lora_base, lambda _: None)
        applied.set_strengths([1.0])
        scores = self._score()
        applied.remove()
        return scores

    def _score(self) -> dict[str, float]:
        own = [f"smithy on a {ground} background" for ground in GROUND_PROMPTS]
        others = [f"a {colour} {kind} on a {ground} background" for colour, kind, ground in OBJECT_PROMPTS]
        seen = self.judge.look(pixels_of([self._sample(n, prompt) for n, prompt in enumerate([*own, *others])]))
        count = len(own)
        right = torch.tensor([GROUNDS.index(ground) for ground in GROUND_PROMPTS])
        character = seen.character[:count] * seen.grounds[:count].gather(1, right[:, None])[:, 0]
        kept = [
            seen.kinds[n, KINDS.index(kind)]
            * seen.colours[n, PAINTS.index(colour)]
            * seen.grounds[n, GROUNDS.index(ground)]
            for n, (colour, kind, ground) in enumerate(OBJECT_PROMPTS, count)
        ]
        means = {"character": float(character.mean()), "others": float(torch.stack(kept).mean())}
        return {**means, "score": (2 * means["character"] + means["others"]) / 3}

    def _sample(self, number: int, prompt: str) -> Any:
        request = SampleRequest(prompt, width=64, height=64, seed=FIRST_SEED + number, steps=SAMPLE_STEPS, scale=SCALE)
        return self.model.generate(request)


def scores(place: Path, run: RunDir) -> dict[int, dict[str, float]]:
    """The truth of each file by step, of the base model at step 0; cached in the run."""
    path = run.path / "truth.json"
    if not path.is_file():
        truth = Truth(place, run)
        results = {0: truth.base()}
        for judged in read_run(run).assessment.files:
            results[judged.file.step or 0] = truth.of_file(judged.file.path)
        path.write_text(json.dumps(results))
    return {int(step): value for step, value in json.loads(path.read_text()).items()}


def remeasured(run: RunDir) -> Assessment:
    """The verdicts of a run by measures of the present code; losses and samples are those of the run."""
    files = read_run(run).assessment.files
    with tempfile.TemporaryDirectory() as folder:
        copy = RunDir(Path(folder) / run.path.name)
        copy.private.mkdir(parents=True)
        shutil.copy(run.config_path, copy.path)
        shutil.copy(run.meta_path, copy.meta_path)
        prepared = prepare(Session(copy))
        measured: dict[int, Event] = {}

        def keep(event: Event) -> None:
            if isinstance(event, MeasuresEvent):
                measured[event.step or 0] = event

        objective = objective_for(prepared.config, prepared.model, prepared.accelerator.device)
        checks = Checks(prepared, objective, keep, lambda _done, _total: None)
        checks.follow(prepared.config, prepared.plan)
        prepared.network.train(False)
        for judged in files:
            prepared.network.load(load_file(judged.file.path), lambda _: None)
            checks.measures(judged.file.step or 0, 0)
    book = MeasureBook()
    for event in read_events(run.events_path):
        book.take(measured.get(event.step or 0, event) if isinstance(event, MeasuresEvent) else event)
    return assess([judged.file for judged in files], book)


def report(runs: Sequence[tuple[str, int, RunDir]], place: Path, *, remeasure: bool) -> Iterator[str]:
    """The lines of the result.

    Args:
        remeasure: measure the files by the present code.
    """
    truths = {(name, seed): scores(place, run) for name, seed, run in runs}
    best: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for (_, seed), truth in truths.items():
        for step, value in truth.items():
            for key in ("score", "character") if step else ("others",):
                best[seed][key] = max(best[seed][key], value[key])
    table: Counter[tuple[str, str]] = Counter()
    near: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for name, seed, run in runs:
        truth, assessment = truths[name, seed], remeasured(run) if remeasure else read_run(run).assessment
        highest = max(value["score"] for step, value in truth.items() if step)
        lowest = min(assessment.files, key=lambda file: file.measures.validation_loss or 9.0)
        picks = {"recommended": assessment.best, "last": assessment.files[-1], "lowest validation loss": lowest}
        for how, judged in picks.items():
            near[how][name].append(judged is not None and truth[judged.file.step or 0]["score"] >= NEAR * highest)
        yield f"{name}, seed {seed}"
        for judged in assessment.files:
            value, measures = truth[judged.file.step or 0], judged.measures
            kind = _truth(value, best[seed])
            table[kind, judged.verdict.kind] += 1
            yield (
                f"  step {judged.file.step:4}: score {value['score']:.3f} (character {value['character']:.2f}, others "
                f"{value['others']:.2f}), gain {measures.gain or 0:.2f}, bleed {measures.bleed or 0:.2f}, drift "
                f"{measures.drift or 0:.2f}: "
                f"{kind}, verdict {judged.verdict.kind}{' <- recommended' if judged is assessment.best else ''}"
            )
    yield "\ntruth / verdict: files"
    for (kind, verdict), count in sorted(table.items()):
        yield f"  {kind} / {verdict}: {count}"
    yield f"\nwithin {1 - NEAR:.0%} of the run's best score"
    for how, hits in near.items():
        recipes = ", ".join(f"{name} {sum(near_best)} of {len(near_best)}" for name, near_best in hits.items())
        every = [hit for near_best in hits.values() for hit in near_best]
        yield f"  {how}: {sum(every)} of {len(every)} runs ({recipes})"


def _truth(value: dict[str, float], best: dict[str, float]) -> str:
    if value["score"] >= GOOD * best["score"]:
        return "good"
    lags = value["character"] / best["character"] < value["others"] / best["others"]
    return "undertrained" if lags else "overtrained"


def main() -> None:
    """Train, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="Only these kinds of training.")
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--measure-again", action="store_true", help="Measure the files by the present code.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipes = [name for name in RECIPES if name in arguments.recipes.split(",")]
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    runs = [(name, seed, train(arguments.place, name, seed)) for seed in seeds for name in recipes]
    for line in report(runs, arguments.place, remeasure=arguments.measure_again):
        print(line, flush=True)


if __name__ == "__main__":
    main()
