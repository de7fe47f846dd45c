"""Updates whose loss is read while the next one computes: the run is the same as if each was read at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.exit_codes import ExitCode
from engine.runs.control import request
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from engine.training.outcome import Outcome
from engine.training.step import TrainStep
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.soak import mostly_soaked

Train = Callable[[RunDir], int]
TIMES = {"images_per_second", "seconds_per_step", "eta_seconds", "memory", "seconds", "seconds_measuring", "took"}
STEPS = 16


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Reads updates late from here on; returns the list of how many were made when each was read."""

    def use() -> list[int]:
        init, finish, ahead = TrainStep.__init__, Trainer._finish, list[int]()

        def begin(self: TrainStep, *args: Any) -> None:
            init(self, *args)
            assert self.can_read_late
            self.reads_late = True

        def read(self: Trainer, made: Outcome) -> bool:
            ahead.append(self.step - made.step - 1)
            return finish(self, made)

        monkeypatch.setattr(TrainStep, "__init__", begin)
        monkeypatch.setattr(Trainer, "_finish", read)
        return ahead

    return use


def story(run: RunDir) -> list[tuple[str, dict[str, str]]]:
    """What the run reports, without times and places."""
    texts = []
    for event in read_events(run.events_path):
        if event.type in ("step", "warning", "saved", "sample", "validation", "measures", "changed"):
            data = {key: value for key, value in event.data.items() if key not in TIMES}
            words = {key: str(value).replace(str(run.path), "") for key, value in data.items()}
            texts.append((event.type, words))
    return texts


def losses(run: RunDir) -> dict[str, str]:
    return {data["step"]: data["loss"] for kind, data in story(run) if kind == "step"}


def bad_at(steps: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of these updates, from 0, NaN, once each."""
    left, loss = set(steps), TrainStep.loss

    def nan_loss(self: TrainStep, micro: int) -> torch.Tensor:
        value = loss(self, micro)
        if self.state.step in left:
            left.remove(self.state.step)
            return value * float("nan")
        return value

    monkeypatch.setattr(TrainStep, "loss", nan_loss)


SETTINGS = {"training__max_train_steps": STEPS, "sampling__sample_every_n_steps": 10}


@pytest.mark.parametrize(
    "bad",
    mostly_soaked(
        [set(), {2}, {3, 4, STEPS - 1}, {5, 6, 7}, {STEPS - 3, STEPS - 2, STEPS - 1}, {6, 8, 9, 10}],
        [{3, 4, STEPS - 1}, {6, 8, 9, 10}],
    ),
    ids=str,
)
def test_reports_and_files_are_the_same(
    bad: set[int], make_run: MakeRun, train_here: Train, late: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with steps that are skipped, and after three of them in a row the run is rolled back."""
    results = []
    for name in ("at once", "late"):
        with monkeypatch.context() as patches:
            bad_at(bad, patches)
            ahead = late() if name == "late" else []
            run = make_run(name, **SETTINGS)
            assert train_here(run) == ExitCode.DONE
            results.append((story(run), run.lora_path().read_bytes()))
    assert results[0] == results[1]
    assert ahead.count(1) > STEPS / 2, "read while the next one computes"
    skipped = [data["text"] for kind, data in results[0][0] if kind == "warning" and "is skipped" in data["text"]]
    assert [int(text.split()[1]) - 1 for text in skipped] == sorted(bad)


def test_a_run_that_is_stopped_and_resumed_is_the_same(
    make_run: MakeRun, train_here: Train, late: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_run("whole", **SETTINGS)
    assert train_here(whole) == ExitCode.DONE
    late()
    run, numbers = make_run("parts", **SETTINGS), random.Random(4)
    steps = sorted(numbers.sample(range(1, STEPS), 4))
    advance = Trainer.advance

    def stopping(self: Trainer) -> bool:
        if steps and self.step == steps[0]:
            steps.pop(0)
            request(run, "stop")
            self.session.control._next_look = 0.0
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stopping)
    while train_here(run) != ExitCode.DONE:
        pass
    assert not steps
    assert run.lora_path().read_bytes() == whole.lora_path().read_bytes()
    assert losses(run) == losses(whole)
