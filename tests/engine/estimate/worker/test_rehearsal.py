"""The planner's process on models: what grows a plan, and what shrinks it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ModelError
from engine.estimate import planner
from engine.estimate.plan import PHASES, Need
from engine.estimate.process import PlannerProcess
from engine.estimate.worker.graph_pool import WORKSPACES, GraphPool
from engine.families.registry import recognise
from engine.families.resolved import resolve_run
from tests.tiny_models import tiny_sd15

CACHED: dict[str, dict[str, Any]] = {
    "memory": {"cache_text_encoder_outputs": True},
    "network": {"network_train_unet_only": True},
}
SPLIT: dict[str, dict[str, Any]] = {
    "dataset": {"resolution": 128},
    "memory": {"split_mode": True, "cache_text_encoder_outputs": True, "cache_latents": False},
    "network": {"network_train_unet_only": True},
    "training": {"optimizer_type": "AdamW8bit", "gradient_accumulation_steps": 2},
}
TINY: dict[str, dict[str, Any]] = {
    "base": {},
    "batch": {"training": {"train_batch_size": 4}},
    "checkpointing": {"training": {"train_batch_size": 4}, "memory": {"gradient_checkpointing": True}},
    "noise": {
        "training": {"multires_noise_iterations": 4, "ip_noise_gamma": 0.1, "ip_noise_gamma_random_strength": True}
    },
    "pissa": {"network": {"init_lora_weights": "pissa", "tlora_min_rank": 1}},
    **{name: {"memory": {"base_precision": name}} for name in ("int8", "int8_w8a8", "fp8_w8a8")},
    **{
        name: {**CACHED, "memory": {**CACHED["memory"], "cuda_graphs": setting}}
        for name, setting in (("eager", "off"), ("captured", "on"), ("captured if long", "auto"))
    },
    "captured with text": {"memory": {"cuda_graphs": "on"}},
    "split": SPLIT,
    "refused": {**SPLIT, "memory": {**SPLIT["memory"], "cuda_graphs": "on"}},
}


@dataclass
class Answers:
    """What one planner's process answered."""

    needs: dict[str, tuple[Need, ...]]
    broken: str
    """What it answered about a model that is not there, between two others."""

    def need(self, name: str, phase: str = "train") -> Need:
        return next(need for need in self.needs[name] if need.phase == phase)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    recognition = recognise(tiny_sd15(tmp_path_factory.mktemp("model")))
    small = {"resolution": 64, "enable_bucket": False, "validation_split": 0.1}
    needs, broken = {}, ""
    with PlannerProcess() as process:
        for name, tables in TINY.items():
            dataset = {**small, **tables.get("dataset", {})}
            config = RunConfig().changed(**{**tables, "dataset": dataset})
            request = planner.request_for(
                resolve_run(config, recognition), phases=PHASES if name == "base" else ("train",)
            )
            assert request is not None
            needs[name] = process.ask(request)
            if not broken:
                with pytest.raises(ModelError) as caught:
                    process.ask(replace(request, recognition=replace(recognition, path=Path("nowhere"))))
                broken = str(caught.value)
    return Answers(needs, broken)


def test_every_phase_of_a_run(answers: Answers) -> None:
    needs = answers.needs["base"]
    assert [need.phase for need in needs] == ["load", "cache", "train", "sample", "frugal", "validate", "save"]
    for need in needs:
        assert sum(need.breakdown.values()) == need.allocated <= need.reserved


def test_the_weights_are_those_of_unet_and_text_encoder(answers: Answers) -> None:
    from tests.tiny_models import tiny_parts

    parts = tiny_parts()
    sizes = [parameter.numel() * 2 for name in ("unet", "text_encoder") for parameter in parts[name].parameters()]
    assert answers.need("base").breakdown["weights"] == pytest.approx(sum(sizes), rel=0.05)  # and buffers, rounded


UNET, TEXT, TEXT_TENSORS = 86016, 14336, 24
"""Trained numbers."""


def test_adam_keeps_two_numbers_for_each_of_the_adapter(answers: Answers) -> None:
    """And the number of the step, in a block of 512 bytes: for each tensor of the text encoder, and for the U-Net's."""
    save = answers.need("base", "save").breakdown
    assert save["optimizer"] == 2 * 4 * (UNET + TEXT) + (TEXT_TENSORS + 1) * 512


def test_the_unets_adapter_is_there_in_half_precision_too_with_its_gradients(answers: Answers) -> None:
    """While the training steps, not while a file is saved."""
    assert answers.need("base").breakdown["adapter"] == (4 + 2 + 2) * UNET + 4 * TEXT
    assert answers.need("base", "save").breakdown["adapter"] == 4 * (UNET + TEXT)


