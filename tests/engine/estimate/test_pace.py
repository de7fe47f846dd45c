"""The time of a run is estimated from earlier runs, roughly from the GPU, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan, plan_steps
from engine.dataset.buckets import BucketGrid
from engine.dataset.scan import scan
from engine.estimate import pace as module
from engine.estimate.pace import MeasuredRun, OutputTimes, Pace, measured_runs
from engine.families.registry import recognise
from engine.families.resolved import resolve_run
from engine.hardware import Gpu
from engine.paths import ASSETS
from engine.runs import EventLog, RunDir, find_runs, prepare_run, record_run
from engine.runs.events import Event, StepEvent, event_of
from engine.runs.layout import write_record
from engine.runs.tail import TAIL_BYTES
from engine.types import Recognition

CARD = Gpu(0, "NVIDIA RTX 9000")


def pace(config: RunConfig, recognition: Recognition, gpu: Gpu | None, measured: list[MeasuredRun]) -> Pace:
    return module.pace(resolve_run(config, recognition), gpu, measured)


@pytest.fixture
def base() -> RunConfig:
    """Of the demo's size."""
    return RunConfig().changed(
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
        dataset={"train_data_dir": str(ASSETS / "demo_pictures"), "resolution": 64, "enable_bucket": False},
    )


@pytest.fixture
def demo() -> Recognition:
    """What the demo base is."""
    return recognise(ASSETS / "demo_base")


def ran(config: RunConfig, name: str, seconds: list[float], memory: dict[str, float] | None = None) -> RunDir:
    """A run that got as far as these steps."""
    run_dir = prepare_run(config.changed(saving={"output_name": name, "output_dir": str(Path.cwd() / name)}))
    record_run(run_dir)
    log = EventLog(run_dir.events_path)
    for step, took in enumerate(seconds, 1):
        log.emit(StepEvent(step=step, seconds_per_step=took, memory=memory or {"resident_gib": 1.0}))
    log.close()
    return run_dir


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_earlier_run_gives_the_pace_and_is_named(base: RunConfig, demo: Recognition) -> None:
    ran(base, "smithy", [9.0, 0.5, 0.4, 0.4, 0.4, 0.5])
    estimate = pace(base, demo, None, measured_runs(find_runs()))
    assert estimate.seconds_per_step == pytest.approx(0.45)
    assert estimate.source.startswith("from run smithy of ") and estimate.source.endswith(": 0.45 s a step")


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"training": {"train_batch_size": 4}}, 4),
        ({"dataset": {"resolution": 128}}, 4),
        ({"training": {"gradient_accumulation_steps": 2}}, 2),
        ({"memory": {"gradient_checkpointing": True}}, 4 / 3),
    ],
)
def test_it_is_scaled_and_that_is_reported(
    base: RunConfig, demo: Recognition, changes: dict[str, dict[str, Any]], factor: float
) -> None:
    ran(base, "smithy", [0.4] * 6)
    estimate = pace(base.changed(**changes), demo, None, measured_runs(find_runs()))
    assert estimate.seconds_per_step == pytest.approx(0.4 * factor) and "scaled by" in estimate.source


def test_the_batches_of_a_dataset_configuration_count(base: RunConfig, demo: Recognition, tmp_path: Path) -> None:
    ran(base, "smithy", [0.4] * 6)
    path = tmp_path / "dataset.toml"
    subset = f'image_dir = "{ASSETS / "demo_pictures"}"'
    path.write_text(f"[[datasets]]\nresolution = 64\nbatch_size = 3\n[[datasets.subsets]]\n{subset}\n")
    estimate = pace(base.changed(dataset={"dataset_config": str(path)}), demo, None, measured_runs(find_runs()))
    assert estimate.seconds_per_step == pytest.approx(0.4 * 3)


def test_the_nearest_settings_win(base: RunConfig, demo: Recognition) -> None:
    ran(base.changed(training={"train_batch_size": 4}), "four", [2.0] * 6)
    ran(base, "one", [0.4] * 6)
    assert "four" in pace(base.changed(training={"train_batch_size": 5}), demo, None, measured_runs(find_runs())).source


def test_runs_without_a_usable_pace_are_left_out(base: RunConfig, demo: Recognition) -> None:
    ran(base, "short", [0.4] * 4)
    elsewhere = ran(base, "elsewhere", [0.4] * 6)
    write_record(elsewhere.meta_path, {**elsewhere.meta, "host": "another"})
    moved = ran(base, "moved", [0.4] * 6)
    moved.config_path.write_text('[model]\npretrained_model_name_or_path = "gone.safetensors"\n')
    ran(base, "on-gpu", [0.1] * 6, memory={"allocated_gib": 2.0})
    measured = measured_runs(find_runs())
    assert [run.name for run in measured] == ["on-gpu"]
    assert pace(base, demo, None, measured) == Pace(None, "unknown until the first steps")
    assert pace(base, demo, CARD, measured).seconds_per_step == pytest.approx(0.1)


