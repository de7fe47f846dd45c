"""Runs for the tests of reports: played by hand, with measures, samples and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.runs import RunDir
from engine.runs.events import MeasuresEvent, SampleMeasuresEvent, ValidationEvent, WarningEvent
from tests.fake_run import PlayedTrainer, prepared_run

Make = Callable[..., RunDir]


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """trained("robot", (0.2, 0.15), training={...}): a finished run with one file for each validation loss."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))

    def make(
        name: str = "robot", losses: tuple[float, ...] = (0.2, 0.15, 0.19), **settings: dict[str, object]
    ) -> RunDir:
        made = prepared_run(tmp_path, name, **settings)
        trainer = PlayedTrainer(made, total=10 * len(losses))
        trainer.sample()
        trainer.events.emit(ValidationEvent(step=0, loss=0.4, train_loss=0.5, losses_by_timestep={200: 0.1}))
        for place, loss in enumerate(losses):
            trainer.train(10)
            trainer.save(validation_loss=None)
            trainer.events.emit(
                ValidationEvent(step=trainer.step, loss=loss, train_loss=loss / 1.2, losses_by_timestep={200: 0.1})
            )
            trainer.events.emit(
                MeasuresEvent(step=trainer.step, leakage=0.1 * place, response=0.9, shift=0.3, seconds=1.0)
            )
            burn = {"saturation": 1.02, "clipped": 1.0, "contrast": 0.98, "detail": 0.9}
            trainer.events.emit(
                SampleMeasuresEvent(
                    step=trainer.step,
                    burn=burn,
                    copying=0.2,
                    copied="001.png",
                    latent_copying=0.3,
                    latent_base=0.1,
                    latent_copied="002.png",
                    seconds=1.0,
                )
            )
            trainer.sample()
        trainer.events.emit(WarningEvent(code="disk", text="The disk is nearly full."))
        trainer.events.emit(WarningEvent(code="disk", text="The disk is nearly full."))
        trainer.end()
        return made

    return make
