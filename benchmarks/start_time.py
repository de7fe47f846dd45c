"""How long a run takes from its start to the end of its first step, on many large images whose latents are cached.

The program draws the images itself, JPEG of 12 megapixels that all differ. Two checkouts take turns, each with the
same Python, images and settings, and with caches of its own; a run is the trainer's own process, from its start until
its event of the first step, and is killed then. With --command it is the command that a user types, `lorasmith
--preset` or `lorasmith resume`, which checks everything, makes the run directory and starts the trainer.

* empty: a first run, nothing cached, planned for as many steps as --short says (once a side, unless --cold gives more);
* filled: a first run of a whole epoch, nothing cached (once a side): it makes the caches for the rest;
* cached: a new run on the same images;
* resume: the same run started again after it was killed.

Medians of alternating starts count; on a busy machine the shortest says more. Without --command the run directory is
made before and not measured.

    python benchmarks/start_time.py [--images 500] [--rounds 5] [--command] [--other DIR]     DIR: another checkout
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZE = (4000, 3000)
PATIENCE = 7200.0
"""Seconds after which a start counts as failed."""
_TRAINER = (sys.executable, "-m", "engine.training")
_COMMAND = (sys.executable, "-c", "from tui.main import main; main()")
_MAKE_RUN = """
import json, sys
from engine.config import load_config
from engine.runs.prepare import prepare_run
settings = json.loads(sys.argv[1])
print(prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]), restart=True).path)
"""


@dataclass
class Side:
    """A checkout, with the seconds of its starts by their kind."""

    name: str
    checkout: Path
    place: Path
    by_command: bool = False
    """Whether the command of a user is measured, or the trainer's process alone."""
    from_disk: Path | None = None
    """A model that the system forgets before each start, so that it is read from the disk."""
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def begin(self, kind: str, settings: Mapping[str, object]) -> Path:
        """Start a new run, by this side's own code, and note the time; settings that it does not know are left out."""
        run = self.place / f"{kind}-{len(self.seconds.get(kind, ()))}"
        values = {**settings, "saving.output_dir": run, "memory.cache_dir": self.place / "cache"}
        known = (self.checkout / "presets" / "schema.json").read_text()
        values = {key: str(value) for key, value in values.items() if f'"{key.partition(".")[2]}"' in known}
        if self.by_command:
            changes = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
            self._start(kind, [*_COMMAND, "--preset", "demo", *changes], run)
            return run
        done = subprocess.run(
            [sys.executable, "-c", _MAKE_RUN, json.dumps(values)], cwd=self.checkout, env=self._environment(),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{self.name}: the run cannot be made.\n{done.stderr}")
        self._start(kind, [*_TRAINER, str(run)], run)
        return run

    def resume(self, run: Path) -> None:
        """Start a run again, and note the time."""
        self._start("resume", [*_COMMAND, "resume", str(run)] if self.by_command else [*_TRAINER, str(run)], run)

    def _start(self, kind: str, command: list[str], run: Path) -> None:
        """Train until the first step has its event, and note how long that took."""
        log = run / ".run" / "events.jsonl"
        offset = log.stat().st_size if log.exists() else 0
        for file in () if self.from_disk is None else self.from_disk.rglob("*.safetensors"):
            _forget(file)
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=self.checkout, env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not _stepped(log, offset):
                if process.poll() is not None or time.perf_counter() - begin > PATIENCE:
                    sys.exit(f"{self.name}, {kind}: no step was made; see {log}")
                time.sleep(0.005)
            self.seconds.setdefault(kind, []).append(time.perf_counter() - begin)
        finally:
            if self.by_command and log.exists():
                _end_trainer(run)
            process.kill()
            process.wait()

    def median(self, kind: str) -> float:
        """Of the starts of that kind, in seconds."""
        return statistics.median(self.seconds[kind])

    def _environment(self) -> dict[str, str]:
        homes = {f"XDG_{name}_HOME": str(self.place / name.lower()) for name in ("CACHE", "CONFIG", "STATE", "DATA")}
        return {**os.environ, **homes, "PYTHONPATH": str(self.checkout)}


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(dir=options.place) as folder:
        place = Path(folder)
        draw(place / "images", options.images)
        forgotten = Path(options.model) if options.from_disk else None
        sides = [Side("here", ROOT, place / "here", options.command, forgotten)]
        if options.other is not None:
            sides.append(Side("other", options.other.resolve(), place / "other", options.command, forgotten))
        measure(sides, settings_of(options, place / "images"), options)
    report(sides, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="how many; %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind and side; %(default)s")
    parser.add_argument("--cold", type=int, default=1, help="starts without any cache, of each side; %(default)s")
    parser.add_argument("--short", type=int, default=20, help="steps that a start without a cache plans; %(default)s")
    parser.add_argument("--command", action="store_true", help="measure the user's command, not the trainer alone")
    parser.add_argument("--from-disk", action="store_true", help="take the model out of the system's cache before")
    parser.add_argument("--other", type=Path, help="another checkout, to compare with")
    parser.add_argument("--model", default=str(ROOT / "engine/assets/demo_base"), help="the demo base")
    parser.add_argument("--resolution", type=int, default=64, help="%(default)s, as the demo base is made for")
    parser.add_argument("--place", type=Path, help="folder for images and caches; that of temporary files")
    return parser.parse_args()


def draw(folder: Path, number: int) -> None:
    """JPEG files of 12 megapixels, each of its own content, with grain as a camera's have."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    grain = np.random.default_rng(0).integers(-12, 13, (SIZE[1], SIZE[0], 1), dtype=np.int16)

    def write_image(index: int) -> None:
        coarse = np.random.default_rng(index + 1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
        image = Image.fromarray((smooth + np.roll(grain, 97 * index, 1)).clip(0, 255).astype(np.uint8))
        image.save(folder / f"{index:05}.jpg", quality=92)
        (folder / f"{index:05}.txt").write_text("zed")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_image, range(number)))


def settings_of(options: argparse.Namespace, images: Path) -> dict[str, object]:
    return {
        "model.pretrained_model_name_or_path": options.model,
        "dataset.train_data_dir": images,
        "dataset.resolution": options.resolution,
        "dataset.enable_bucket": "false",
        "dataset.num_repeats": 1,
        "saving.output_name": "x",
        "memory.cache_latents_to_disk": "true",
        "network.network_dim": 4,
        "training.train_batch_size": 1,
        "training.max_train_epochs": 1,
        "training.num_processes": 1,
        "sampling.sample_every_n_steps": 0,
        "training.max_check_share": 0,
    }


def measure(sides: list[Side], settings: Mapping[str, object], options: argparse.Namespace) -> None:
    """All starts; the sides take turns, and the first one changes."""
    short = {key: value for key, value in settings.items() if key != "training.max_train_epochs"}
    short["training.max_train_steps"] = options.short
    for turn in range(options.cold):
        for side in _in_turn(sides, turn):
            side.begin("empty", short)
            shutil.rmtree(side.place)
    for side in sides:
        side.begin("filled", settings)
    for turn in range(options.rounds):
        for side in _in_turn(sides, turn):
            side.resume(side.begin("cached", settings))
        print(json.dumps({side.name: {kind: seconds[-1] for kind, seconds in side.seconds.items()} for side in sides}))


def report(sides: list[Side], options: argparse.Namespace) -> None:
    """The medians of both sides, as a table."""
    kinds = [kind for kind in ("empty", "filled", "cached", "resume") if kind in sides[0].seconds]
    print(f"\nSeconds to the end of the first step, {options.images} images of 12 MP: median, shortest (starts)\n")
    print("| start | " + " | ".join(side.name for side in sides) + " |")
    print("|---|" + "---|" * len(sides))
    for kind in kinds:
        cells = [
            f"{side.median(kind):.1f}, {min(side.seconds[kind]):.1f} ({len(side.seconds[kind])})" for side in sides
        ]
        print(f"| {kind} | {' | '.join(cells)} |")


def _in_turn(sides: list[Side], turn: int) -> list[Side]:
    return sides[::-1] if turn % 2 else sides


def _forget(file: Path) -> None:
    """Take a file out of the system's cache."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _end_trainer(run: Path) -> None:
    """Kill the trainer that a command has started, and wait until it is gone: a resume would refuse a live run."""
    trainer = int(json.loads((run / ".run" / "state.json").read_text())["pid"])
    with suppress(ProcessLookupError):
        os.kill(trainer, signal.SIGKILL)
    with suppress(FileNotFoundError):
        while Path(f"/proc/{trainer}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
            time.sleep(0.005)


def _stepped(log: Path, offset: int) -> bool:
    """Whether the log has the event of a step after its first `offset` bytes."""
    if not log.exists():
        return False
    with log.open("rb") as file:
        file.seek(offset)
        return b'"type":"step"' in file.read().replace(b'": "', b'":"')


if __name__ == "__main__":
    main()