def test_first_values_from_the_base_are_kept_beside_the_adapter(answers: Answers) -> None:
    """As many numbers again, without moments and gradients. The U-Net's layers compute from the parameters themselves,
    whose gradients stay between updates."""
    base, doubled = answers.need("base").breakdown, answers.need("pissa").breakdown
    assert doubled["optimizer"] == base["optimizer"]
    assert doubled["adapter"] == (4 + 4 + 4) * UNET + (4 + 4) * TEXT


def test_noise_that_needs_values_is_planned_by_its_size(answers: Answers) -> None:
    """Perturbed noise is a third tensor like the latents, in this step's batch and in the next one."""
    base, noise = answers.need("base").breakdown["activations"], answers.need("noise").breakdown["activations"]
    assert noise - base == 2 * (4 * 16 * 16) * 4


def test_it_grows_with_the_batch_and_falls_with_checkpointing(answers: Answers) -> None:
    base, four, recomputed = (
        answers.need(name).breakdown["activations"] for name in ("base", "batch", "checkpointing")
    )
    assert 3 * base < four < 4.2 * base
    assert recomputed < 0.6 * four


def test_split_mode_and_eight_bits_at_a_higher_resolution(answers: Answers) -> None:
    base, split = answers.need("base").breakdown, answers.need("split").breakdown
    assert split["activations"] > 3 * base["activations"]
    assert split["slots"] > 0 and split["optimizer"] < base["optimizer"]


def test_graphs_have_a_copy_of_the_batch_and_of_the_gradients_and_workspaces(answers: Answers) -> None:
    """In a run of one shape; what a pass computes is in the pool instead of where an eager step has it."""
    eager, captured = answers.need("eager"), answers.need("captured")
    added = captured.breakdown["graphs"]
    assert captured.breakdown == {**eager.breakdown, "graphs": added}
    assert captured.allocated - eager.allocated == added == captured.reserved - eager.reserved
    latents_and_noise, timestep, text, weights_and_sizes = 2 * 4 * 16 * 16 * 4, 512, 77 * 32 * 2, 2 * 512
    gradients = 2 * UNET
    batch = latents_and_noise + timestep + -(-text // 512) * 512 + weights_and_sizes
    assert added == batch + 2 * gradients + WORKSPACES
    assert answers.need("captured if long") == captured
    assert answers.need("refused") == answers.need("split")


def test_with_graphs_the_gradients_of_a_text_encoder_stay_in_place(answers: Answers) -> None:
    """They are there in the forward pass too, and are copied for the comparison like the others."""
    base, captured = answers.need("base").breakdown, answers.need("captured with text").breakdown
    assert captured["adapter"] - base["adapter"] == 4 * TEXT
    tokens = -(-77 * 8 // 512) * 512
    latents_and_noise, timestep, weights_and_sizes = 2 * 4 * 16 * 16 * 4, 512, 2 * 512
    batch = latents_and_noise + timestep + tokens + weights_and_sizes
    assert captured["graphs"] == batch + 2 * (2 * UNET + 4 * TEXT) + WORKSPACES


def test_products_in_eight_bits_take_no_more_than_codes_that_are_decoded(answers: Answers) -> None:
    """A scale for each row instead of one for 64 values; what is quantised in a step is freed at once."""
    stored = answers.need("int8").breakdown["weights"]
    for name in ("int8_w8a8", "fp8_w8a8"):
        assert 0.9 * stored < answers.need(name).breakdown["weights"] < stored
        assert answers.need(name).allocated < answers.need("base").allocated


@pytest.mark.parametrize(
    ("several", "update", "outside"), [(False, 50, 200), (False, 500, 500), (True, 500, 1100), (True, 2000, 2000)]
)
def test_what_a_run_has_outside_of_the_pool_of_its_graphs(several: bool, update: int, outside: int) -> None:
    """Copies of gradients, the optimizer's step, or a pass of a shape that is not captured yet."""
    pool = GraphPool(passes=1000, batch=10, gradients=100, update=update, captured=3, has_several_shapes=several)
    need = Need("train", 5000, 6000, {"weights": 5000})
    added = pool.added_to(need)
    assert added.allocated == 5000 + 3 * 10 + WORKSPACES + 200
    assert added.reserved == 6000 + 3 * 10 + WORKSPACES + outside
    assert sum(added.breakdown.values()) == added.allocated <= added.reserved


def test_a_model_that_is_not_there(answers: Answers) -> None:
    assert "nowhere" in answers.broken
