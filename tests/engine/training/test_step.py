"""One update without a trainer around it: what is applied, and what is skipped because it is not finite."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from engine.config import RunConfig
from engine.training.flat_update import UpdateLayout
from engine.training.ranks import Ranks
from engine.training.step import TrainStep


class Times(TrainStep):
    """Its loss is the one weight, 1.0, times the number of the batch; those of `FACTORS` are not finite."""

    def loss(self, micro: int, step: int | None = None) -> Tensor:
        (number,) = self.batches.micro_batches(self.state.step)[micro]
        weight = self.state.parameters[0]
        if number == GRADIENT:
            return 1.0 + (weight - weight.detach()).sqrt().sum()
        return weight.sum() * number * FACTORS.get(number, 1.0)


FACTORS = {7: math.nan, 8: math.inf}
GRADIENT = 9
"""A batch whose gradient alone is not finite."""
RATE = 0.1


def step_on(
    batches: list[int], optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, scaler: Any = None, **training: Any
) -> tuple[TrainStep, nn.Parameter]:
    weight = nn.Parameter(torch.ones(1))
    built = optimizer([weight], lr=RATE, fused=True)  # type: ignore[call-arg]
    accelerator = Accelerator(cpu=True)
    source = SimpleNamespace(micro_batches=lambda step: [[number] for number in batches])
    config = RunConfig().changed(training={"gradient_accumulation_steps": 4, **training})
    state = SimpleNamespace(
        step=0, config=config, parameters=[weight], optimizer=built, built=SimpleNamespace(optimizer=built),
        schedule=LambdaLR(built, lambda step: 1.0), steps_per_update=1, scaler=scaler, weights_consistent=True,
        layout=UpdateLayout([{"params": [weight]}], [weight]), rates=lambda: {"unet": RATE}, rate_factors=dict,
    )  # fmt: skip
    prepared = SimpleNamespace(batches=source, model=None, accelerator=accelerator)
    return Times(cast("Any", prepared), cast("Any", state), Ranks(accelerator), cast("Any", None)), weight


def batches_of(step: TrainStep, *numbers: int) -> None:
    cast("Any", step.batches).micro_batches = lambda _: [[number] for number in numbers]


@pytest.mark.parametrize("late", [False, True])
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
    batches: list[int], training: dict[str, Any], loss: float, norm: float, weight: float, *, late: bool
) -> None:
    step, parameter = step_on(batches, **training)
    step.reads_late = late
    made = step()
    assert (made.step, made.loss, made.is_finite) == (0, loss, True)
    assert made.grad_norm == pytest.approx(norm) and parameter.item() == pytest.approx(weight)
    assert made.rates == {"unet": RATE} and not step.state.weights_consistent and step.state.step == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("limit", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize(("batches", "is_finite"), [([7], False), ([1, 8], False), ([1, 9], True)])
def test_an_update_that_is_not_finite_changes_nothing(
    batches: list[int], is_finite: bool, optimizer: Any, limit: float, *, late: bool
) -> None:
    """Neither the weight nor the optimizer's moments and counts; the next update is what it would be without it."""
    numbers = []
    for bad in (batches, None):
        step, parameter = step_on([1], optimizer, max_grad_norm=limit)
        step.reads_late = late
        for made_of in ([1], bad, [3]):
            if made_of is not None:
                batches_of(step, *made_of)
                made = step()
                parameter.grad = None
            if made_of is bad and bad is not None:
                assert not made.is_finite and math.isfinite(made.loss) == is_finite
                assert not math.isfinite(made.grad_norm)
        moments = step.state.built.optimizer.state_dict()["state"]
        numbers.append(
            [parameter.item(), *(float(value) for value in moments.get(0, {}).values() if value is not None)]
        )
    assert numbers[0] == numbers[1] and all(map(math.isfinite, numbers[0]))


@pytest.mark.parametrize("late", [False, True])
def test_the_schedule_counts_steps_and_that_of_kohya_updates(*, late: bool) -> None:
    for exact, places in ((False, [1, 2, 3]), (True, [1, 1, 2])):
        step, parameter = step_on([1], kohya_exact=exact)
        step.reads_late = late and step.can_read_late
        for number, place in zip((1, 7, 1), places, strict=True):
            batches_of(step, number)
            step()
            parameter.grad = None
            assert step.state.schedule is not None and step.state.schedule.last_epoch == place


@pytest.mark.parametrize("late", [False, True])
def test_a_scaler_halves_its_scale_after_an_overflow(*, late: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    step, parameter = step_on([1], scaler=scaler, max_grad_norm=0)
    step.reads_late = late
    accelerator = cast("Any", step.accelerator)
    accelerator.backward = lambda loss: scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    accelerator.unscale_gradients = scaler.unscale_
    scales = []
    for number in (1, 9, 1, 1):
        batches_of(step, number)
        made = step()
        assert made.is_finite == (number == 1) and math.isfinite(parameter.item())
        scales.append(scaler.get_scale())
        parameter.grad = None
    assert scales == [1024.0, 512.0, 512.0, 1024.0] and parameter.item() == pytest.approx(1 - 3 * RATE)


@pytest.mark.parametrize(
    ("fused", "ranks", "tables", "late"),
    [
        (True, 1, {}, True),
        (False, 1, {}, False),
        (True, 2, {}, False),
        (True, 1, {"network": {"scale_weight_norms": 1.0}}, False),
        (True, 1, {"training": {"kohya_exact": True}}, False),
    ],
)
def test_what_can_be_read_late(fused: bool, ranks: int, tables: dict[str, Any], late: bool) -> None:
    step, parameter = step_on([1])
    step.state.built = cast("Any", SimpleNamespace(optimizer=torch.optim.AdamW([parameter], fused=fused)))
    step.state.config, step.ranks.size = cast("Any", RunConfig().changed(**tables)), ranks
    assert step.can_read_late == late
    assert not step.reads_late, "a CPU is not waited for"
