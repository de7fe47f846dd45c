"""Every optimizer and schedule of Kohya's lists is built, steps, and comes back from a state file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config.key_values import parse_arguments
from engine.config.optimizers import SOURCES, Source, check_training
from engine.config.training import TrainingTable
from engine.errors import UsageError
from engine.training import optimizers
from engine.training.optimizers import build_optimizer
from engine.training.schedules import build_schedule, check_schedule
from engine.training.statefile import load_tree, save_tree

HERE = [
    "AdamW",
    "adamw",
    "Lion",
    "SGDNesterov",
    "Prodigy",
    "Adafactor",
    "AdamWScheduleFree",
    "RAdamScheduleFree",
    "NAdam",
    "torch.optim.RMSprop",
]


def problem() -> tuple[torch.nn.Parameter, list[dict[str, object]]]:
    torch.manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(4, 3))
    return parameter, [{"params": [parameter], "lr": 1e-2, "name": "unet"}]


def advance(parameter: torch.nn.Parameter, built: optimizers.BuiltOptimizer, steps: int) -> None:
    if built.schedule_free:
        built.optimizer.train()  # type: ignore[attr-defined]
    for _ in range(steps):
        built.optimizer.zero_grad()
        (parameter**2).sum().backward()
        built.optimizer.step()


@pytest.mark.parametrize("name", HERE)
def test_an_optimizer_goes_on_from_its_state_to_the_bit(name: str, tmp_path: Path) -> None:
    straight, groups = problem()
    built = build_optimizer(name, [], groups)
    advance(straight, built, 5)

    halted, groups = problem()
    built = build_optimizer(name, [], groups)
    advance(halted, built, 3)
    save_tree(tmp_path / "s.safetensors", {"weights": halted.detach(), "optimizer": built.optimizer.state_dict()})
    tree = load_tree(tmp_path / "s.safetensors")
    resumed, groups = problem()
    with torch.no_grad():
        resumed.copy_(tree["weights"])
    built = build_optimizer(name, [], groups)
    built.optimizer.load_state_dict(tree["optimizer"])
    advance(resumed, built, 2)
    assert torch.equal(straight, resumed)
    assert not torch.equal(straight, problem()[0])


def test_descriptions_for_the_metadata() -> None:
    assert build_optimizer("AdamW", [], problem()[1]).description == "torch.optim.adamw.AdamW"
    built = build_optimizer("AdamW", ["weight_decay=0.1", "betas=0.9,0.99"], problem()[1])
    assert built.description == "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))"
    assert built.optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert built.optimizer.param_groups[0]["fused"]


def test_adafactor_sets_its_own_rate_unless_told_otherwise() -> None:
    built = build_optimizer("Adafactor", [], problem()[1])
    assert built.relative_step
    assert build_schedule(TrainingTable(), built, 10) is None
    fixed = ["scale_parameter=False", "relative_step=False", "warmup_init=False"]
    assert build_optimizer("Adafactor", fixed, problem()[1]).optimizer.param_groups[0]["lr"] == 1e-2


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("AdamX", [], "there is no optimizer 'AdamX'"),
        ("nowhere.Adam", [], "cannot be loaded"),
        ("os.path", [], "there is no optimizer"),
        ("AdamW", ["speed=9"], "does not take these settings"),
        ("AdamW", ["weight_decay"], "has no value"),
    ],
)
def test_wrong_optimizers_are_refused(name: str, arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build_optimizer(name, arguments, problem()[1])


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "lion", Source("Lion", "no_such_module", "lion-pytorch", "optimizers"))
    with pytest.raises(UsageError, match=r"Lion needs the package lion-pytorch \(it is not installed\)"):
        check_training(TrainingTable(optimizer_type="Lion"))
    with pytest.raises(UsageError, match=r'Lion needs the package lion-pytorch.*pip install "lorasmith\[optimizers\]"'):
        build_optimizer("Lion", [], problem()[1])


def rates(steps: int = 100, **settings: object) -> list[float]:
    parameter, groups = problem()
    built = build_optimizer("AdamW", [], groups)
    schedule = build_schedule(TrainingTable(**settings), built, steps)
    assert schedule is not None
    seen = []
    for _ in range(steps):
        seen.append(schedule.get_last_lr()[0] / 1e-2)
        advance(parameter, built, 1)
        schedule.step()
    return seen


def test_schedules_have_their_shapes() -> None:
    assert set(rates(lr_scheduler="constant")) == {1.0}
    warm = rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=0.1)
    assert warm[5] == pytest.approx(0.5) and warm[10:] == [1.0] * 90
    assert rates(lr_scheduler="cosine")[50] == pytest.approx(0.5)
    assert rates(lr_scheduler="linear", lr_warmup_steps=20)[60] == pytest.approx(0.5)
    restarts = rates(lr_scheduler="cosine_with_restarts", lr_scheduler_num_cycles=2)
    assert restarts[49] < 0.01 < 0.99 < restarts[50]
    assert rates(lr_scheduler="polynomial", lr_scheduler_power=2)[50] == pytest.approx(0.25, abs=1e-3)
    assert min(rates(lr_scheduler="cosine_with_min_lr", lr_scheduler_min_lr_ratio=0.2)) >= 0.2
    stable = rates(lr_scheduler="warmup_stable_decay", lr_warmup_steps=10, lr_decay_steps=20)
    assert stable[5] == pytest.approx(0.5) and stable[50] == 1.0 and stable[90] == pytest.approx(0.5, abs=0.05)
    rules = rates(lr_scheduler="piecewise_constant", lr_scheduler_args=["step_rules=1:10,0.1:20,0.01"])
    assert (rules[5], rules[15], rules[50]) == pytest.approx((1.0, 0.1, 0.01))
    waves = rates(lr_scheduler="cosine_with_min_lr", lr_scheduler_min_lr_ratio=0.2, lr_scheduler_num_cycles=2)
    assert waves[50] == pytest.approx(0.2) and waves[99] > 0.99, "two half waves, as Kohya"
    ended = rates(lr_scheduler="polynomial", learning_rate=1e-4, lr_scheduler_args=["lr_end=5e-5"])
    assert ended[99] == pytest.approx(0.505), "lr_scheduler_args go to the schedule"
    assert rates(lr_scheduler="inverse_sqrt", lr_warmup_steps=10)[40] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr_scheduler": "piecewise_constant"}, "needs its rules"),
        ({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:x"]}, "are malformed"),
        ({"lr_scheduler": "adafactor"}, "goes with optimizer_type Adafactor only"),
        ({"optimizer_type": "DAdaptAdam"}, "Prodigy is its successor"),
        ({"optimizer_args": ["decay"]}, "has no value"),
    ],
)
def test_what_is_lacking_is_seen_before_the_start(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_training(TrainingTable(**settings))


def test_arguments_are_literals_or_text() -> None:
    assert parse_arguments(["a=1e-3", "b=True", "c=x y", "d=0.9,0.99"], "here") == {
        "a": 1e-3,
        "b": True,
        "c": "x y",
        "d": (0.9, 0.99),
    }


def test_settings_that_a_schedule_does_not_take() -> None:
    with pytest.raises(UsageError, match=r"lr_scheduler_args: cosine does not take these settings: .*lr_end"):
        check_schedule(TrainingTable(lr_scheduler="cosine", lr_scheduler_args=["lr_end=1e-6"]))
    check_schedule(TrainingTable(lr_scheduler="polynomial", lr_scheduler_args=["lr_end=1e-6"]))
