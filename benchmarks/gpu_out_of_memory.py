"""Whole runs in the memory of smaller cards, by a limit on what torch's allocator may take: which remedies they found,
and how they ended.

    python benchmarks/gpu_out_of_memory.py sd15,sdxl --jobs 4
    python benchmarks/gpu_out_of_memory.py flux --cards 8,24

Models have their real sizes and random weights; FLUX takes 34 GB of the disk. The table is for benchmarks/RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.gpu import MODELS, fill
from engine.estimate.plan import GIB
from tests.tiny_flux import tiny_t5_tokenizer

ROOT = Path(__file__).resolve().parent.parent
CARDS = (8, 12, 16, 24)
"""GB, as their makers count."""


def table(families: Sequence[str], cards: Sequence[int], jobs: int, keep: Path | None = None) -> Iterator[str]:
    """The rows, one after the other.

    Args:
        keep: a folder for models and runs; None: they are deleted.
    """
    import torch

    total = torch.cuda.mem_get_info()[1]
    yield "| model | card | remedies | exit code | minutes |"
    yield "|---|---|---|---|---|"
    for family in families:
        with ThreadPoolExecutor(jobs) as runs, tempfile.TemporaryDirectory() as name:
            place = (keep or Path(name)) / family
            prepare(family, place)
            yield from runs.map(
                partial(measure_run, family, place, total), [card for card in cards if card * GIB <= total]
            )


def prepare(family: str, place: Path) -> None:
    """The checkpoint, four images and an empty preset."""
    from PIL import Image

    (place / "images").mkdir(parents=True)
    random_checkpoint(family, place)
    for number in range(4):
        Image.new("RGB", (1024, 1024), (number * 60, 90, 160)).save(place / "images" / f"{number}.png")
    (place / "empty.toml").write_text("")


def measure_run(family: str, place: Path, total: int, card: int) -> str:
    """One run with batch 4 and nothing that saves memory, which has to apply remedies."""
    output = place / f"run{card}"
    settings = {
        "dataset.resolution": MODELS[family][-1], "training.train_batch_size": 4, "training.max_train_steps": 12,
        "sampling.sample_every_n_steps": 6, "sampling.sample_steps": 4, "memory.on_oom": "retry",
        "dataset.train_data_dir": place / "images", "model.pretrained_model_name_or_path": place / family,
        "saving.output_name": "run", "saving.output_dir": output,
    }  # fmt: skip
    arguments = [f"--set={key}={value}" for key, value in settings.items()]
    limits = f"expandable_segments:True,per_process_memory_fraction:{card * GIB / total:.4f}"
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tui.main", "--preset", str(place / "empty.toml"), *arguments],
        env={**os.environ, "PYTORCH_ALLOC_CONF": limits}, cwd=ROOT, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return run_line(family, card, output, done.returncode, time.perf_counter() - begin)


def run_line(family: str, card: int, output: Path, code: int, seconds: float) -> str:
    """A row of the second table, from the run's events."""
    from engine.runs.events import RetryEvent, read_events
    from engine.runs.layout import RunDir

    events = read_events(RunDir(output).events_path)
    tried = [event.remedy for event in events if isinstance(event, RetryEvent)]
    return f"| {family} | {card} GB | {', '.join(tried) or 'none'} | {code} | {seconds / 60:.1f} |"


def random_checkpoint(family: str, place: Path) -> Path:
    """A folder in diffusers' layout with weights that were never trained."""
    import torch

    from engine.families.flux import parts
    from engine.families.registry import family_named
    from engine.families.unet import load
    from engine.models.files import read_json
    from engine.models.loading import meta_module

    folder, spec = place / family, family_named(family).spec
    shutil.copytree(load.CONFIGURATIONS / family, folder)
    for part, build in (load.builders_of(spec) if spec.is_unet else parts.BUILDERS).items():
        module = meta_module(build, read_json(folder / part / "config.json")).to(torch.bfloat16).to_empty(device="cpu")
        fill_module(module)
        module.save_pretrained(folder / part, max_shard_size="5GB")
        del module
    if family == "flux":
        tiny_t5_tokenizer(folder / "tokenizer_2")  # this one does not ship with the program
    return folder


def fill_module(module: Any) -> None:
    """`fill` for a single module."""
    fill(SimpleNamespace(text_encoders={}, trainable={"part": module}, vae=module))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", help=f"some of {','.join(MODELS)}")
    parser.add_argument("--cards", default=",".join(map(str, CARDS)), help="GB of each")
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="an empty folder for models and runs, to look at later"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    return parser.parse_args()


def main() -> None:
    import torch

    options = arguments()
    if not torch.cuda.is_available():
        sys.exit("This needs a GPU that torch sees. Plans alone need none: lorasmith plan")
    cards = [int(text) for text in options.cards.split(",")]
    for row in table(options.models.split(","), cards, options.jobs, options.keep):
        print(row, flush=True)


if __name__ == "__main__":
    main()
