"""What the events of a run amount to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.runs import RunDir
from engine.runs.curve import BINS, Curve
from engine.runs.events import event_of
from engine.runs.history import KEPT_EVENTS, RunHistory
from tests.fake_run import PROMPTS, PlayedTrainer, prepared_run


def history_of(*events: tuple[str, dict[str, Any]]) -> RunHistory:
    history = RunHistory()
    history.feed(event_of(kind, data, seq, float(seq)) for seq, (kind, data) in enumerate(events))
    return history


def step(number: int, **data: Any) -> tuple[str, dict[str, Any]]:
    return "step", {"step": number, "epoch": 1, "loss": 1 / number, "loss_average": 2 / number, **data}


def test_steps_give_losses_pace_and_memory() -> None:
    history = history_of(
        step(1),
        step(2, lr={"unet": 1e-4}, memory={"resident_gib": 3.5}, eta_seconds=60.0, images_per_second=2.0,
             seconds_per_step=0.5),
    )  # fmt: skip
    assert (history.step, history.epoch, history.raw_loss, history.loss) == (2, 1, 0.5, 1.0)
    assert history.rates == {"unet": 1e-4} and history.memory == {"resident_gib": 3.5}
    assert (history.eta_seconds, history.images_per_second, history.seconds_per_step) == (60.0, 2.0, 0.5)


def test_a_value_that_is_no_number_is_unknown() -> None:
    history = history_of(
        step(1), step(2, loss=None, loss_average=None, eta_seconds=None, lr={"unet": None}, memory=None)
    )
    assert history.step == 2 and history.raw_loss == 1.0
    assert history.eta_seconds is None and history.rates == {} and history.memory == {}


def test_phases_nest_and_progress_belongs_to_its_phase() -> None:
    history = RunHistory()

    def feed(kind: str, **data: Any) -> str:
        history.feed([event_of(kind, data)])
        return history.phase

    assert feed("phase", name="cache", state="start") == "cache"
    feed("progress", phase="cache", done=3, total=16, unit="images")
    assert history.progress is not None and (history.progress.done, history.progress.total) == (3, 16)
    assert feed("phase", name="cache", state="end") == "" and history.progress is None
    plan = {"max_train_steps": 1200, "epochs": 10, "updates_per_epoch": 120}
    assert feed("phase", name="train", state="start", **plan) == "train"
    assert (history.max_train_steps, history.epochs, history.updates_per_epoch) == (1200, 10, 120)
    assert feed("phase", name="sample", state="start") == "sample"
    assert feed("phase", name="sample", state="end") == "train"
    assert feed("run_started", name="robot") == ""  # killed inside the training, and resumed


def test_a_resume_goes_on_with_the_curve_and_forgets_the_end() -> None:
    history = history_of(
        ("run_started", {"name": "robot"}), *(step(n) for n in range(1, 8)),
        ("oom", {"phase": "train", "step": 7, "message": "no"}),
        ("error", {"title": "Out of memory", "message": "no", "hint": ""}),
        ("run_finished", {"state": "failed", "exit_code": 4, "step": 7}),
    )  # fmt: skip
    assert history.ending == "failed" and history.oom is not None and history.error is not None
    history.feed([event_of("run_started", {"name": "robot"}, 20, 0.0), event_of("step", step(5)[1], 21, 0.0)])
    assert history.ending is None and history.oom is None and history.error is None and history.start_count == 2
    assert [item.step for item in history.raw.points(1)] == [1, 2, 3, 4, 5]


def test_an_out_of_memory_keeps_its_numbers_until_a_step_is_made() -> None:
    sizes = {"requested": 2**29, "free": 2**20, "total": 2**34, "allocated": None}
    oom = ("oom", {"phase": "sample", "step": 3, "message": "CUDA out of memory", "device": "cuda:0", **sizes})
    history = history_of(step(3), oom)
    assert history.oom is not None and (history.oom.phase, history.oom.step) == ("sample", 3)
    assert (history.oom.requested, history.oom.allocated, history.oom.reserved) == (2**29, None, None)
    history.feed([event_of("step", step(4)[1], 9, 0.0)])
    assert history.oom is None


def test_commands_are_answered_by_their_id() -> None:
    history = history_of(
        *(("control_ack", {"id": str(n), "command": "save_now", "result": "done"}) for n in range(500))
    )
    assert history.answers["499"] == "done" and "0" not in history.answers


def test_a_hundred_thousand_steps_take_bounded_memory() -> None:
    history = RunHistory()
    history.feed(
        event_of("step", {"step": n, "loss": float(n % 7), "loss_average": 3.0}, n, 0.0) for n in range(1, 100_001)
    )
    history.feed(event_of("note", {"text": "x"}, n, 0.0) for n in range(2000))
    assert len(history.raw) <= BINS and len(history.events) == KEPT_EVENTS
    last = history.raw.last
    assert last is not None and last.step == 100_000 and (last.low, last.high) == (0.0, 6.0)


def test_a_curve_keeps_peaks_and_the_last_value() -> None:
    curve = Curve(limit=8)
    for n in range(1, 101):
        curve.add(n, 50.0 if n == 37 else float(n % 2))
    assert len(curve) <= 8 and max(item.high for item in curve.points(1)) == 50.0
    coarse = curve.points(64)
    assert len(coarse) == 2 and coarse[-1].step == 100 and coarse[-1].last == 0.0
    assert coarse[0].high == 50.0 and coarse[0].low == 0.0


@pytest.fixture
def played(tmp_path: Path) -> RunDir:
    run_dir = prepared_run(tmp_path)
    trainer = PlayedTrainer(run_dir)
    trainer.train(10)
    trainer.save(validation_loss=0.15)
    trainer.sample()
    trainer.train(10)
    trainer.save(validation_loss=0.18)
    trainer.sample()
    trainer.end()
    return run_dir


def read(run_dir: RunDir) -> RunHistory:
    from engine.runs import read_events

    history = RunHistory()
    history.feed(read_events(run_dir.events_path))
    return history


def test_files_by_step_with_their_validation_loss(played: RunDir) -> None:
    (played.path / "robot.safetensors").write_bytes(b"x")
    files = read(played).files(played)
    assert [(file.path.name, file.step, file.validation_loss) for file in files] == [
        ("robot-step00000010.safetensors", 10, 0.15), ("robot-step00000020.safetensors", 20, 0.18),
        ("robot.safetensors", None, None),
    ]  # fmt: skip
    files[0].path.unlink()
    assert len(read(played).files(played)) == 2


def test_a_moved_run_still_finds_its_files_and_samples(played: RunDir, tmp_path: Path) -> None:
    moved = RunDir(played.path.rename(tmp_path / "elsewhere"))
    history = read(moved)
    assert [file.path.parent for file in history.files(moved)] == [moved.path] * 2
    samples = history.samples(moved)
    assert samples.steps == [10, 20] and samples.prompts == dict(enumerate(PROMPTS))
    assert {path.parent for path in samples.images.values()} == {moved.samples}
    samples.images[0, 20].unlink()
    assert len(history.samples(moved).images) == 3


def test_a_run_that_was_put_away_does_not_show_the_files_of_the_next_one(played: RunDir, tmp_path: Path) -> None:
    """They have the same names in the place where the old run was."""
    old = RunDir(tmp_path / "results_old")
    shutil.copytree(played.path, old.path)
    for path in (next(old.path.glob("*.safetensors")), next(old.samples.iterdir())):
        path.unlink()
    history = read(old)
    paths = [file.path for file in history.files(old)] + list(history.samples(old).images.values())
    assert paths and all(old.path in path.parents for path in paths)
    assert len(paths) == len(read(played).files(played)) + len(read(played).samples(played).images) - 2


def test_another_process_does_not_do_what_a_killed_one_did() -> None:
    history = history_of(
        ("run_started", {"name": "a", "step": 0, "pid": 7}),
        ("phase", {"name": "sample", "state": "start"}),
        ("progress", {"phase": "sample", "done": 20, "total": 30, "unit": "steps"}),
    )
    history.hand_over(7)
    assert history.phase == "sample" and history.progress is not None
    history.hand_over(8)
    assert history.phase == "" and history.progress is None
