"""The time of a run is told from earlier runs, roughly from the GPU, or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan, plan_steps
from engine.dataset.buckets import BucketGrid
from engine.dataset.scan import scan
from engine.hardware import Gpu
from engine.models.base import Recognition
from engine.models.registry import recognise
from engine.paths import ASSETS
from engine.runs import EventLog, RunDir, find_runs, prepare_run, remember
from engine.runs.layout import write_record
from engine.runs.pace import Measured, Pace, earlier, pace
from engine.runs.tail import TAIL_BYTES

CARD = Gpu(0, "NVIDIA RTX 9000")


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
    remember(run_dir)
    log = EventLog(run_dir.events_path)
    for step, took in enumerate(seconds, 1):
        log.emit("step", step=step, seconds_per_step=took, memory=memory or {"resident_gib": 1.0})
    log.close()
    return run_dir


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_an_earlier_run_tells_and_is_named(base: RunConfig, demo: Recognition) -> None:
    ran(base, "smithy", [9.0, 0.5, 0.4, 0.4, 0.4, 0.5])
    told = pace(base, demo, None, earlier(find_runs()))
    assert told.seconds_per_step == pytest.approx(0.45)
    assert told.source.startswith("from run smithy of ") and told.source.endswith(": 0.45 s a step")


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"training": {"train_batch_size": 4}}, 4),
        ({"dataset": {"resolution": 128}}, 4),
        ({"training": {"gradient_accumulation_steps": 2}}, 2),
        ({"memory": {"gradient_checkpointing": True}}, 4 / 3),
    ],
)
def test_it_is_scaled_and_that_is_said(
    base: RunConfig, demo: Recognition, changes: dict[str, dict[str, Any]], factor: float
) -> None:
    ran(base, "smithy", [0.4] * 6)
    told = pace(base.changed(**changes), demo, None, earlier(find_runs()))
    assert told.seconds_per_step == pytest.approx(0.4 * factor) and "scaled by" in told.source


def test_the_batches_of_a_dataset_configuration_count(base: RunConfig, demo: Recognition, tmp_path: Path) -> None:
    ran(base, "smithy", [0.4] * 6)
    path = tmp_path / "dataset.toml"
    subset = f'image_dir = "{ASSETS / "demo_pictures"}"'
    path.write_text(f"[[datasets]]\nresolution = 64\nbatch_size = 3\n[[datasets.subsets]]\n{subset}\n")
    told = pace(base.changed(dataset={"dataset_config": str(path)}), demo, None, earlier(find_runs()))
    assert told.seconds_per_step == pytest.approx(0.4 * 3)


def test_the_nearest_settings_win(base: RunConfig, demo: Recognition) -> None:
    ran(base.changed(training={"train_batch_size": 4}), "four", [2.0] * 6)
    ran(base, "one", [0.4] * 6)
    assert "four" in pace(base.changed(training={"train_batch_size": 5}), demo, None, earlier(find_runs())).source


def test_what_tells_nothing_is_left_out(base: RunConfig, demo: Recognition) -> None:
    ran(base, "short", [0.4] * 4)
    elsewhere = ran(base, "elsewhere", [0.4] * 6)
    write_record(elsewhere.meta_path, {**elsewhere.meta, "host": "another"})
    moved = ran(base, "moved", [0.4] * 6)
    moved.config_path.write_text('[model]\npretrained_model_name_or_path = "gone.safetensors"\n')
    ran(base, "on-gpu", [0.1] * 6, memory={"allocated_gib": 2.0})
    measured = earlier(find_runs())
    assert [one.name for one in measured] == ["on-gpu"]
    assert pace(base, demo, None, measured) == Pace(None, "unknown until the first steps")
    assert pace(base, demo, CARD, measured).seconds_per_step == pytest.approx(0.1)


def test_a_checkpoint_of_another_size_tells_nothing(base: RunConfig, demo: Recognition) -> None:
    measured = [Measured("big", 0.0, 1.0, base, demo.family, parameters=1e9, on_gpu=False)]
    assert pace(base, demo, None, measured).seconds_per_step is None


def test_a_log_is_read_from_its_end_only(base: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = ran(base, "long", [9.0] * 2000 + [0.5] * 2000)
    assert run_dir.events_path.stat().st_size > 4 * TAIL_BYTES
    with run_dir.events_path.open("ab") as file:
        file.write(b'{"type": "step", "seconds')
    assert [one.seconds_per_step for one in earlier(find_runs())] == [0.5]


def test_without_earlier_runs_a_gpu_gives_a_rough_figure_that_says_so(base: RunConfig, demo: Recognition) -> None:
    real = replace(demo, size=2_140_000_000, dtype="fp16")
    config = base.changed(dataset={"resolution": 512})
    fast = replace(CARD, cores=3584, clock_max=1800)
    assert fast.peak_flops == pytest.approx(12.9e12, rel=0.01)
    told = pace(config, real, fast, [])
    assert told.source.startswith("rough") and "NVIDIA RTX 9000" in told.source
    assert told.seconds_per_step == pytest.approx(0.54, rel=0.05)
    assert pace(config, real, CARD, []).seconds_per_step is None
    assert pace(config, real, None, []).seconds_per_step is None


def test_the_total_counts_the_samples(base: RunConfig) -> None:
    config = base.changed(
        training={"max_train_steps": 100},
        sampling={"sample_every_n_steps": 50, "sample_steps": 30, "sample_at_first": True},
    )
    plan = plan_of(config)
    told = Pace(0.3, "")
    assert told.total(config, plan, num_prompts=2) == pytest.approx(100 * 0.3 + 3 * 2 * 30 * 0.3 * 2 / 3)
    assert told.total(config.changed(sampling={"sample_every_n_steps": 0}), plan, 2) == pytest.approx(30)
    assert Pace(None, "").total(config, plan, 2) is None


def plan_of(config: RunConfig) -> StepPlan:
    return plan_steps(scan(config), BucketGrid.from_config(config, multiple=8, downscale=8), config)
