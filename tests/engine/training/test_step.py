"""One update without a trainer around it: what is applied, and what is skipped because it is not finite."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator

from engine.config import RunConfig
from engine.training.flat_update import UpdateLayout
from engine.training.ranks import Ranks
from engine.training.recovery import Recovery
from engine.training.step import TrainStep


class Times(TrainStep):
    """Its loss is the one weight, 1.0, times the number of the batch; those of `FACTORS` are not finite."""

    def loss(self, micro: int, step: int | None = None) -> torch.Tensor:
        (number,) = self.batches.micro_batches(self.state.step)[micro]
        return self.state.parameters[0].sum() * number * FACTORS.get(number, 1.0)


FACTORS = {7: math.nan, 8: math.inf}
RATE = 0.1


def step_on(batches: list[int], *, scaler: object = None, **training: Any) -> tuple[TrainStep, torch.nn.Parameter]:
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=RATE)
    accelerator = Accelerator(cpu=True)
    source = SimpleNamespace(micro_batches=lambda step: [[number] for number in batches])
    config = RunConfig().changed(training={"gradient_accumulation_steps": 4, **training})
    state = SimpleNamespace(
        step=0, config=config, parameters=[weight], optimizer=optimizer, schedule=None, scaler=scaler,
        layout=UpdateLayout([{"params": [weight]}], [weight]), recovery=Recovery(), rates=lambda: {"unet": RATE},
        rate_factors=dict, weights_consistent=True,
    )  # fmt: skip
    prepared = SimpleNamespace(batches=source, model=None, accelerator=accelerator)
    return Times(cast("Any", prepared), cast("Any", state), Ranks(accelerator), cast("Any", None)), weight


@pytest.mark.parametrize(
    ("batches", "training", "loss", "norm", "weight"),
    [
        ([1], {}, 1.0, 1.0, 1 - RATE),
        ([1, 3], {}, 2.0, 2.0, 1 - RATE),  # the mean of the batches, clipped to a norm of 1
        ([1, 3], {"max_grad_norm": 0}, 2.0, 2.0, 1 - RATE * 2),
        ([1, 3], {"max_grad_norm": 0, "kohya_exact": True}, 2.0, 1.0, 1 - RATE),  # divided by 4
    ],
)
def test_an_update_is_the_mean_of_its_batches(
    batches: list[int], training: dict[str, Any], loss: float, norm: float, weight: float
) -> None:
    step, parameter = step_on(batches, **training)
    assert step() == (loss, "")
    assert step.grad_norm == pytest.approx(norm) and parameter.item() == pytest.approx(weight)
    assert step.used_rates == {"unet": RATE} and not step.state.weights_consistent and step.state.step == 0


@pytest.mark.parametrize(("batch", "reason"), [(7, "loss nan"), (8, "loss inf")])
def test_a_loss_that_is_not_finite_changes_nothing(batch: int, reason: str) -> None:
    step, parameter = step_on([1, batch])
    assert step()[1] == reason
    assert parameter.item() == 1 and step.state.weights_consistent and step.used_rates == {}


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_gradients_that_are_not_finite_change_nothing(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    step, parameter = step_on([1], max_grad_norm=limit)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    assert step() == (1.0, "gradient norm inf")
    assert parameter.item() == 1 and step.state.weights_consistent


def test_a_scaler_may_overflow_for_a_while() -> None:
    step, parameter = step_on([1], scaler=object())
    step.state.optimizer.step = lambda: None  # as the scaler's optimizer, which skips it
    parameter.register_hook(lambda gradient: gradient * math.inf)
    reasons = []
    for _ in range(21):
        reasons.append(step()[1])
        step.state.optimizer.zero_grad()
    assert reasons == [""] * 20 + ["gradient norm inf"] and parameter.item() == 1
