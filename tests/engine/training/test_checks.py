"""Measuring saved files: the numbers, when they come, and that they change nothing in the training."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.exit_codes import ExitCode
from engine.results.measures import MeasureBook
from engine.runs import RunDir, read_events
from engine.training import outputs as outputs_module
from engine.training.measuring import disable_adapter
from engine.training.outputs import Outputs

pytestmark = pytest.mark.usefixtures("unread_files")
Train = Callable[[RunDir], int]
MakeRun = Callable[..., RunDir]
MEASURED = {
    "training__max_check_share": 1, "saving__save_every_n_steps": 4, "training__max_train_steps": 8,
    "sampling__sample_every_n_steps": 4, "dataset__validation_split": 0.3, "sampling__sample_at_first": True,
    "saving__save_every_n_epochs": 0, "training__validate_every_n_epochs": 0,
    "sampling__sample_prompts": '["{trigger} in the sea --w 64 --h 64"]', "dataset__class_tokens": "zed",
}  # fmt: skip


def measured(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == kind]


def tensors(run: RunDir) -> str:
    data = run.lora_path().read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


_trained: list[RunDir] = []


@pytest.fixture
def straight(make_run: MakeRun, train_here: Train) -> RunDir:
    """A run that was measured from its start to its end, made by the first test that asks."""
    if not _trained:
        _trained.append(make_run("measured", **MEASURED))
        assert train_here(_trained[0]) == ExitCode.DONE
    return _trained[0]


def test_every_file_is_measured_and_the_training_is_the_same_without(
    straight: RunDir, make_run: MakeRun, train_here: Train
) -> None:
    losses, moved, looks = (measured(straight, kind) for kind in ("validation", "measures", "sample_measures"))
    assert [event["step"] for event in losses] == [0, 4, 8]
    assert [event["step"] for event in moved] == [4, 8]
    assert [event["step"] for event in looks] == [4, 8]
    assert all(math.isfinite(event[key]) for event in losses for key in ("loss", "train_loss", "loss_t200", "seconds"))
    assert all(event[key] > 0 for event in moved for key in ("shift", "leakage", "seconds"))
    assert all(0 < event["bleed"] < 1 for event in moved)
    assert all(set(event["burn"]) == {"saturation", "clipped", "contrast", "detail"} for event in looks)

    book = MeasureBook()
    for event in read_events(straight.events_path):
        book.take(event)
    last = book.at(8)
    assert last.learned == pytest.approx(1 - losses[-1]["loss"] / losses[0]["loss"])
    assert last.gap == pytest.approx((last.train_gain or 0) - (last.learned or 0))
    assert last.bleed == moved[-1]["bleed"] and last.gain == pytest.approx((last.train_gain + last.learned) / 2)
    assert last.response == pytest.approx(1, abs=0.5) and set(last.validation_bands) == {200, 400, 600, 800}

    notes = " ".join(event["text"] for event in measured(straight, "note"))
    assert "The weights are measured twice" in notes
    assert "Measuring took " in notes and "to the time of the steps." in notes

    without = make_run("without", **{**MEASURED, "training__max_check_share": 0, "sampling__sample_every_n_steps": 0})
    assert train_here(without) == ExitCode.DONE
    assert tensors(without) == tensors(straight)
    assert measured(without, "measures") == []
    assert [event["loss"] for event in measured(without, "validation")][-1] == losses[-1]["loss"]


def test_a_resumed_run_measures_the_same(
    straight: RunDir, make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the file and its measures."""
    run = make_run("killed", **MEASURED)

    def killed(self: Outputs, ended_epoch: int = 0) -> None:
        if self.state.step == 8:
            raise KeyboardInterrupt
        check(self, ended_epoch)

    check = Outputs.check
    with monkeypatch.context() as broken:
        broken.setattr(outputs_module.Outputs, "check", killed)
        with pytest.raises(KeyboardInterrupt):
            train_here(run)
    assert train_here(run) == ExitCode.DONE
    for kind in ("validation", "measures", "sample_measures"):
        plain = [
            [
                {key: value for key, value in event.items() if key not in ("seconds", "passes")}
                for event in measured(each, kind)
            ]
            for each in (run, straight)
        ]
        assert plain[0] == plain[1]


def test_with_a_lora_to_start_from_the_base_model_is_the_one_without(
    straight: RunDir, make_run: MakeRun, train_here: Train
) -> None:
    run = make_run("further", **MEASURED, network__network_weights=straight.lora_path())
    assert train_here(run) == ExitCode.DONE
    (first, *_), (own, *_) = measured(straight, "validation"), measured(run, "validation")
    assert own["base_loss"] == pytest.approx(first["loss"], rel=1e-6) and own["loss"] != own["base_loss"]
    book = MeasureBook()
    for event in read_events(run.events_path):
        book.take(event)
    assert book.at(8).base_validation_loss == own["base_loss"]


def test_without_validation_images_the_training_images_are_measured(
    make_run: MakeRun, train_here: Train, images: Path
) -> None:
    run = make_run(**{**MEASURED, "dataset__validation_split": 0, "sampling__sample_every_n_steps": 0})
    assert train_here(run) == ExitCode.DONE
    losses = measured(run, "validation")
    assert all("loss" not in event and event["train_loss"] > 0 for event in losses) and len(losses) == 3
    assert len(measured(run, "measures")) == 2


def test_early_stop_ends_the_run_and_keeps_every_file(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("early", **{**MEASURED, "sampling__sample_every_n_steps": 0}, training__early_stop=True)
    monkeypatch.setattr(Outputs, "past_best", lambda self: "It gets no better.")
    assert train_here(run) == ExitCode.DONE
    assert [event["step"] for event in measured(run, "saved")] == [4, 5]
    assert any("It gets no better. Early stop: " in event["text"] for event in measured(run, "note"))


class _Module:
    def __init__(self, *shape: int) -> None:
        self.outer = [torch.nn.Parameter(torch.randn(*shape)), torch.nn.Parameter(torch.randn(*shape))]


class _Network:
    def __init__(self) -> None:
        self.modules = [_Module(3, 2), _Module(4, 2)]


def test_disable_adapter_restores_every_bit_even_after_an_error() -> None:
    network = _Network()
    ups = [up for module in network.modules for up in module.outer]
    before = [up.detach().clone() for up in ups]
    with pytest.raises(ZeroDivisionError), disable_adapter(network):  # type: ignore[arg-type]
        assert not any(bool(up.any()) for up in ups)
        raise ZeroDivisionError
    assert all(torch.equal(up, value) for up, value in zip(ups, before, strict=True))
