"""Every optimizer and schedule of Kohya's lists is built, steps, and comes back from a state file."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pydantic import ValidationError

from engine.config import RunConfig, resolve
from engine.config.key_values import Parameter, parse_arguments, read_value
from engine.config.optimizers import (
    SOURCES,
    TABLE,
    Source,
    _table,
    check_training,
    finds_rate,
    is_installed,
    optimizer_settings,
    source_of,
)
from engine.config.training import TrainingTable, is_schedule_free
from engine.errors import UsageError
from engine.training import optimizers
from engine.training.optimizer_probe import load_optimizer
from engine.training.optimizers import build_optimizer, check_optimizer
from engine.training.schedules import build_schedule, check_schedule
from engine.training.statefile import load_tree, save_tree
from tests.refusals import refused

ROOT = Path(__file__).resolve().parents[3]


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


def all_classes() -> dict[str, dict[str, Parameter]]:
    classes, _ = _table()
    return {name: dict(taken) for name, taken in classes.items() if find_spec(name.partition(".")[0])}


def trained(name: str, folder: Path, saved_at: int | None) -> list[torch.Tensor]:
    """The weights after twelve steps. With `saved_at` a state is saved there, and another optimizer continues."""
    arguments = ["d0=0.01"] if finds_rate(name) else []
    file = folder / "s.safetensors"

    def start() -> tuple[list[torch.nn.Parameter], optimizers.BuiltOptimizer]:
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(40, 36) / 6), torch.nn.Parameter(torch.randn(36, 5) / 6)]
        groups = [{"params": [parameter], "lr": 1.0 if arguments else 1e-2} for parameter in parameters]
        return parameters, build_optimizer(name, arguments, groups)

    parameters, built = start()
    inputs = torch.randn(7, 40)
    for step in range(12):
        if step == saved_at:
            tree = {"weights": [p.detach() for p in parameters], "optimizer": built.optimizer.state_dict()}
            save_tree(file, tree)
            parameters, built = start()
            tree = load_tree(file)
            with torch.no_grad():
                for parameter, value in zip(parameters, tree["weights"], strict=True):
                    parameter.copy_(value)
            load_optimizer(built.optimizer, tree["optimizer"])
        if built.schedule_free:
            built.optimizer.train()  # type: ignore[attr-defined]
        torch.manual_seed(step)
        built.optimizer.zero_grad()
        ((inputs @ parameters[0] @ parameters[1] - 1) ** 2).mean().backward()
        built.optimizer.step()
    return [parameter.detach() for parameter in parameters]


NEED_A_GPU = ("bitsandbytes.",)


@pytest.mark.parametrize("name", [*SOURCES, "NAdam", *(name for name in all_classes() if name not in SOURCES)])
def test_an_optimizer_goes_on_from_its_state_to_the_bit(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    assert source is not None
    if not is_installed(source) or source.dotted.startswith(NEED_A_GPU):
        pytest.skip("not installed, or needs a GPU")
    straight = trained(name, tmp_path, None)
    for first, second in zip(straight, trained(name, tmp_path, 6), strict=True):
        assert torch.equal(first, second)
        assert torch.isfinite(first).all()
    torch.manual_seed(0)
    assert not torch.equal(straight[0], torch.randn(40, 36) / 6)


STRANGE = """
import collections, torch

class Plain(torch.optim.SGD):
    def __init__(self, params, lr=1e-3, speed=1, **kwargs):
        super().__init__(params, lr=lr)

class Counts(Plain):
    taken = 0
    def step(self, closure=None):
        self.taken = self.taken + 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.taken
        super().step()

class Queue(Plain):
    def step(self, closure=None):
        super().step()
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["seen"] = collections.deque()

class Closure(Plain):
    def step(self, closure):
        closure()
