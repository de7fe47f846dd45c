"""Rates by block and by name, LoRA+ and chosen layers in a training: events, live changes, resume, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.estimate.disk import lora_parameters
from engine.exit_codes import ExitCode
from engine.families.resolved import resolve_run
from engine.runs.layout import RunDir
from engine.training.statefile import load_tree
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_train import Train, digest, events, losses

SETTINGS = {
    "training__max_train_steps": 4,
    "training__lr_scheduler": "constant",
    "training__unet_lr": 1e-3,
    "training__text_encoder_lr": 5e-4,
    "training__max_check_share": 0,
    "saving__save_state_every_n_steps": 2,
    "saving__save_every_n_epochs": 0,
    "saving__save_precision": "float",
    "sampling__sample_every_n_steps": 0,
}
BY_BLOCK = {
    "network__down_lr_weight": "0,0.5",  # the down block with attention is the second in the list
    "network__up_lr_weight": "zeros+0.25",
    "network__block_dims": ",".join(["2"] * 12 + ["0"] + ["4", "4", "4", "6"] * 3),
    "network__network_reg_lrs": "attn2=2e-3",
    "network__loraplus_unet_lr_ratio": 4,
    "network__exclude_patterns": '["fc2$"]',
    "training__changes": '["2: training.unet_lr=5e-4"]',
}
RATES = {
    "text_encoder": 5e-4,
    "unet reg_lr_0": 2e-3, "unet reg_lr_0 plus": 8e-3,
    "unet_block1": 5e-4, "unet_block1 plus": 2e-3,
    "unet_block16": 2.5e-4, "unet_block16 plus": 1e-3,
    "unet_block17": 2.5e-4, "unet_block17 plus": 1e-3,
}  # fmt: skip


def stopped_at_three(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Trainer.advance

    def stop(self: Trainer) -> bool:
        if self.step == 3:
            self.session.stop_reason = "test"
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop)


def state_of(run: RunDir, step: int) -> dict[str, Any]:
    tree: dict[str, Any] = load_tree(run.checkpoints / f"state-{step:08d}.safetensors")
    return tree


def edited(run: RunDir, old: str, new: str) -> None:
    text = run.config_path.read_text()
    assert old in text
    run.config_path.write_text(text.replace(old, new))


def test_rates_by_block_and_by_name(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight, halted = (make_run(place, **SETTINGS, **BY_BLOCK) for place in ("straight", "halted"))
    assert train_here(straight) == ExitCode.DONE
    steps = events(straight, "step")
    assert steps[0].data["lr"] == pytest.approx(RATES) and list(steps[0].data["lr"]) == list(RATES)
    halved = {name: rate / 2 if "block" in name else rate for name, rate in RATES.items()}
    assert steps[-1].data["lr"] == pytest.approx(halved), "a rate of its own does not follow unet_lr"

    path = straight.path / "zed.safetensors"
    report = inspect_lora(path)
    assert report.problems == [] and report.ranks == {"4": 22, "2": 12, "6": 12}
    assert not [key for key in load_file(path) if "mid_block" in key or "fc2" in key]
    numbers = sum(tensor.numel() for key, tensor in load_file(path).items() if not key.endswith(".alpha"))
    assert lora_parameters(resolve_run(load_config(straight.config_path))) == numbers
    arguments = json.loads(report.metadata["ss_network_args"])
    assert arguments["down_lr_weight"] == "0,0.5" and arguments["loraplus_unet_lr_ratio"] == "4"
    assert list(arguments)[-1] == "dropout" and arguments["dropout"] is None

    with monkeypatch.context() as patch:
        stopped_at_three(patch)
        assert train_here(halted) == ExitCode.STOPPED
    assert train_here(halted) == ExitCode.DONE
    assert losses(straight) == losses(halted) and digest(straight) == digest(halted)
    assert state_of(straight, 4)["groups"] == [*RATES] == state_of(halted, 4)["groups"]


@pytest.mark.parametrize(
    ("settings", "old", "new", "code"),
    [
        ({"network__include_patterns": '["attn1_to_q"]'}, "attn1_to_q", "attn1_to_out_0", "state-of-other-lora"),
        ({}, "block_lr_zero_threshold = 0.0", "block_lr_zero_threshold = 0.0\nloraplus_lr_ratio = 16.0",
         "state-of-other-groups"),
        ({}, "network_dim = 4", 'network_dim = 4\nblock_dims = "' + ",".join(["3"] * 25) + '"', "state-of-other-lora"),
    ],
)  # fmt: skip
def test_a_state_of_other_layers_or_groups_is_refused(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], old: str, new: str,
    code: str,
) -> None:  # fmt: skip
    run = make_run(**SETTINGS, **settings)
    with monkeypatch.context() as patch:
        stopped_at_three(patch)
        assert train_here(run) == ExitCode.STOPPED
    edited(run, old, new)
    assert train_here(run) == ExitCode.USAGE
    assert events(run, "error")[-1].data["code"] == code


def test_a_factor_may_change_at_a_resume_and_its_block_trains_on(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(**SETTINGS, network__up_lr_weight="zeros+0.25")
    with monkeypatch.context() as patch:
        stopped_at_three(patch)
        assert train_here(run) == ExitCode.STOPPED
    edited(run, "zeros+0.25", "zeros+0.5")
    assert train_here(run) == ExitCode.DONE
    rates = events(run, "step")[-1].data["lr"]
    assert (rates["unet_block16"], rates["unet_block1"], rates["text_encoder"]) == pytest.approx((5e-4, 1e-3, 5e-4))


def test_a_state_without_these_settings_has_its_former_form(make_run: MakeRun, train_here: Train) -> None:
    run = make_run(**{**SETTINGS, "training__max_train_steps": 2})
    assert train_here(run) == ExitCode.DONE
    assert list(state_of(run, 2)) == [
        "digest", "inputs", "place", "progress", "recovery", "optimizer_kind", "adapter", "optimizer", "schedule",
        "scaler",
    ]  # fmt: skip
    assert [len(group["params"]) for group in state_of(run, 2)["optimizer"]["param_groups"]] == [24, 96]
