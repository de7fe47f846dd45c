"""`model.base_weights`: the loaded model is the one of a checkpoint into which the files were merged; what cannot be
merged is refused before the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.adapters.base_weights import load_base
from engine.adapters.start import check_base_weights
from engine.config import RunConfig
from engine.config.resolve import resolve
from engine.errors import ModelError
from engine.families.base import Model
from engine.families.registry import family_named
from engine.families.resolved import resolve_run
from tests.engine.adapters.tools.conftest import FLUX, SD15, Tensors, lora_tensors
from tests.engine.adapters.tools.test_into import merged_pair
from tests.refusals import refused
from tests.tiny_models import tiny_sd15

CLIP = "lora_te_text_model_encoder_layers_0_mlp_fc1"
CONV = "lora_unet_mid_block_resnets_1_conv2"
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
TINY = {name: SD15[name] for name in (CLIP, LINEAR, CONV)}
"""Layers that the tiny model has in the same size."""


def load(path: Path, merged: list[tuple[Path, float]], messages: list[str] | None = None, **memory: Any) -> Model:
    table = {
        "pretrained_model_name_or_path": str(path),
        "base_weights": [str(file) for file, _ in merged],
        "base_weights_multiplier": [strength for _, strength in merged],
    }
    run = resolve_run(RunConfig().changed(model=table, memory=memory))
    log = (messages if messages is not None else []).append
    return load_base(family_named(run.recognition.family), run.config, run.recognition, "cpu", "fp32", log)


def weights(model: Model) -> dict[str, Tensor]:
    parts = {**model.text_encoders, **model.trainable}
    return {f"{part}.{key}": tensor for part, module in parts.items() for key, tensor in module.state_dict().items()}


@pytest.mark.parametrize(("kind", "precision"), [("SD 1.5 file", "int8"), ("FLUX folder", "auto")])
def test_the_model_is_that_of_the_merged_checkpoint(kind: str, precision: str) -> None:
    base, lora, merged, _ = merged_pair(kind)
    messages: list[str] = []
    ours = load(base, [(lora, 1.0)], messages, base_precision=precision)
    actual, expected = weights(ours), weights(load(merged, [], base_precision=precision))
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert any(text.startswith(f"Merged into the base: {lora.name} at strength 1, ") for text in messages)
    assert ours.merged_key


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd15(tmp_path_factory.mktemp("base"))


def test_by_hand(base: Path, tmp_path: Path) -> None:
    """W + Σ strength · alpha / r · up · down, of two files in two namings; convolutions with their kernels."""
    first, second = lora_tensors(TINY), lora_tensors({LINEAR: SD15[LINEAR]}, rank=2, alpha=1.0, seed=1)
    path = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    renamed = {
        key.replace(f"{LINEAR}.lora_down", f"{path}.lora_A").replace(f"{LINEAR}.lora_up", f"{path}.lora_B"): tensor
        for key, tensor in second.items()
        if not key.endswith("alpha")
    }
    save_file(first, tmp_path / "a.safetensors")
    save_file(renamed, tmp_path / "b.safetensors")
    untouched = load(base, [(tmp_path / "a.safetensors", 0.0)])
    plain = weights(untouched)
    assert not untouched.merged_key
    merged = weights(load(base, [(tmp_path / "a.safetensors", 0.5), (tmp_path / "b.safetensors", -2.0)]))
    linear, conv = f"{path}.weight", "unet.mid_block.resnets.1.conv2.weight"
    text = next(key for key in plain if key.endswith("layers.0.mlp.fc1.weight"))
    product = {
        name: first[f"{name}.lora_up.weight"].flatten(1) @ first[f"{name}.lora_down.weight"].flatten(1) * 2 / 4
        for name in (LINEAR, CONV, CLIP)
    }
    other = second[f"{LINEAR}.lora_up.weight"] @ second[f"{LINEAR}.lora_down.weight"]
    expected = {
        linear: plain[linear] + 0.5 * product[LINEAR] - 2 * other,  # without an alpha it is the rank
        conv: plain[conv] + 0.5 * product[CONV].reshape(plain[conv].shape),
        text: plain[text] + 0.5 * product[CLIP],
    }
    for key, tensor in expected.items():
        torch.testing.assert_close(merged[key], tensor, rtol=1e-5, atol=1e-6)
    changed = {key for key in plain if not torch.equal(plain[key], merged[key])}
    assert changed == set(expected)


def test_strengths() -> None:
    model = RunConfig().changed(model={"base_weights": "a", "base_weights_multiplier": 0.5}).model
    assert model.merged == [("a", 0.5)], "one value is a list"
    config = RunConfig().changed(model={"base_weights": ["a", "b", "c"], "base_weights_multiplier": [2, 0]})
    assert config.model.merged == [("a", 2.0), ("c", 1.0)]
    more = RunConfig().changed(model={"base_weights": ["a"], "base_weights_multiplier": [1, 2, 3]})
    resolved, notes = resolve(more)
    assert resolved.model.base_weights_multiplier == [1.0]
    assert "model.base_weights_multiplier has 3 strengths for 1 file: the others have no effect." in notes


def _ia3(tensors: Tensors) -> Tensors:
    return {f"{LINEAR}.weight": torch.ones(32, 1), f"{LINEAR}.on_input": torch.tensor(False)}


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "another family": (lambda _: lora_tensors(FLUX), "is a LoRA for FLUX, and the model is SD 1.5."),
    "no LoRA": (lambda _: {"unet.conv_in.weight": torch.ones(2, 2)}, "is not a LoRA, but "),
    "NaN": (lambda tensors: {**tensors, f"{LINEAR}.lora_up.weight": torch.full((32, 4), torch.nan)}, "NaN or infinity"),
    "a kind that needs the weight": (_ia3, "the change of a (IA)³ cannot"),
    "biases": (
        lambda tensors: {**tensors, f"{LINEAR}.diff_b": torch.ones(32)}, "it also changes biases",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_the_start(tmp_path: Path, make: Callable[[Tensors], Tensors], message: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file(make(lora_tensors(SD15)), path)
    config = RunConfig().changed(model={"base_weights": [str(path)]})
    with pytest.raises(ModelError) as caught:
        check_base_weights(config, "SD 1.5")
    assert caught.value.message.startswith(f"model.base_weights: {path}") and message in caught.value.message


def test_a_missing_file(tmp_path: Path) -> None:
    config = RunConfig().changed(model={"base_weights": [str(tmp_path / "none.safetensors")]})
    with refused("merged-file-missing", "model.base_weights", "none.safetensors"):
        check_base_weights(config, "SD 1.5")


def test_other_sizes(base: Path, tmp_path: Path) -> None:
    wrong = {LINEAR: (64, 64)}
    save_file(lora_tensors(wrong), tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"changes a weight of \[64, 64\], and the model's is \[32, 32\]"):
        load(base, [(tmp_path / "a.safetensors", 1.0)])
    elsewhere = {"lora_unet_down_blocks_7_attentions_0_proj_in": (32, 32, 1, 1)}
    save_file(lora_tensors(elsewhere), tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"no layer of b\.safetensors is in this model"):
        load(base, [(tmp_path / "b.safetensors", 1.0)])
    both = {**elsewhere, LINEAR: SD15[LINEAR]}
    save_file(lora_tensors(both), tmp_path / "c.safetensors")
    messages: list[str] = []
    load(base, [(tmp_path / "c.safetensors", 1.0)], messages)
    assert any("c.safetensors: 1 layer left out, which this model does not have" in text for text in messages)