def test_a_checkpoint_of_another_size_gives_no_pace(base: RunConfig, demo: Recognition) -> None:
    measured = [MeasuredRun("big", 0.0, 1.0, base, demo.family, parameters=1e9, on_gpu=False)]
    assert pace(base, demo, None, measured).seconds_per_step is None


def test_a_log_is_read_from_its_end_only(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = ran(base, "long", [9.0] * 2000 + [0.5] * 2000)
    assert run_dir.events_path.stat().st_size > 4 * TAIL_BYTES
    with run_dir.events_path.open("ab") as file:
        file.write(b'{"type": "step", "seconds')
    assert [run.seconds_per_step for run in measured_runs(find_runs())] == [0.5]


def test_without_earlier_runs_a_gpu_gives_a_rough_figure_named_as_such(base: RunConfig, demo: Recognition) -> None:
    real = replace(demo, size=2_140_000_000, dtype="fp16")
    config = base.changed(dataset={"resolution": 512})
    fast = replace(CARD, cores=3584, clock_max=1800)
    assert fast.peak_flops == pytest.approx(12.9e12, rel=0.01)
    estimate = pace(config, real, fast, [])
    assert estimate.source.startswith("rough") and "NVIDIA RTX 9000" in estimate.source
    assert estimate.seconds_per_step == pytest.approx(0.54, rel=0.05)
    assert pace(config, real, CARD, []).seconds_per_step is None
    assert pace(config, real, None, []).seconds_per_step is None


def test_steps_and_samples_are_counted(base: RunConfig) -> None:
    config = base.changed(
        training={"max_train_steps": 100},
        sampling={"sample_every_n_steps": 50, "sample_steps": 30, "sample_at_first": True},
    )
    plan = plan_of(config)
    estimate = Pace(0.3, "")
    assert estimate.seconds(config, plan, [60, 30]) == pytest.approx((100 * 0.3, 3 * 90 * 0.3 / 3))
    without = estimate.seconds(config.changed(sampling={"sample_every_n_steps": 0}), plan, [60, 30])
    assert without == pytest.approx((30, 0))
    assert Pace(None, "").seconds(config, plan, [60, 30]) is None
    last_is_between = config.changed(sampling={"sample_every_n_steps": 40})
    assert estimate.seconds(last_is_between, plan, [60]) == pytest.approx((30, 4 * 60 * 0.1)), "0, 40, 80, 100"


def test_measuring_sampling_and_saving_are_taken_from_the_events_too(base: RunConfig, demo: Recognition) -> None:
    config = base.changed(sampling={"sample_prompts": ["a robot --l 1"], "sample_steps": 10})
    run_dir = ran(config, "alpha", [0.4] * 6)
    events: list[Event] = []
    now = 1000.0
    for name, seconds in (("validate", 6.0), ("save", 3.0), ("sample", 20.0), ("save", 5.0)):
        events.append(event_of("phase", {"name": name, "state": "start"}, time=now))
        if name == "validate":
            events.append(event_of("validation", {"step": 3, "loss": 0.1, "passes": 8, "seconds": 2.0}, time=now))
            events.append(event_of("measures", {"step": 3, "shift": 0.1, "passes": 8, "seconds": 4.0}, time=now))
        now += seconds
        events.append(event_of("phase", {"name": name, "state": "end"}, time=now))
    events.append(event_of("phase", {"name": "sample", "state": "start"}, time=now))  # killed in it
    with run_dir.events_path.open("a") as file:
        for event in events:
            event.seq = 100
            file.write(f"{event.as_json()}\n")
    measured = measured_runs(find_runs())
    assert pace(config, demo, None, measured).outputs == OutputTimes(6.0 / 16, 2.0, 4.0)
    larger = pace(config.changed(dataset={"resolution": 128}), demo, None, measured)
    assert larger.outputs == OutputTimes(4 * 6.0 / 16, 8.0, 4.0), "four times the pixels; a file is as large"
    plan = plan_of(config.changed(sampling={"sample_every_n_steps": 1000}, training={"max_train_steps": 10}))
    seconds = pace(config, demo, None, measured).seconds(
        config.changed(sampling={"sample_every_n_steps": 1000}), plan, [10]
    )
    assert seconds == pytest.approx((4.0, 40.0)), "samples at the start and the end"


@pytest.mark.parametrize(("batch", "text"), [(1, "0.4 s a step"), (50, "20 s a step"), (250, "100 s a step")])
def test_no_figure_has_an_exponent(base: RunConfig, demo: Recognition, batch: int, text: str) -> None:
    ran(base, "smithy", [0.4] * 6)
    source = pace(base.changed(training={"train_batch_size": batch}), demo, None, measured_runs(find_runs())).source
    assert f": {text}" in source and "e+" not in source
    assert batch == 1 or f"scaled by {batch} for" in source


def plan_of(config: RunConfig) -> StepPlan:
    return plan_steps(scan(config), BucketGrid.from_table(config.dataset, multiple=8, downscale=8), config)
