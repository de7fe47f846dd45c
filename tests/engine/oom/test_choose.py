"""Which remedies are enough, by plans of a run whose need is a sum that can be done in the head."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import TrainingError
from engine.estimate.plan import CONTEXT, GIB, Need, Plan
from engine.families.resolved import ResolvedRun, resolve_without_model
from engine.hardware import Gpu
from engine.oom import base_remedies
from engine.oom.choose import Budget, choose_remedies, remedy_effects
from engine.oom.remedies import remedies
from engine.runs.shortage import Shortage

AMPERE = Gpu(0, "NVIDIA RTX A2000", compute_capability=(8, 6))
START: dict[str, dict[str, Any]] = {
    "training": {"train_batch_size": 4, "text_encoder_lr": 0.0},
    "memory": {"mixed_precision": "bf16", "cache_text_encoder_outputs": True},
    "network": {"network_train_unet_only": True},
}


@pytest.fixture(autouse=True)
def bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were installed."""
    monkeypatch.setattr(base_remedies, "_has_bitsandbytes", lambda: True)


def plan_of(run: ResolvedRun) -> Plan:
    """4 GiB of weights and 1 GiB an image, a quarter of it with checkpointing; 8-bit AdamW saves next to nothing."""
    memory, training = run.config.memory, run.config.training
    weights = {"auto": 4.0, "int8": 2.0, "nf4": 1.0}[memory.base_precision] if not memory.split_mode else 0.5
    activations = training.train_batch_size * (0.25 if memory.gradient_checkpointing else 1.0)
    optimizer = 0.001 if training.optimizer_type == "AdamW8bit" else 0.002
    train = int((weights + activations + optimizer) * GIB)
    return Plan("cuda", "bf16", (Need("train", train, train), Need("sample", 3 * GIB, 3 * GIB)))


def start() -> ResolvedRun:
    return resolve_without_model(RunConfig().changed(**START))


def chosen_names(room: float, phase: str = "train") -> tuple[list[str], bool]:
    remedy_set = choose_remedies(start(), AMPERE, Budget(int(room * GIB), phase), plan_of)
    return [effect.remedy.name for effect in remedy_set.effects], remedy_set.fits


@pytest.mark.parametrize(
    ("room", "names", "fits"),
    [
        (8.1, [], True),
        (6.0, ["smaller_batch"], True),
        (4.9, ["smaller_batch", "gradient_checkpointing"], True),
        (2.5, ["smaller_batch", "gradient_checkpointing", "eight_bit_base"], True),
        (1.3, ["smaller_batch", "gradient_checkpointing", "eight_bit_base", "four_bit_base"], True),
        (0.8, ["smaller_batch", "gradient_checkpointing", "eight_bit_base", "four_bit_base", "split_mode"], True),
        (0.7, ["smaller_batch", "gradient_checkpointing", "eight_bit_base", "four_bit_base", "split_mode"], False),
    ],
)
def test_as_many_as_are_needed_and_none_that_saves_little(room: float, names: list[str], fits: bool) -> None:
    assert chosen_names(room) == (names, fits)


def test_the_changes_of_a_way_are_those_of_all_its_remedies() -> None:
    remedy_set = choose_remedies(start(), AMPERE, Budget(int(2.5 * GIB), "train"), plan_of)
    assert remedy_set.changes == {
        "training.train_batch_size": 1, "training.gradient_accumulation_steps": 4,
        "memory.gradient_checkpointing": True, "memory.base_precision": "int8",
    }  # fmt: skip
    assert remedy_set.budget.need(remedy_set.plan).reserved == int(2.252 * GIB)
    assert [round(effect.saves / GIB, 2) for effect in remedy_set.effects] == [3, 0.75, 2]


def test_a_whole_run_fits_when_its_largest_phase_does() -> None:
    """After the step is small, samples are the largest phase: no remedy of a step helps them."""
    assert chosen_names(3.5, phase="") == (["smaller_batch", "gradient_checkpointing", "eight_bit_base"], True)
    assert chosen_names(2.9, phase="")[1] is False
    assert Budget.of_card(8, CONTEXT).room == int(8 * GIB * 0.97) - CONTEXT


def test_each_by_itself() -> None:
    run = start()
    effects = list(remedy_effects(run, remedies(run, AMPERE, "train"), Budget(5 * GIB, "train"), plan_of))
    savings = {effect.remedy.name: (round(effect.saves / GIB, 3), effect.fits) for effect in effects}
    assert savings == {
        "smaller_batch": (3.0, False), "gradient_checkpointing": (3.0, False), "eight_bit_optimizer": (0.001, False),
        "eight_bit_base": (2.0, False), "split_mode": (3.5, True),
    }  # fmt: skip


def short(**numbers: int) -> Shortage:
    return Shortage("train", 3, "CUDA out of memory", "cuda:0", **numbers)


def test_what_would_have_fitted() -> None:
    now = Plan("cuda", "bf16", (Need("train", 8 * GIB, 8 * GIB),))
    plain = short(requested=GIB, free=GIB // 2, reserved=6 * GIB, total=24 * GIB)
    assert Budget.after(plain, now).room == 6.5 * GIB
    too_low = short(requested=GIB, free=GIB // 2, reserved=9 * GIB, total=24 * GIB)
    assert Budget.after(too_low, now).room == 7 * GIB, "the plan said 8 and more than 9.5 were needed"
    assert Budget.after(short(total=8 * GIB), now).room == int(8 * GIB * 0.97) - CONTEXT
    assert Budget.after(short(), now).room < 8 * GIB


def test_a_plan_that_fails_is_reported() -> None:
    def broken(_: ResolvedRun) -> Plan:
        raise TrainingError("The memory plan failed: no.", "")

    with pytest.raises(TrainingError, match="plan failed"):
        choose_remedies(start(), AMPERE, Budget(GIB, "train"), broken)
