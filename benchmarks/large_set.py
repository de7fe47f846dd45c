"""What a large set of images costs: time and peak memory of each stage, and how they grow with the number of images.

The program draws distinct PNG files of 64 × 64 with captions in a temporary folder. Each stage runs on them in a
process of its own, with the demo base:

* scan: headers and captions; decode: each image, and once more when the cache folder remembers them;
* epoch: the order of the batches of a new epoch, and a shuffled caption for each item;
* captions, packed, files: the caches of all captions and latents around the model, whose answer is replaced by zeros of
  the same size: in packs, and in a file for each image as earlier versions wrote them;
* vae: a share of the latents with the VAE;
* first-step: the trainer's process until the event of its first step, in a run of three steps;
* screen-…: a screen from its opening until it shows the folder, the longest time without an answer, the slowest key;
* check: the user's command, and once more from its measures.

"again" is the second time. Memory is the peak of the largest process, libraries included.

    python benchmarks/large_set.py [--images 1000 10000] [--stages scan check …] [--encoded 500] [--limit 1800] [--film]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from engine import paths  # noqa: E402
from engine.atomic import replacing  # noqa: E402
from engine.config import RunConfig, load_config  # noqa: E402
from engine.dataset.arithmetic import StepPlan, make_items, plan_steps  # noqa: E402
from engine.dataset.buckets import BucketGrid  # noqa: E402
from engine.dataset.images import Scan  # noqa: E402
from engine.dataset.items import Item  # noqa: E402
from engine.dataset.store import TensorStore  # noqa: E402

if TYPE_CHECKING:
    import torch
    from textual.pilot import Pilot

    from tui.app import LoraSmithApp

BASE = paths.ASSETS / "demo_base"
SIDE = 64
WORDS = [f"{colour} {thing}" for colour in ("red", "blue", "old", "small") for thing in ("fox", "barn", "boat", "hill")]
Figures = dict[str, float]
"""What a stage has measured, besides its time and memory."""


def main() -> None:
    """Run the stages for each number of images and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="STAGE")
    parser.add_argument("--encoded", type=int, default=500, help="images and captions for the model; %(default)s")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for a stage; %(default)s")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--drawn", type=Path, help="folder to keep the images in, for the next call")
    parser.add_argument("--film", action="store_true", help="all images are nearly the same, as the frames of a film")
    parser.add_argument("--place", type=Path, help="folder for images and caches; that of temporary files")
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(STAGES[options.stage](options.place, options.images[0], options.encoded)))
        return
    rows: dict[str, list[str]] = {name: [] for name in options.stages}
    for count in options.images:
        with tempfile.TemporaryDirectory(dir=options.place) as folder:
            drawn = options.drawn / f"{count}{' film' * options.film}" if options.drawn else Path(folder) / "drawn"
            draw(drawn, count, film=options.film)
            (Path(folder) / "images").symlink_to(drawn.absolute())
            for name in options.stages:
                rows[name].append(measured(name, Path(folder), count, options))
                print(f"{count} images, {name}: {rows[name][-1]}", flush=True)
    print("\n| stage | " + " | ".join(f"{count:,} images".replace(",", " ") for count in options.images) + " |")
    print("|---|" + "---|" * len(options.images))
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def draw(folder: Path, count: int, *, film: bool) -> None:
    """PNG files of soft colours, each with a caption of its own; they differ much, as a `film` by a little noise."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(len(list(folder.glob("*.txt"))), count):
        coarse = np.random.default_rng(0 if film else index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        if film:
            noise = np.random.default_rng(index).integers(-12, 13, (SIDE, SIDE, 3))
            image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
        image.save(folder / f"{index:06}.png", compress_level=1)
        words = random.Random(index).sample(WORDS, 5)
        (folder / f"{index:06}.txt").write_text(f"zed, {', '.join(words)}, number {index}")


def measured(name: str, place: Path, count: int, options: argparse.Namespace) -> str:
    """Run a stage in a process of its own: a cell of the table."""
    homes = {f"XDG_{home}_HOME": str(place / home.lower()) for home in ("CACHE", "CONFIG", "STATE", "DATA")}
    arguments = ["--stage", name, "--place", str(place), "--images", str(count), "--encoded", str(options.encoded)]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *arguments],
        env={**os.environ, **homes, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        answer, errors = process.communicate(timeout=options.limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return f"not done after {options.limit:.0f} s"
    if process.returncode:
        return f"failed: {errors.strip().splitlines()[-1:] or process.returncode}"
    figures: Figures = json.loads(answer.splitlines()[-1])
    seconds, processor, peak = (figures.pop(name) for name in ("seconds", "processor", "peak"))
    whole = f"{seconds:.1f} s ({processor:.1f} s of processor), {peak:.0f} MiB"
    return "; ".join([whole, *(f"{name} {value:.4g}" for name, value in figures.items())])


def timed(work: Callable[[], Figures | None]) -> Figures:
    """Seconds of `work`, those of the processor, and the most memory of this process or of a child of it."""
    begin, before = time.perf_counter(), _processor()
    figures = work() or {}
    seconds = time.perf_counter() - begin
    peak = max(usage.ru_maxrss for usage in _usages()) / 1024
    return {"seconds": seconds, "processor": _processor() - before, "peak": peak, **figures}


def _processor() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


def _usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def configuration(place: Path, **more: object) -> RunConfig:
    """Of a run of three steps on the images."""
    settings: Mapping[str, object] = {
        "model.pretrained_model_name_or_path": BASE, "dataset.train_data_dir": place / "images",
        "dataset.resolution": SIDE, "dataset.enable_bucket": "false", "dataset.num_repeats": 1,
        "dataset.validation_split": 0, "saving.output_name": "x", "saving.output_dir": place / "run",
        "memory.cache_latents_to_disk": "true", "memory.cache_dir": place / "cache", "network.network_dim": 4,
        "training.train_batch_size": 1, "training.max_train_steps": 3, "training.num_processes": 1,
        "sampling.sample_every_n_steps": 0, "training.max_check_share": 0, **more,
    }  # fmt: skip
    return load_config(None, [f"{key}={value}" for key, value in settings.items()])


def planned(place: Path, **more: object) -> tuple[RunConfig, Scan, list[Item], StepPlan]:
    """The items and the plan of the run."""
    from engine.dataset.scan import scan
    from engine.families.resolved import resolve_run

    run = resolve_run(configuration(place, **more))
    scanned, grid = scan(run.config), BucketGrid.of_run(run)
    return run.config, scanned, make_items(scanned, grid), plan_steps(scanned, grid, run.config)


def scanning(place: Path, _count: int, _encoded: int) -> Figures:
    """Headers and captions."""
    from engine.dataset.scan import scan

    return timed(lambda: {"images": scan(configuration(place)).num_images})


def decoding(place: Path, _count: int, _encoded: int) -> Figures:
    """Each image is decoded once; the cache folder remembers it."""
    from engine.dataset.checked import CheckedImages
    from engine.dataset.digests import FileDigests
    from engine.dataset.scan import scan, verify_pixels

    config = configuration(place)
    scanned, folder = scan(config), place / "decoded"
    first = timed(lambda: verify_pixels(scanned, checked=CheckedImages(folder, FileDigests())) and None)
    again = timed(lambda: verify_pixels(scanned, checked=CheckedImages(folder, FileDigests())) and None)
    return {**first, "peak": again["peak"], "again s": again["seconds"]}


def checking(place: Path, count: int, _encoded: int) -> Figures:
    """The user's command; the second time from its measures."""
    command = [sys.executable, "-c", "from tui.main import main; main()", "check", str(place / "images"), "--json"]

    def check() -> None:
        answer = subprocess.run([*command, "--set", f"dataset.resolution={SIDE}"], stdout=subprocess.PIPE, check=False)
        assert json.loads(answer.stdout)["images"] == count

    first = timed(check)
    again = timed(check)
    return {**first, "peak": again["peak"], "again s": again["seconds"]}


