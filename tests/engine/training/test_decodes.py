"""How often images are decoded and read: once, however often a run starts. Counted, not timed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.dataset import pixels, scan
from engine.dataset.checked import FILE_NAME
from engine.dataset.digests import FileDigests
from engine.exit_codes import ExitCode
from engine.reading import open_file
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from tests.engine.training.conftest import MakeRun
from tests.packed import packed, without

pytestmark = pytest.mark.usefixtures("unread_files")
Train = Callable[[RunDir], int]
IMAGES = {f"p{index}.png" for index in range(6)}
PROBES = 4
"""Images that the weights are measured on."""
SHORT = {"training__max_train_epochs": 1, "sampling__sample_every_n_steps": 0, "training__max_check_share": 0}


class Counts:
    """Names of the images that were decoded, and of files that were read for their digest."""

    def __init__(self) -> None:
        self.decoded: Counter[str] = Counter()
        self.hashed: Counter[str] = Counter()

    def take_counts(self) -> Counter[str]:
        """What was decoded since the last call."""
        counts, self.decoded = self.decoded, Counter()
        self.hashed.clear()
        return counts


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    counts = Counts()
    check, decode = scan.check_pixels, pixels.decode

    def checked(path: Path, *args: object, **kwargs: object) -> None:
        counts.decoded[path.name] += 1
        check(path, *args, **kwargs)  # type: ignore[arg-type]

    def decoded(path: Path, *args: object, **kwargs: object) -> Image.Image:
        counts.decoded[path.name] += 1
        return decode(path, *args, **kwargs)  # type: ignore[arg-type]

    def read(path: Path) -> object:
        file = open_file(path)
        inner = file.readinto

        def noted(buffer: bytearray) -> int:
            counts.hashed[path.name] += 1
            return inner(buffer)

        return _Read(file, noted)

    monkeypatch.setattr(scan, "check_pixels", checked)
    monkeypatch.setattr(pixels, "decode", decoded)
    monkeypatch.setattr("engine.dataset.digests.open_file", read)
    return counts


class _Read:
    """A file that notes that it is read."""

    def __init__(self, file: object, readinto: object) -> None:
        self._file, self.readinto = file, readinto

    def __enter__(self) -> _Read:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()  # type: ignore[attr-defined]


def nothing(_: Path) -> None: ...


def edit(folder: Path) -> None:
    Image.new("RGB", (64, 64), "red").save(folder / "p0.png")


def rename(folder: Path) -> None:
    (folder / "p0.png").rename(folder / "q.png")


def forget(folder: Path) -> None:
    (folder.parent / "cache/lorasmith" / FILE_NAME).unlink()


def damage(folder: Path) -> None:
    record = folder.parent / "cache/lorasmith" / FILE_NAME
    data = bytearray(record.read_bytes())
    data[10] ^= 1
    record.write_bytes(bytes(data[:-70]))  # a line is wrong, another one cut


def lose_a_latent(folder: Path) -> None:
    latents = folder.parent / "cache/lorasmith/latents"
    without(latents, next(iter(packed(latents))))


STARTS: dict[str, tuple[dict[str, object], Callable[[Path], None], int]] = {
    "as before": ({}, nothing, 0),
    "a renamed image": ({}, rename, 0),
    "an edited image is checked and encoded": ({}, edit, 1),
    "a lost latent is encoded": ({}, lose_a_latent, 1),
    "without a record all are checked": ({}, forget, 6),
    "a damaged record": ({}, damage, 3),
    "another resolution is encoded": ({"dataset__resolution": 96}, nothing, 6),
    "latents in memory are encoded": ({"memory__cache_latents_to_disk": "false"}, nothing, 6),
    "other pixels are checked and encoded": ({"training__kohya_exact": "true"}, nothing, 6),
}


SETTINGS = {**SHORT, "memory__cache_latents_to_disk": "true", "dataset__num_repeats": 1}
_caches: list[Path] = []


@pytest.fixture
def first_run(
    make_run: MakeRun, train_here: Train, counts: Counts, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What a first run leaves in the cache folder: it is trained by the first test that asks, the others get a copy,
    since everything in there is found by the content of the images."""
    cache = tmp_path / "cache"
    if _caches:
        shutil.copytree(_caches[0], cache)
        return
    assert train_here(make_run("first", **SETTINGS)) == ExitCode.DONE
    assert counts.take_counts() == dict.fromkeys(IMAGES, 1), "each is checked and encoded at once"
    _caches.append(shutil.copytree(cache, tmp_path_factory.mktemp("first") / "cache"))