"""


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("Plain", ["speed=2"], ""),
        ("Plain", ["sped=2"], "settings: sped"),
        ("Counts", [], "strange.Counts keeps something outside its state"),
        ("Queue", [], "strange.Queue cannot train here: TypeError: a state cannot hold"),
        ("Closure", [], "strange.Closure cannot train here: TypeError"),
    ],
)
def test_an_optimizer_outside_the_table_is_tried_out(
    name: str, arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strange.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LORASMITH_OPTIMIZER_MODULES", "strange")
    training = TrainingTable(optimizer_type=f"strange.{name}", optimizer_args=arguments, learning_rate=0.01)
    before = torch.get_rng_state()
    try:
        answer = check_optimizer(training)
    except UsageError as error:
        answer = str(error)
    assert answer.startswith(sentence) if not sentence else sentence in answer, answer
    assert bool(answer) == bool(sentence)
    assert torch.equal(torch.get_rng_state(), before)
    assert resolve(RunConfig(training=training))[1][0].startswith(f"strange.{name} is not in this program's table")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DAdaptation", 'dadaptation (it is not installed). Install it: pip install "lorasmith[optimizers]"'),
        ("prodigyplus.prodigy_plus_schedulefree.ProdigyPlusScheduleFree",
         'prodigy-plus-schedule-free (it is not installed). Install it: pip install "lorasmith[optimizers]"'),
        ("pytorch_optimizer.CAME", 'pytorch-optimizer (it is not installed). Install it: pip install "lorasmith[opt'),
        ("pytorch_optimizer.SOAP", 'pytorch-optimizer (it is not installed). Install it: pip install "lorasmith[opt'),
        ("came_pytorch.CAME", "came-pytorch (it is not installed). Install it: pip install came-pytorch, or choose"),
        ("heavyball.ForeachSOAP", "heavyball (it is not installed). Install it: pip install heavyball, or choose"),
        ("adabelief_pytorch.AdaBelief", "adabelief-pytorch (it is not installed). Install it: pip install adabelief-p"),
        ("bitsandbytes.optim.AdEMAMix8bit", 'bitsandbytes (it is not installed). Install it: pip install "lorasmith[c'),
    ],
)  # fmt: skip
def test_each_missing_package_is_named(name: str, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        check_training(TrainingTable(optimizer_type=name))
    assert f"{name} needs the package {hint}" in str(caught.value)


@pytest.mark.parametrize("name", ["Prodigy", "DAdaptAdam", "dadaptation.DAdaptLion", "pytorch_optimizer.DAdaptAdam"])
def test_one_rate_for_all_parts(name: str) -> None:
    def of(**training: object) -> RunConfig:
        return RunConfig().changed(training={"optimizer_type": name, **training})

    with refused("optimizer-needs-one-rate", name, "U-Net 1, text encoder 0.5"):
        resolve(of(unet_lr=1.0, text_encoder_lr=0.5))
    assert resolve(of(unet_lr=1.0, text_encoder_lr=0.0))[1] == resolve(of(learning_rate=1.0, text_encoder_lr=0.0))[1]
    [note] = [note for note in resolve(of(learning_rate=1e-4))[1] if "finds" in note]
    assert note == f"{name} finds the learning rate itself, times the one that is set: 0.0001 is low, 1 is usual."
    _, groups = problem()
    with pytest.raises(UsageError, match=r"here they differ: unet 0\.01, text_encoder 0\.5"):
        build_optimizer(
            name, [], [*groups, {"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": 0.5, "name": "text_encoder"}]
        )


def test_muon_is_for_matrices() -> None:
    convolution = [
        {"params": [torch.nn.Parameter(torch.zeros(4, 3, 3, 3)), torch.nn.Parameter(torch.zeros(4, 3))], "lr": 1.0}
    ]
    with refused("optimizer-needs-matrices", "Muon", "4 dimensions"):
        build_optimizer("Muon", [], convolution)


@pytest.mark.parametrize(
    ("name", "free"),
    [("AdamWScheduleFree", True), ("prodigyplus.ProdigyPlusScheduleFree", True), ("AdamW", False),
     ("pytorch_optimizer.ScheduleFreeAdamW", True), ("pytorch_optimizer.CAME", False)],
)  # fmt: skip
def test_schedule_free_optimizers(name: str, free: bool) -> None:
    assert is_schedule_free(name) is free
    source = source_of(name)
    assert source is not None
    if is_installed(source):
        built = build_optimizer(name, [], problem()[1])
        assert built.schedule_free is free and hasattr(built.optimizer, "eval") is free


def test_descriptions_for_the_metadata() -> None:
    assert build_optimizer("AdamW", [], problem()[1]).description == "torch.optim.adamw.AdamW"
    built = build_optimizer("AdamW", ["weight_decay=0.1", "betas=0.9,0.99"], problem()[1])
    assert built.description == "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))"
    assert built.optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    assert built.optimizer.param_groups[0]["fused"]


def test_adafactor_sets_its_own_rate_unless_configured_otherwise() -> None:
    built = build_optimizer("Adafactor", [], problem()[1])
    assert built.relative_step
    assert build_schedule(TrainingTable(), built, 10) is None
    fixed = ["scale_parameter=False", "relative_step=False", "warmup_init=False"]
    assert build_optimizer("Adafactor", fixed, problem()[1]).optimizer.param_groups[0]["lr"] == 1e-2


@pytest.mark.parametrize(
    ("name", "arguments", "code", "part"),
    [
        ("AdamX", [], "optimizer-unknown", "'AdamX'"),
        ("schedulefree.nowhere.Adam", [], "optimizer-not-loadable", "schedulefree.nowhere.Adam"),
        ("torch.optim.lr_scheduler.LRScheduler", [], "optimizer-unknown", "torch.optim.lr_scheduler.LRScheduler"),
        ("AdamW", ["speed=9"], "argument-unknown", "speed"),
        ("AdamW", ["weight_decay"], "argument-without-value", "'weight_decay'"),
    ],
)
def test_wrong_optimizers_are_refused(name: str, arguments: list[str], code: str, part: str) -> None:
    with refused(code, part):
        build_optimizer(name, arguments, problem()[1])


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "lion", Source("Lion", "no_such_module", "lion-pytorch", "optimizers"))
    with refused("optimizer-package-missing", "Lion", "lion-pytorch", "it is not installed"):
        check_training(TrainingTable(optimizer_type="Lion"))
    with refused("optimizer-package-missing", "Lion", "lion-pytorch", 'pip install "lorasmith[optimizers]"'):
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
    ("settings", "code", "part"),
    [
        ({"lr_scheduler": "piecewise_constant"}, "schedule-rules-missing", "training.lr_scheduler_args"),
        (
            {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:x"]},
            "schedule-rules-not-possible",
            "'1:x'",
        ),
        ({"lr_scheduler": "adafactor"}, "schedule-needs-adafactor", "optimizer_type Adafactor"),
        ({"optimizer_type": "DAdaptAdam", "optimizer_args": ["beta=1"]}, "argument-unknown", "beta"),
        ({"optimizer_type": "pytorch_optimizer.CAME", "optimizer_args": ["eps=1"]}, "argument-unknown", "eps"),
        ({"optimizer_args": ["decay"]}, "argument-without-value", "'decay'"),
    ],
)
def test_what_is_lacking_is_seen_before_the_start(settings: dict[str, object], code: str, part: str) -> None:
    with refused(code, part):
        check_training(TrainingTable(**settings))


def test_arguments_are_literals_or_text() -> None:
    assert parse_arguments(["a=1e-3", "b=True", "c=x y", "d=0.9,0.99"], "here") == {
        "a": 1e-3,
        "b": True,
        "c": "x y",
        "d": (0.9, 0.99),
    }


def test_settings_that_a_schedule_does_not_take() -> None:
    with refused("argument-unknown", "training.lr_scheduler_args: cosine", "lr_end"):
        check_schedule(TrainingTable(lr_scheduler="cosine", lr_scheduler_args=["lr_end=1e-6"]))
    check_schedule(TrainingTable(lr_scheduler="polynomial", lr_scheduler_args=["lr_end=1e-6"]))


def allowed(name: str, settings: list[str]) -> bool:
    try:
        check_training(TrainingTable(optimizer_type=name, optimizer_args=settings))
    except UsageError:
        return False
    return True


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/optimizer_table.py, which made the table."""
    spec = spec_from_file_location("optimizer_table", ROOT / "tools" / "optimizer_table.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def usable(tool: ModuleType) -> dict[str, type[torch.optim.Optimizer]]:
    """The installed classes that can train a LoRA."""
    classes: dict[str, type[torch.optim.Optimizer]] = tool.optimizers()
    return classes


def test_the_table_is_that_of_the_installed_classes(
    tool: ModuleType, usable: dict[str, type[torch.optim.Optimizer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names from the signatures, limits from trying; run `python tools/optimizer_table.py` after a change."""
    monkeypatch.setattr(tool, "optimizers", lambda: usable)
    assert tool.text() == TABLE.read_text()
    assert tool.page() == (ROOT / "docs" / "optimizers.md").read_text()
    assert set(usable) == set(all_classes())


VALUES = {
    "number": ["-1", "0", "0.3", "0,1", "x", "1", "3", "none"],
    "integer": ["-1", "0", "2", "0,1", "x", "none"],
    "flag": ["True", "False", "maybe", "none"],
    "numbers": ["0.5,0.6", "-1,0.5", "0.5,1", "0.5,0.6,0.7", "0.5", "x,y", "none"],
    "text": ["", "nosuch", "none"],
}


@pytest.mark.parametrize("name", all_classes())
def test_the_check_takes_what_the_class_takes(
    name: str, tool: ModuleType, usable: dict[str, type[torch.optim.Optimizer]]
) -> None:
    """Each setting of each class with good and bad values: the check and a first step agree."""
    built = usable[name]
    base = tool.base_settings(built)
    for key, parameter in all_classes()[name].items():
        for text in VALUES[parameter.kind.partition(":")[0]]:
            setting = [*(f"{other}={value}" for other, value in base.items() if other != key), f"{key}={text}"]
            if allowed(name, setting):
                if key != "use_triton":  # which needs a GPU
                    assert tool.steps(built, optimizer_settings(name, setting)), f"{setting} is allowed and fails"
                continue
            if parameter.choices and parameter.kind != "flag":
                continue  # the class does not look before it computes with it
            if (name, key, text) == ("pytorch_optimizer.Prodigy", "d0", "-1"):
                continue  # it trains, unlike 0: a negative distance means nothing
            bare = Parameter(parameter.kind, optional=parameter.optional)
            with suppress(ValueError):
                value = read_value(text, bare)
                assert not tool.steps(built, {**base, key: value}), f"{setting} is refused and trains"


@pytest.mark.parametrize(
    ("name", "settings", "fits"),
    [
        ("AdamW", ["foreach=true"], True),
        ("AdamW", ["fused=false", "foreach=true"], True),
        ("AdamW", ["fused=true", "foreach=true"], False),
        ("AdamW", ["amsgrad=true"], True),
        ("AdamW", ["differentiable=true"], False),
        ("AdamW", ["capturable=true"], False),
        ("AdamW", ["lr=1"], False),
        ("AdamW", ["params=1"], False),
        ("SGD", ["nesterov=true"], False),
        ("SGD", ["nesterov=true", "momentum=0.9"], True),
        ("SGDNesterov", [], True),
        ("SGDNesterov", ["momentum=0"], False),
        ("SGDNesterov", ["dampening=0.1"], False),
        ("SGDNesterov", ["nesterov=no", "dampening=0.1"], True),
        ("Adafactor", ["warmup_init=true"], True),
        ("Adafactor", ["warmup_init=true", "relative_step=false"], False),
        ("Adafactor", ["relative_step=false", "scale_parameter=False"], True),
        ("Adafactor", ["beta1=none"], True),
        ("torch.optim.Adafactor", ["d=2"], True),
        ("Prodigy", ["growth_rate=inf", "decouple=True", "d_coef=2", "safeguard_warmup=true"], True),
        ("Prodigy", ["d0=0"], False),
        ("AdamWScheduleFree", ["warmup_steps=10"], True),
        ("schedulefree.SGDScheduleFree", ["momentum=0"], False),
    ],
)
def test_settings_that_go_together(name: str, settings: list[str], fits: bool) -> None:
    assert allowed(name, settings) is fits
    if fits:
        parameter, groups = problem()
        built = build_optimizer(name, settings, groups)
        advance(parameter, built, 1)
    else:
        with pytest.raises(UsageError, match=r"training\.optimizer_args"):
            check_training(TrainingTable(optimizer_type=name, optimizer_args=settings))


@pytest.mark.parametrize("name", ["AdamX", "adamx", "LBFGS", "SparseAdam", "Optimizer", "torch.optim.Nosuch", "nadam",
                                  "bitsandbytes.optim.Nosuch", "schedulefree.AdamWScheduleFreePaper", ""])  # fmt: skip
def test_no_such_optimizer(name: str) -> None:
    with refused("optimizer-unknown", repr(name)):
        check_training(TrainingTable(optimizer_type=name))


@pytest.mark.parametrize(
    ("schedule", "settings", "fits"),
    [
        ("cosine", ["num_cycles=0.5"], True), ("cosine", ["num_cycles=x"], False), ("cosine", ["lr_end=1e-6"], False),
        ("linear", ["power=1"], False), ("constant_with_warmup", ["power=1"], False), ("constant", ["power=1"], True),
        ("cosine_with_restarts", ["num_cycles=2"], True), ("cosine_with_restarts", ["num_cycles=0.5"], False),
        ("polynomial", ["lr_end=1e-6", "power=2"], True), ("polynomial", ["lr_end=1"], False),
        ("inverse_sqrt", ["timescale=none"], True), ("inverse_sqrt", ["timescale=10"], True),
        ("cosine_with_min_lr", ["min_lr=1e-6"], True), ("cosine_with_min_lr", ["min_lr_rate=0.1"], True),
        ("cosine_with_min_lr", ["min_lr=1e-6", "min_lr_rate=0.1"], False),
        ("warmup_stable_decay", ["decay_type=1-sqrt", "warmup_type=cosine"], True),
        ("warmup_stable_decay", ["decay_type=step"], False), ("warmup_stable_decay", ["num_decay_steps=5.5"], False),
        ("piecewise_constant", ["step_rules=1:10,0.1"], True), ("piecewise_constant", ["step_rules='1:10,0.1'"], True),
        ("piecewise_constant", ["step_rules=1:10,0.1", "power=2"], False), ("piecewise_constant", [], False),
        ("adafactor", [], False),
    ],
)  # fmt: skip
def test_settings_of_schedules(schedule: str, settings: list[str], fits: bool) -> None:
    training = TrainingTable.model_validate({"lr_scheduler": schedule, "lr_scheduler_args": settings})
    if fits:
        check_training(training)
        check_schedule(training)
    else:
        with pytest.raises(UsageError, match=r"training\.lr_scheduler"):
            check_training(training)
        with pytest.raises(UsageError, match=r"training\.lr_scheduler"):
            check_schedule(training)


@pytest.mark.parametrize("scheduler", ["adafactor", "constant", "cosine"])
def test_adafactor_with_its_own_rate_needs_no_schedule(scheduler: str) -> None:
    check_schedule(TrainingTable.model_validate({"optimizer_type": "Adafactor", "lr_scheduler": scheduler}))
    fixed = {"optimizer_type": "Adafactor", "lr_scheduler": "adafactor", "optimizer_args": ["relative_step=no"]}
    with refused("schedule-needs-adafactor", "relative_step=True"):
        check_schedule(TrainingTable.model_validate(fixed))


@pytest.mark.parametrize("name", ["AdamWScheduleFree", "RAdamScheduleFree", "sgdschedulefree"])
@pytest.mark.parametrize(
    "settings",
    [
        {"lr_scheduler": "constant", "lr_warmup_steps": 10},
        {"lr_scheduler": "constant", "lr_warmup_steps": 0.1},
        {"lr_scheduler": "cosine", "lr_warmup_steps": 10},
        {"lr_scheduler": "piecewise_constant"},
        {"lr_scheduler": "cosine", "lr_scheduler_args": ["nosuch=3"]},
        {"lr_scheduler": "adafactor"},
    ],
)
def test_a_schedule_free_optimizer_ignores_the_schedule(name: str, settings: dict[str, object]) -> None:
    training = TrainingTable.model_validate({"optimizer_type": name, **settings})
    check_schedule(training)
    built = build_optimizer(name, [], problem()[1])
    schedule = build_schedule(training, built, 100)
    assert schedule is not None and schedule.get_last_lr() == [1e-2]
    _, notes = resolve(RunConfig().changed(training={"optimizer_type": name, **settings}))
    (note,) = [note for note in notes if "no effect" in note]
    assert all(key in note for key, value in settings.items() if value != "constant")
    with pytest.raises(ValidationError, match="constant_with_warmup"):
        TrainingTable(lr_scheduler="constant", lr_warmup_steps=10)


def test_the_check_loads_no_torch() -> None:
    code = (
        "import sys; from engine.config.optimizers import check_training; from engine.config import RunConfig; "
        "check_training(RunConfig().training); assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    "name",
    [
        "antigravity.Fly", "this.Zen", "os.path.Optimizer", "torch.utils.cpp_extension.Optimizer",
        "torchevil.optim.Adam", "torch.optimizer.Adam", ".Adam", "..Adam", "engine.training.trainer.Trainer",
        "a/b.Adam", "bitsandbytes.Adam",
    ],
)  # fmt: skip
def test_a_module_that_is_not_allowed_is_not_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def imported(module: str, package: str | None = None) -> None:
        pytest.fail(f"{module} is imported")

    monkeypatch.setattr("engine.training.optimizers.importlib.import_module", imported)
    for check in (lambda: check_training(TrainingTable(optimizer_type=name)), lambda: build_optimizer(name, [], [])):
        with refused("optimizer-not-allowed", name, "LORASMITH_OPTIMIZER_MODULES="):
            check()


def test_a_person_can_allow_a_module_and_its_inner_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_optimizers").mkdir()
    (tmp_path / "my_optimizers" / "fast.py").write_text("import torch\nclass Fast(torch.optim.SGD): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LORASMITH_OPTIMIZER_MODULES", "other, my_optimizers")
    built = build_optimizer("my_optimizers.fast.Fast", [], problem()[1])
    assert type(built.optimizer).__name__ == "Fast"
    with refused("optimizer-not-allowed", "my_optimizers2.Fast"):
        check_training(TrainingTable(optimizer_type="my_optimizers2.Fast"))