class FileStore(TensorStore):
    """A file for each key, synced and renamed, as earlier versions wrote them."""

    @override
    def save(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        from safetensors.torch import save

        from engine.dataset.store import checksum

        assert self.directory is not None
        with replacing(self.directory / f"{key}.safetensors") as temporary:
            temporary.write_bytes(save(dict(tensors), metadata={"sha256": checksum(tensors, key)}))


def caching(store: type[TensorStore]) -> Callable[[Path, int, int], Figures]:
    """All latents, without the VAE, into a store; then once more, when all of them are there."""

    def stage(place: Path, _count: int, _encoded: int) -> Figures:
        import torch

        from engine.dataset.latents import LatentCache

        config, _, items, _ = planned(place)
        folder = place / store.__name__

        def build() -> None:
            cache = LatentCache(folder, "none", config.dataset)
            cache._store = store(folder)
            report = cache.build(items, lambda pixels: torch.zeros(len(pixels), 8, SIDE // 8, SIDE // 8), 1)
            assert report.encoded + report.reused == len(items)

        first, again = timed(build), timed(build)
        files = list(folder.iterdir())
        size = sum(file.stat().st_size for file in files) / 2**20
        shutil.rmtree(folder)
        return {
            **first, "peak": again["peak"], "images/s": len(items) / first["seconds"], "files": len(files),
            "MiB": size, "again s": again["seconds"],
        }  # fmt: skip

    return stage


def encoding(place: Path, count: int, encoded: int) -> Figures:
    """A share of the latents, by the VAE of the demo base."""
    from engine.dataset.latents import LatentCache
    from engine.families.registry import family_named, recognise

    config, _, items, _ = planned(place)
    share = items[: min(count, encoded)]
    model = family_named("sd15").load(config, recognise(BASE), "cpu", "fp32", lambda _: None)
    cache = LatentCache(place / "encoded", model.vae_key, config.dataset)
    with model.on_device("vae"):
        figures = timed(lambda: cache.build(share, model.encode_pixels, 1) and None)
    return {**figures, "of images": len(share), "images/s": len(share) / figures["seconds"]}


def captioning(place: Path, _count: int, _encoded: int) -> Figures:
    """The outputs for all captions, without the encoder, into packs."""
    import torch

    from engine.dataset.batches import run_captions
    from engine.dataset.captions import CaptionRules
    from engine.dataset.text_cache import TextCache

    config, _, items, plan = planned(place)
    captions = run_captions(items, CaptionRules.from_config(config), plan, 0)
    cache = TextCache(place / "texts", "none")

    def encode(batch: list[str]) -> dict[str, torch.Tensor]:
        return {"states": torch.zeros(len(batch), 77, 64)}

    figures = timed(lambda: cache.build(captions, encode, 8) and None)
    files = len(list((place / "texts").iterdir()))
    shutil.rmtree(place / "texts")
    return {**figures, "captions": len(captions), "captions/s": len(captions) / figures["seconds"], "files": files}


def starting(place: Path, _count: int, _encoded: int) -> Figures:
    """The trainer's process until the event of its first step, in a new run of three steps; then in a second one, when
    the images are known to decode and the latents that it needs are cached."""

    def first_step() -> Figures:
        from engine.runs.prepare import prepare_run

        run = prepare_run(configuration(place), restart=True)
        begin = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.training", str(run.path)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while not _has_stepped(run.events_path):
            assert process.poll() is None, (run.path / "train.log").read_text()[-2000:]
            time.sleep(0.02)
        seconds = time.perf_counter() - begin
        process.wait()
        return {"first step s": seconds}

    cold = timed(first_step)
    shutil.rmtree(place / "run")
    warm = timed(first_step)
    return {**cold, "peak": warm["peak"], "again, first step s": warm["first step s"]}


def _has_stepped(log: Path) -> bool:
    return log.exists() and b'"type":"step"' in log.read_bytes().replace(b'": "', b'":"')


def turning(place: Path, _count: int, _encoded: int) -> Figures:
    """What a new epoch costs: the order of its batches, and a shuffled caption for each of its items."""
    from engine.dataset.batches import epoch_batches, item_caption
    from engine.dataset.captions import CaptionRules

    config, _, items, plan = planned(place, **{"dataset.shuffle_caption": "true"})
    rules = CaptionRules.from_config(config)
    order = timed(lambda: epoch_batches(items, 4, 0, 2) and None)
    captions = timed(
        lambda: [item_caption(item, i, rules, plan, seed=0, epoch=2, step=1) for i, item in enumerate(items)] and None
    )
    return {**order, "peak": captions["peak"], "captions s": captions["seconds"]}


def screening(step: str, ready: Callable[[Any], bool]) -> Callable[[Path, int, int], Figures]:
    """A screen of the wizard, from its opening until it shows the folder; then the slowest answer to a key."""

    def stage(place: Path, _count: int, _encoded: int) -> Figures:
        from tui.app import Appearance, LoraSmithApp
        from tui.setup.draft import Draft

        values = {
            "dataset.train_data_dir": str(place / "images"), "dataset.class_tokens": "zed", "saving.output_name": "zed",
            "model.pretrained_model_name_or_path": str(BASE),
        }  # fmt: skip
        draft = Draft(preset="demo", values=values, step=step, extras={"folders.take_in": "leave"}, done=[])
        app = LoraSmithApp(appearance=Appearance(), draft=draft)
        return asyncio.run(_used(app, step, ready))

    return stage


async def _used(app: LoraSmithApp, step: str, ready: Callable[[Any], bool]) -> Figures:
    async with app.run_test(size=(100, 30)) as pilot:
        gaps = _Gaps()
        begin, before = time.perf_counter(), _processor()
        app.go_to(step)
        while not ready(app.screen):
            await asyncio.sleep(0.01)
            gaps.look()
        await pilot.pause()
        gaps.look()
        seconds, processor = time.perf_counter() - begin, _processor() - before
        keys = await _keys(pilot, ("down", "end", "up", "home", "pagedown", "m") if step == "captions" else ("tab",))
    waits = {"longest pause s": gaps.longest, "slowest key s": keys}
    return {**timed(lambda: None), "seconds": seconds, "processor": processor, **waits}


class _Gaps:
    """The longest time in which the screen could not have answered a key."""

    def __init__(self) -> None:
        self.longest, self._last = 0.0, time.perf_counter()

    def look(self) -> None:
        """Called as often as the event loop has time."""
        now = time.perf_counter()
        self.longest, self._last = max(self.longest, now - self._last), now


async def _keys(pilot: Pilot[Any], keys: Sequence[str]) -> float:
    slowest = 0.0
    for key in keys:
        begin = time.perf_counter()
        await pilot.press(key)
        await pilot.pause()
        slowest = max(slowest, time.perf_counter() - begin)
    return slowest


def _folders_ready(screen: Any) -> bool:
    return getattr(screen, "STEP", "") == "folders" and getattr(screen, "_seen", None) is not None


def _captions_ready(screen: Any) -> bool:
    return getattr(screen, "STEP", "") == "captions" and getattr(screen, "book", None) is not None


STAGES: dict[str, Callable[[Path, int, int], Figures]] = {
    "scan": scanning,
    "decode": decoding,
    "epoch": turning,
    "captions": captioning,
    "first-step": starting,
    "packed": caching(TensorStore),
    "screen-folders": screening("folders", _folders_ready),
    "screen-captions": screening("captions", _captions_ready),
    "vae": encoding,
    "check": checking,
    "files": caching(FileStore),
}

if __name__ == "__main__":
    main()
