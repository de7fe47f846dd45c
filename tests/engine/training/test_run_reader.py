"""What is read in a thread while torch is imported: the results, their errors, and the end of the thread."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.dataset.fitted import FittedImages
from engine.dataset.images import ImageInfo
from engine.errors import DataError, LoraSmithError
from engine.runs.layout import RunDir
from engine.training import run_reader
from engine.training.run_reader import RunReader, Stage
from engine.training.session import Session, Stopped
from tests.engine.training.conftest import MakeRun
from tests.refusals import refused


@pytest.fixture
def session() -> Session:
    """Of which nobody wants an end."""
    return cast("Session", SimpleNamespace(raise_if_stopped=lambda: None))


def names(images: Any) -> list[str]:
    return sorted(image.path.name for subset in images.subsets for image in subset.images)


def test_settings_images_and_inputs_are_read(make_run: MakeRun, images: Path, session: Session) -> None:
    broken = images / "p3.png"
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size * 2 // 3])
    run, reports = make_run(), list[tuple[int, int]]()
    with RunReader(run) as reader:
        resolved = reader.resolved.wait(session)
        scanned = reader.scanned.wait(session, lambda done, total: reports.append((done, total)))
        collected = reader.inputs.wait(session)
        usable = reader.usable.wait(session, lambda done, total: reports.append((done, total)))
    everything = sorted(path.name for path in images.glob("*.png"))
    assert resolved.recognition.family == "sd15" and resolved.config.saving.output_name == run.name
    assert names(scanned) == everything and reports[-1] == (len(everything), len(everything))
    assert names(usable.scan) == [name for name in everything if name != "p3.png"]
    assert collected is not None and (collected.recorded, collected.step) == (None, None)
    assert sorted(Path(path).name for path in collected.current.images) == everything


def test_ranks_above_0_record_nothing(make_run: MakeRun, session: Session) -> None:
    with RunReader(make_run(), is_main=False) as reader:
        assert reader.inputs.wait(session) is None
        assert names(reader.usable.wait(session).scan)


@pytest.mark.parametrize(("harm", "stage"), [("configuration", "resolved"), ("images", "scanned"), ("model", "inputs")])
def test_an_error_comes_where_its_result_is_waited_for(
    harm: str, stage: str, make_run: MakeRun, images: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run()
    if harm == "configuration":
        run.config_path.write_text("[training]\nbanana = 1\n")
    elif harm == "images":
        for path in images.iterdir():
            path.unlink()
    else:
        error = DataError("The file cannot be read.", "Check it.", code="file-unreadable")
        monkeypatch.setattr(run_reader, "collect_inputs", lambda *_: (_ for _ in ()).throw(error))
    with RunReader(run) as reader:
        for name in ("resolved", "scanned", "inputs"):
            waiting = getattr(reader, name)
            if name == stage:
                with pytest.raises(LoraSmithError):
                    waiting.wait(session)
                break
            waiting.wait(session)


def test_the_end_of_the_context_ends_the_thread_at_the_next_image(
    make_run: MakeRun, images: Path, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, decoded = threading.Event(), threading.Event(), list[ImageInfo]()

    def decode(_: object, image: ImageInfo) -> None:
        decoded.append(image)
        begun.set()
        assert go_on.wait(60)

    monkeypatch.setattr(FittedImages, "decode", decode)
    monkeypatch.setattr("engine.dataset.scan.workers", lambda _: 1)
    with RunReader(make_run()) as reader:
        reader.inputs.wait(session)
        assert begun.wait(60)
        reader._stop.set()
        go_on.set()
    assert len(decoded) == 1 and len(list(images.glob("*.png"))) > 1
    assert not reader._thread.is_alive()


def test_a_stop_ends_the_wait(session: Session) -> None:
    stage: Stage[int] = Stage()
    stage.set_progress(1, 3)
    looks: list[tuple[int, int]] = []

    def stop() -> None:
        if looks:
            raise Stopped

    session.raise_if_stopped = stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        stage.wait(session, lambda done, total: looks.append((done, total)))
    assert looks == [(1, 3)]


def test_an_error_is_kept_and_raised_in_the_thread_too(session: Session) -> None:
    stage: Stage[int] = Stage()

    def fail() -> int:
        raise DataError("No.", code="file-unreadable")

    with refused("file-unreadable"):
        stage.compute(fail)
    with refused("file-unreadable"):
        stage.wait(session)


def test_a_run_that_is_not_there_is_refused(tmp_path: Path, session: Session) -> None:
    with RunReader(RunDir(tmp_path / "none")) as reader, pytest.raises(LoraSmithError):
        reader.resolved.wait(session)


def test_a_stage_that_has_not_begun_reports_nothing(monkeypatch: pytest.MonkeyPatch, session: Session) -> None:
    monkeypatch.setattr(run_reader, "LOOK_SECONDS", 0.001)
    stage, reports, go = Stage[str](), list[tuple[int, int]](), threading.Event()

    def work() -> str:
        go.wait()
        stage.set_progress(1, 2)
        return "done"

    threading.Thread(target=stage.compute, args=(work,)).start()
    threading.Timer(0.05, go.set).start()
    assert stage.wait(session, lambda done, total: reports.append((done, total))) == "done"
    assert set(reports) == {(1, 2)}


def test_the_end_of_the_context_ends_the_scan(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, ended = threading.Event(), list[bool]()

    def endless(_config: Any, report: Any) -> None:
        try:
            while True:
                report(1, 2)
                progress.set()
        except Stopped:
            ended.append(True)
            raise

    monkeypatch.setattr(run_reader, "scan", endless)
    with RunReader(make_run()):
        assert progress.wait(10)
    assert ended == [True]
