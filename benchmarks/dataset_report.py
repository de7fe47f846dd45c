"""How often the dataset report finds a fault that is there, and one that is not; how long it takes, and its memory.

    python benchmarks/dataset_report.py [--images 10000] [--place DIR]

Draws a set in which each 50 images have one of each fault, in several degrees, and 22 without any; asks for the
report in its process, again, and prints one table. A detection is the image under the fault's code, for copies
together with its original. A false alarm is any other image under that code.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.config import RunConfig
from engine.dataset.report.findings import Report
from engine.dataset.report.process import CheckRequest, ask
from tests.drawn_images import (
    blurred,
    caption,
    exposed,
    framed,
    letterboxed,
    mirrored,
    scene,
    sizes,
    trimmed,
    watermarked,
)

Draw = Callable[[Image.Image], Image.Image]
ROUND = 50
"""Images after which the faults repeat."""
ORIGINAL = 40
"""Index in a round of the first original of copies."""
TRIGGER = "f0x"


@dataclass(frozen=True)
class Fault:
    """A fault in one image of each round."""

    code: str
    degree: str
    draw: Draw = lambda image: image
    copies: bool = False
    """It is made from another image of the round, and must be found together with it."""


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    """Through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def shrunk(image: Image.Image) -> Image.Image:
    """Three fifths of the size, by the filter of image editors."""
    return image.resize((image.width * 3 // 5, image.height * 3 // 5), Image.Resampling.LANCZOS)


FAULTS = (
    Fault("blurred", "σ 2 px", lambda image: blurred(image, 2)),
    Fault("blurred", "σ 3 px", lambda image: blurred(image, 3)),
    Fault("blurred", "σ 4 px", lambda image: blurred(image, 4)),
    Fault("overexposed", "2 stops", lambda image: exposed(image, 2)),
    Fault("overexposed", "3 stops", lambda image: exposed(image, 3)),
    Fault("underexposed", "4 stops", lambda image: exposed(image, -4)),
    Fault("underexposed", "5 stops", lambda image: exposed(image, -5)),
    Fault("borders", "bars of 4 %", lambda image: letterboxed(image, 0.04)),
    Fault("borders", "bars of 12 %", lambda image: letterboxed(image, 0.12)),
    Fault("borders", "frame", framed),
    *(
        Fault("watermark", f"{share:.0%} opaque", lambda image, share=share: watermarked(image, opacity=share))
        for share in (0.5, 0.7, 0.9)
        for _ in range(2)
    ),
    Fault("duplicate", "lossless copy", copies=True),
    Fault("near-duplicate", "JPEG quality 40", lambda image: recompressed(image, 40), copies=True),
    Fault("near-duplicate", "3/5 size", shrunk, copies=True),
    Fault("near-duplicate", "trimmed by 4 %, 3/4 size", lambda image: trimmed(image, 0.04), copies=True),
    Fault("near-duplicate", "trimmed by 8 %, 3/4 size", lambda image: trimmed(image, 0.08), copies=True),
    Fault("mirrored", "", mirrored, copies=True),
    Fault("small", "160 px", lambda image: image.resize((160, 160))),
    Fault("broken", "cut at 60 %"),
    Fault("caption-same", ""),
    Fault("caption-long", "about 120 tokens"),
    Fault("caption-missing", ""),
    Fault("trigger-missing", ""),
)


def fault_of(index: int) -> Fault | None:
    """The fault of an image; None where it has none."""
    place = index % ROUND
    return FAULTS[place] if place < len(FAULTS) else None


def original_of(index: int) -> int:
    """The image that a copy is made from."""
    first = next(place for place, fault in enumerate(FAULTS) if fault.copies)
    return index - index % ROUND + ORIGINAL + index % ROUND - first


def name_of(index: int) -> str:
    """The file name; copies are lossless, so that their pixels are exact."""
    fault = fault_of(index)
    return f"{index:06}.{'webp' if fault is not None and fault.copies else 'jpg'}"


def draw(job: tuple[Path, int]) -> None:
    """One image with its caption."""
    folder, index = job
    fault = fault_of(index)
    seed = original_of(index) if fault is not None and fault.copies else index
    path = folder / name_of(index)
    image = scene(seed, sizes(seed))
    if fault is not None and fault.copies:
        fault.draw(recompressed(image, 92)).save(path, lossless=True, method=0)
    else:
        (fault.draw(image) if fault is not None else image).save(path, quality=92)
    words = caption(index)
    if fault is not None and fault.code == "broken":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    elif fault is not None and fault.code == "caption-same":
        words = "a fox on a hill"
    elif fault is not None and fault.code == "caption-long":
        rng = random.Random(index)
        words += ", " + " ".join(rng.choices(["red", "old", "slow", "hill", "barn", "lamp", "road", "cloud"], k=110))
    if fault is None or fault.code not in ("caption-missing", "trigger-missing"):
        path.with_suffix(".txt").write_text(f"{TRIGGER}, {words}\n")
    elif fault.code == "trigger-missing":
        path.with_suffix(".txt").write_text(f"{words}\n")


class Memory(threading.Thread):
    """The largest sum of memory of this process's children, shared pages counted once each by their share."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Poll five times a second."""
        while not self.ended.wait(0.2):
            total = 0
            for child in psutil.Process().children(recursive=True):
                try:
                    total += child.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def timed(config: RunConfig, html: Path | None = None) -> tuple[Report, float, float, float]:
    """(report, seconds, seconds of all processors, GiB at most)."""
    memory = Memory()
    memory.start()
    begun, worked = time.monotonic(), cpu_seconds()
    report, _ = ask(CheckRequest(config, html))
    seconds = time.monotonic() - begun
    memory.ended.set()
    memory.join()
    return report, seconds, cpu_seconds() - worked, memory.peak / 2**30


def cpu_seconds() -> float:
    """Of the children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rates(report: Report, count: int) -> list[tuple[str, str, int, int, int, int]]:
    """(code, degree, there, detected, false alarms of the code, images without that fault)."""
    together: dict[str, dict[str, int]] = defaultdict(dict)
    for finding in report.findings:
        for number, case in enumerate(finding.cases):
            for image in case.images:
                together[finding.kind.code][image.name] = number
    there, detected = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    expected: dict[str, set[str]] = defaultdict(set)
    for index in range(count):
        fault = fault_of(index)
        if fault is None:
            continue
        kind = fault.code, fault.degree
        there[kind] += 1
        groups, own = together[fault.code], name_of(index)
        expected[fault.code].add(own)
        if fault.copies:
            other = name_of(original_of(index))
            expected[fault.code].add(other)
            detected[kind] += own in groups and groups.get(own) == groups.get(other)
        else:
            detected[kind] += own in groups
    rows = [
        (
            *kind,
            number,
            detected[kind],
            len(together[kind[0]].keys() - expected[kind[0]]),
            count - len(expected[kind[0]]),
        )
        for kind, number in there.items()
    ]
    unexpected = {finding.kind.code for finding in report.findings if finding.cases} - set(expected)
    return rows + [(code, "none is there", 0, 0, len(together[code]), count) for code in sorted(unexpected)]


def main() -> None:
    """Draw, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="rounded to rounds of 50 (default 10000)")
    parser.add_argument("--place", type=Path, help="folder of the set, which is kept; an existing set is used")
    options = parser.parse_args()
    count = max(1, options.images // ROUND) * ROUND
    place = options.place or Path(tempfile.mkdtemp(prefix="lorasmith-report-"))
    folder = place / f"images-{count}"
    os.environ["XDG_CACHE_HOME"] = str(place / "cache")
    shutil.rmtree(place / "cache", ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        left = [(folder, index) for index in range(count) if not (folder / name_of(index)).exists()]
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            for _ in pool.imap_unordered(draw, left, chunksize=25):
                pass
        config = RunConfig.model_validate({"dataset": {"train_data_dir": str(folder), "class_tokens": TRIGGER}})
        report, first, worked, peak = timed(config)
        _, second, _, _ = timed(config, place / "page.html")
        print(f"{count} images: {first:.0f} s ({worked:.0f} s of processor time), at most {peak:.2f} GiB; ", end="")
        print(f"second report, with the page: {second:.0f} s")
        print("\n| finding | degree | there | found | | false alarms | |\n|---|---|---|---|---|---|---|")
        for code, degree, there, detected, false, others in rates(report, count):
            share = f"{detected / there:.1%}" if there else ""
            print(f"| {code} | {degree} | {there} | {detected} | {share} | {false} | {false / others:.2%} |")
    finally:
        if options.place is None:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
