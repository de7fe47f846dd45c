"""What a configuration amounts to, and that images are read again only when they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engine.dataset.scan
from engine.config import RunConfig
from engine.dataset.scan import scan
from engine.families.resolved import resolve_run
from engine.paths import ASSETS
from engine.results.check_plan import checks_of
from engine.runs import EventLog, prepare_run
from engine.runs.events import MeasuresEvent, StepEvent
from engine.text import duration
from tests.refusals import refused
from tui.setup.forecast import Forecaster


@pytest.fixture
def config(place: Path) -> RunConfig:
    """Three images and the demo base."""
    images = place / "images"
    images.mkdir()
    for file in sorted((ASSETS / "demo_pictures").glob("*.png"))[:3]:
        (images / file.name).write_bytes(file.read_bytes())
    return RunConfig().changed(
        model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")},
        dataset={"train_data_dir": "images", "resolution": 64, "enable_bucket": False, "num_repeats": 10},
        training={"max_train_epochs": 2},
        memory={"device": "cpu"},
        saving={"output_name": "robot"},
    )


def test_steps_epochs_time_and_disk_in_two_lines(place: Path, config: RunConfig) -> None:
    forecast = Forecaster().forecast(config)
    assert forecast.line().startswith("60 steps = 2 epochs · disk about ") and "MiB" in forecast.line()
    assert forecast.source() == forecast.time() == "Time: unknown until the first steps"


def test_the_time_comes_from_an_earlier_run(place: Path, config: RunConfig) -> None:
    log = EventLog(prepare_run(config).events_path)
    for step in range(6):
        log.emit(StepEvent(step=step, seconds_per_step=2.0, memory={}))
    log.close()
    config = config.changed(sampling={"sample_every_n_steps": 0}, training={"max_check_share": 0})
    forecast = Forecaster().forecast(config)
    assert forecast.line().startswith("60 steps = 2 epochs · about 2 min 0 s · disk about ")
    assert forecast.time().startswith("Time: about 2 min 0 s for steps and samples, from run robot of ")


@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_the_time_has_the_measuring_in_it(place: Path, config: RunConfig, share: float) -> None:
    log = EventLog(prepare_run(config).events_path)
    for step in range(6):
        log.emit(StepEvent(step=step, seconds_per_step=2.0, memory={}))
    log.close()
    config = config.changed(training={"max_check_share": share}, sampling={"sample_every_n_steps": 20})
    without = Forecaster().forecast(config.changed(training={"max_check_share": 0}))
    forecast = Forecaster().forecast(config)
    assert without.seconds is not None and without.measuring == 0
    assert forecast.seconds == pytest.approx(without.seconds + forecast.measuring)
    checks = checks_of(resolve_run(config).config, forecast.plan, scan(config))
    assert checks is not None and forecast.measuring > 120 * checks.share > 0, "samples are measured too"
    assert f" for steps, samples and measuring ({duration(forecast.measuring)}), from run robot of " in forecast.time()


def test_the_time_of_a_run_as_an_earlier_one_is_what_that_took(place: Path, config: RunConfig) -> None:
    """Measuring that takes longer than the steps, as with small images, is expected again."""
    config = config.changed(training={"max_check_share": 0.5}, sampling={"sample_every_n_steps": 0})
    log = EventLog(prepare_run(config).events_path)
    for step in range(6):
        log.emit(StepEvent(step=step, seconds_per_step=2.0, memory={}))
    log.emit(MeasuresEvent(step=6, shift=0.1, passes=10, seconds=50.0))
    log.close()
    forecast = Forecaster().forecast(config)
    checks = checks_of(resolve_run(config).config, forecast.plan, scan(config))
    assert checks is not None and checks.share <= 0.5
    assert forecast.measuring == pytest.approx(5.0 * checks.passes) and forecast.measuring > 120
    assert forecast.seconds == pytest.approx(120 + forecast.measuring)


def test_images_are_read_again_only_when_they_or_their_settings_changed(
    place: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, scan = [], engine.dataset.scan.scan

    def counted(*arguments: Any) -> Any:
        read.append(1)
        return scan(*arguments)

    monkeypatch.setattr(engine.dataset.scan, "scan", counted)
    forecaster = Forecaster()
    for rate in (1e-4, 2e-4):
        forecaster.forecast(config.changed(training={"unet_lr": rate, "max_train_epochs": 3}))
    assert len(read) == 1
    forecaster.forecast(config.changed(dataset={"num_repeats": 5}))
    assert len(read) == 2
    file = next((place / "images").glob("*.png"))
    (place / "images" / "one-more.png").write_bytes(file.read_bytes())
    assert forecaster.forecast(config).plan.num_train_images == 40


def test_what_keeps_it_from_being_shown(place: Path, config: RunConfig) -> None:
    with refused("folder-missing"):
        Forecaster().forecast(config.changed(dataset={"train_data_dir": "nowhere"}))
    with refused("nothing-trained"):
        Forecaster().forecast(config.changed(training={"unet_lr": 0, "text_encoder_lr": 0}))