@pytest.mark.parametrize("name", STARTS)
def test_a_second_run_decodes_what_is_missing(
    name: str, first_run: None, make_run: MakeRun, train_here: Train, images: Path, counts: Counts
) -> None:
    overrides, change, expected = STARTS[name]
    change(images)
    assert train_here(make_run("second", **{**SETTINGS, **overrides})) == ExitCode.DONE
    assert counts.take_counts().total() == expected


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_resume_decodes_and_reads_no_image(
    in_memory: bool, make_run: MakeRun, train_here: Train, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHORT, "memory__cache_latents_to_disk": "false" if in_memory else "true"}
    run = make_run(**settings)
    assert train_here(run) == ExitCode.DONE
    counts.take_counts()
    run.exit_path.unlink()
    assert train_here(run) == ExitCode.DONE
    assert counts.decoded.total() == (PROBES if in_memory else 0), "no step is left that would need more"
    assert not counts.hashed.keys() & IMAGES


def test_where_latents_are_not_cached_a_resume_checks_nothing(
    make_run: MakeRun, train_here: Train, counts: Counts
) -> None:
    run = make_run(**SHORT, memory__cache_latents="false", memory__cache_latents_to_disk="false")
    assert train_here(run) == ExitCode.DONE
    first = counts.take_counts()
    run.exit_path.unlink()
    assert train_here(run) == ExitCode.DONE
    assert first.total() - counts.take_counts().total() >= len(IMAGES)


def test_an_unreadable_image_is_set_aside_at_every_start(
    make_run: MakeRun, train_here: Train, images: Path, counts: Counts
) -> None:
    whole = (images / "p3.png").read_bytes()
    (images / "p3.png").write_bytes(whole[: len(whole) * 2 // 3])
    run = make_run(**SHORT, memory__cache_latents_to_disk="true")
    reported = []
    for _ in range(2):
        counts.take_counts()
        before = len(list(read_events(run.events_path)))
        assert train_here(run) == ExitCode.DONE
        notes = [event.get("text", "") for event in list(read_events(run.events_path))[before:] if event.type == "note"]
        reported.append([text for text in notes if "p3.png" in text or "→" in text])
        run.exit_path.unlink()
    assert reported[0] == reported[1] and len(reported[0]) == 2
    assert reported[0][0].startswith("  p3.png: truncated") and reported[0][1].startswith("10 items")
    assert counts.decoded == {"p3.png": 2}, "for its latent, and for the reason: it may have been replaced meanwhile"


def test_a_folder_that_takes_no_files_costs_only_time(
    make_run: MakeRun, train_here: Train, tmp_path: Path, counts: Counts
) -> None:
    (tmp_path / "cache/lorasmith").mkdir(parents=True)
    (tmp_path / "cache/lorasmith" / FILE_NAME).mkdir()
    settings = {**SHORT, "memory__cache_latents_to_disk": "false"}
    for place in ("first", "second"):
        assert train_here(make_run(place, **settings)) == ExitCode.DONE
        assert counts.take_counts() == dict.fromkeys(IMAGES, 1)


def test_the_digest_of_a_file_that_changed_is_not_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    digests = FileDigests()
    status = file.stat()
    digests.add(file, (status.st_size + 1, status.st_mtime_ns, status.st_ctime_ns), "wrong")
    assert digests.of(file) != "wrong"
