"""The numbers of loggers have the names and values of Kohya's scripts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from engine.loggers.scalars import Entry, LossAverage, SampleImage, Scalars
from engine.runs.events import Event, RunFinishedEvent, SampleEvent, StepEvent, ValidationEvent


def step(
    number: int, epoch: int, loss: float | None, rates: Mapping[str, float] | None = None, **more: object
) -> Event:
    return StepEvent(step=number, epoch=epoch, loss=loss, lr=rates or {"unet": 1e-4}, grad_norm=None, **more)  # type: ignore[arg-type]


def validation(number: int, epoch: int, loss: float) -> Event:
    return ValidationEvent(step=number, epoch=epoch, loss=loss, seconds=1.0)


FINISHED = RunFinishedEvent(state="finished", exit_code=0, step=4)
TWO_EPOCHS = [
    step(1, 1, 4.0), step(2, 1, 2.0), validation(2, 1, 5.0), step(3, 2, 1.0), step(4, 2, None), validation(4, 2, 3.0),
    FINISHED,
]  # fmt: skip


def fed(events: list[Event], optimizer: str = "AdamW") -> list[Entry | SampleImage]:
    scalars = Scalars(optimizer)
    return [entry for event in events for entry in scalars.feed(event)]


def column(entries: list[Entry | SampleImage], name: str) -> list[tuple[int, float]]:
    return [(entry.axis, entry.values[name]) for entry in entries if isinstance(entry, Entry) and name in entry.values]


@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("loss/current", [(1, 4.0), (2, 2.0), (3, 1.0)]),
        # the mean of the latest loss at each place of an epoch: 4; (4 + 2) / 2; (1 + 2) / 2; the last is not finite
        ("loss/average", [(1, 4.0), (2, 3.0), (3, 1.5), (4, 1.5)]),
        ("loss/epoch_average", [(1, 3.0), (2, 1.5)]),
        ("loss/validation/step_average", [(2, 5.0), (4, 3.0)]),
        ("loss/validation/step_divergence", [(2, 2.0), (4, 1.5)]),
        ("loss/validation/epoch_average", [(1, 5.0), (2, 3.0)]),
        ("loss/validation/epoch_divergence", [(1, 2.0), (2, 1.5)]),
    ],
)
def test_losses_of_two_epochs(name: str, points: list[tuple[int, float]]) -> None:
    assert column(fed(TWO_EPOCHS), name) == points


def test_a_validation_inside_an_epoch_is_not_that_of_the_epoch() -> None:
    entries = fed([step(1, 1, 4.0), validation(1, 1, 5.0), step(2, 1, 2.0), step(3, 2, 1.0)])
    assert column(entries, "loss/validation/step_average") == [(1, 5.0)]
    assert column(entries, "loss/validation/epoch_average") == []


def test_the_average_is_that_of_the_scripts() -> None:
    """`LossRecorder`, written out for three epochs of four updates."""
    losses = [0.9, 0.7, 0.5, 0.8, 0.4, 0.6, 0.3, 0.2, 0.1, 0.35, 0.25, 0.15]
    average, recorded, total = LossAverage(), list[float](), 0.0
    for number, loss in enumerate(losses):
        place = number % 4
        if number < 4:
            recorded.append(loss)
        else:
            total -= recorded[place]
            recorded[place] = loss
        total += loss
        average.add(place, loss)
        assert average.value == pytest.approx(total / len(recorded), rel=1e-12)


def test_a_repeated_step_replaces_its_loss() -> None:
    entries = fed([step(1, 1, 4.0), step(2, 1, 2.0), step(2, 1, 6.0)])
    assert column(entries, "loss/average")[-1] == (2, 5.0)


BOTH = {"text_encoder": 1e-5, "unet": 1e-4}


@pytest.mark.parametrize(
    ("optimizer", "rates", "factors", "expected"),
    [
        ("AdamW", {"unet": 1e-4}, {}, {"lr/unet": 1e-4, "lr/group0": 1e-4}),
        ("AdamW", BOTH, {}, {"lr/textencoder": 1e-5, "lr/unet": 1e-4, "lr/group1": 1e-4}),
        (
            "AdamW", {"text_encoder": 1.0, "text_encoder_2": 2.0, "transformer": 3.0, "transformer plus": 4.0}, {},
            {"lr/textencoder": 1.0, "lr/textencoder 2": 2.0, "lr/group1": 2.0, "lr/unet": 3.0, "lr/group2": 3.0,
             "lr/unet plus": 4.0, "lr/group3": 4.0},
        ),
        ("prodigy", {"unet": 0.25}, {"unet": 0.5},
         {"lr/unet": 0.5, "lr/group0": 0.5, "lr/d*lr/unet": 0.25, "lr/d*lr/group0": 0.25}),
        ("DAdaptAdam", {"text_encoder": 0.25, "unet": 0.5}, {"text_encoder": 0.5, "unet": 0.5},
         {"lr/textencoder": 0.5, "lr/unet": 1.0, "lr/group1": 1.0, "lr/d*lr/textencoder": 0.25, "lr/d*lr/unet": 0.5,
          "lr/d*lr/group1": 0.5}),
        ("prodigyplus.ProdigyPlusScheduleFree", {"text_encoder": 0.25, "unet": 0.5}, {"text_encoder": 0.5, "unet": 0.5},
         {"lr/textencoder": 0.5, "lr/unet": 1.0, "lr/group1": 1.0, "lr/d*lr": 0.25, "lr/d*lr/group1": 0.5}),
        ("AdamW", {"unet_block5": 1.0, "unet_block5 plus": 2.0, "unet reg_lr_0": 3.0}, {},
         {"lr/unet_block5": 1.0, "lr/group0": 1.0, "lr/unet_block5 plus": 2.0, "lr/group1": 2.0,
          "lr/unet reg_lr_0": 3.0, "lr/group2": 3.0}),
        ("AdamW", {f"unet_block{number}": float(number) for number in range(40)}, {},
         {f"lr/{name}{number}": float(number) for name in ("unet_block", "group") for number in range(40)}),
        ("AdamW", {"unet": 0.0}, {"unet": 0.0}, {"lr/unet": 0.0, "lr/group0": 0.0}),
    ],
)  # fmt: skip
def test_learning_rates(
    optimizer: str, rates: dict[str, float], factors: dict[str, float], expected: dict[str, float]
) -> None:
    [entry] = fed([step(1, 1, 1.0, rates, d=factors)], optimizer)
    assert isinstance(entry, Entry)
    assert {name: value for name, value in entry.values.items() if name.startswith("lr/")} == expected


def test_norms() -> None:
    norms = {"keys_scaled": 3, "max_key_norm": 1.0, "avg_key_norm": 0.5, "of a later version": 1.0}
    [entry] = fed([step(1, 1, None, norms=norms)])
    assert isinstance(entry, Entry)
    assert {name: value for name, value in entry.values.items() if "norm" in name} == {
        "max_norm/keys_scaled": 3, "max_norm/max_key_norm": 1.0, "norm/avg_key_norm": 0.5,
    }  # fmt: skip


def test_samples() -> None:
    shown = fed([SampleEvent(path="a/b_000000_00.png", prompt="zed", index=0, step=0), step(1, 3, 1.0),
                 SampleEvent(path="a/b_000001_01.png", prompt="ann", index=1, step=1)])  # fmt: skip
    samples = [sample for sample in shown if isinstance(sample, SampleImage)]
    assert [(sample.index, sample.step, sample.epoch, sample.prompt) for sample in samples] == [
        (0, 0, 1, "zed"),
        (1, 1, 3, "ann"),
    ]
