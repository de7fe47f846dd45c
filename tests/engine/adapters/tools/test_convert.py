"""Kohya's, diffusers' and peft's names: there and back to the byte, and loaded by diffusers and peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.tools.convert import convert
from engine.adapters.tools.layers import LORA, Layer
from engine.adapters.tools.requests import ConvertRequest
from engine.families.flux.layers import FLUX_LAYERS
from engine.models.lora_names import ALPHA, DOWN, UP
from tests.engine.adapters.tools.conftest import FAMILIES, SD15, Tensors, deltas, lora_tensors, silent
from tests.refusals import refused

Saved = Callable[..., Path]


def run(path: Path, to: Any, out: Path) -> Any:
    return convert(ConvertRequest(file=str(path), to=to, out=str(out)), silent)


def same(first: Path, second: Path) -> None:
    """Equal tensors, to the byte."""
    before, after = load_file(first), load_file(second)
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype and torch.equal(tensor, after[key]), key


@pytest.mark.parametrize("base", FAMILIES)
@pytest.mark.parametrize("to", ["diffusers", "peft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_there_and_back_is_the_same_to_the_byte(
    base: str, to: str, dtype: torch.dtype, saved: Saved, tmp_path: Path
) -> None:
    tensors = lora_tensors(FAMILIES[base], dtype=dtype)
    first = next(iter(FAMILIES[base]))
    tensors[f"{first}.{ALPHA}"] = torch.tensor(3.0).to(dtype)  # an alpha of its own
    source = saved(tensors, metadata={"ss_output_name": "a", "ss_base_model_version": "kept"})
    middle = tmp_path / ("middle" if to == "peft" else "middle.safetensors")
    report = run(source, to, middle)
    assert not report.unmapped and report.loss.total < 1e-6
    back = tmp_path / "back.safetensors"
    run(middle, "kohya", back)
    same(source, back)
    if to == "diffusers":
        assert inspect_lora(back).metadata["ss_output_name"] == "a"


def test_a_block_diagonal_up_is_cut_to_its_ranks_and_put_together_again(saved: Saved, tmp_path: Path) -> None:
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    up = torch.block_diag(*(torch.randn(64, 4) for _ in range(3)))
    source = saved({f"{name}.{DOWN}": torch.randn(12, 64), f"{name}.{UP}": up, f"{name}.{ALPHA}": torch.tensor(6.0)})
    run(source, "diffusers", tmp_path / "d.safetensors")
    parts = load_file(tmp_path / "d.safetensors")
    assert parts["transformer.transformer_blocks.0.attn.to_k.lora_A.weight"].shape == (4, 64)
    assert parts["transformer.transformer_blocks.0.attn.to_k.alpha"] == 2.0
    run(tmp_path / "d.safetensors", "kohya", tmp_path / "k.safetensors")
    same(source, tmp_path / "k.safetensors")


def test_a_file_with_query_and_value_only_becomes_the_fused_layer(saved: Saved, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors: Tensors = {}
    for part, rank in (("to_q", 2), ("to_v", 3)):
        front = f"transformer.transformer_blocks.0.attn.{part}"
        tensors[f"{front}.lora_A.weight"] = torch.randn(rank, 64, generator=generator)
        tensors[f"{front}.lora_B.weight"] = torch.randn(64, rank, generator=generator)
    run(saved(tensors), "kohya", tmp_path / "k.safetensors")
    change = deltas(tmp_path / "k.safetensors")["lora_unet_double_blocks_0_img_attn_qkv"]
    front = "transformer.transformer_blocks.0.attn."
    query = tensors[f"{front}to_q.lora_B.weight"] @ tensors[f"{front}to_q.lora_A.weight"]
    value = tensors[f"{front}to_v.lora_B.weight"] @ tensors[f"{front}to_v.lora_A.weight"]
    assert torch.allclose(change, torch.cat([query, torch.zeros(64, 64), value]), atol=1e-6)


def test_modules_without_a_name_there_keep_theirs_and_are_named(saved: Saved, tmp_path: Path) -> None:
    odd = "lora_unet_down_blocks_9_attentions_0_proj_in"
    source = saved(lora_tensors({**SD15, odd: (8, 8)}))
    report = run(source, "diffusers", tmp_path / "d.safetensors")
    assert report.unmapped == [odd] and any(odd in note for note in report.notes)
    assert f"{odd}.{DOWN}" in load_file(tmp_path / "d.safetensors")
    run(tmp_path / "d.safetensors", "kohya", tmp_path / "k.safetensors")
    same(source, tmp_path / "k.safetensors")


def test_the_scale_of_peft_s_rslora_and_patterns_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    front = "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    tensors: Tensors = {}
    for part in ("to_k", "to_q"):
        inputs = 768 if part == "to_k" else 32
        tensors |= {f"{front}.{part}.lora_A.weight": torch.ones(4, inputs)}
        tensors |= {f"{front}.{part}.lora_B.weight": torch.ones(32, 4)}
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "alpha_pattern": {"attn2.to_q": 2}, "use_rslora": True}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    run(folder, "kohya", tmp_path / "k.safetensors")
    factors = {
        name.rpartition("_")[2]: float(change[0, 0]) for name, change in deltas(tmp_path / "k.safetensors").items()
    }
    assert factors == {"k": 4 * 8 / 2, "q": 4 * 2 / 2}  # rank 4 · alpha / √4


def test_split_keeps_alpha_where_all_share_one_down() -> None:
    from engine.adapters.tools.convert import split

    layer = Layer("x", LORA, {"down": torch.randn(2, 8), "up": torch.randn(24, 2)}, 1.0)
    parts = split(layer, 3, FLUX_LAYERS)
    assert [part.alpha for part in parts] == [1.0] * 3
    assert torch.equal(torch.cat([part.delta() for part in parts]), layer.delta())


def test_peft_loads_its_folder(saved: Saved, tmp_path: Path) -> None:
    from tests.tiny_models import tiny_parts

    layers = {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": (32, 64),
              "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (64, 64)}  # fmt: skip
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    source = saved(lora_tensors({text: (32, 64), **layers}), metadata={"ss_base_model_version": "sd_v1"})
    run(source, "peft", tmp_path / "p")
    parts, expected = tiny_parts(), deltas(source)
    before = {name: tensor.clone() for name, tensor in parts["unet"].state_dict().items()}
    merged = PeftModel.from_pretrained(parts["unet"], str(tmp_path / "p" / "unet")).merge_and_unload()
    for name in layers:
        path = name.removeprefix("lora_unet_mid_block_attentions_0_transformer_blocks_0_").replace("_to", ".to")
        key = f"mid_block.attentions.0.transformer_blocks.0.{path}.weight"
        assert torch.allclose(merged.state_dict()[key] - before[key], expected[name], atol=1e-5)
    encoder = PeftModel.from_pretrained(parts["text_encoder"], str(tmp_path / "p" / "text_encoder"))
    assert any("lora_A" in name for name, _ in encoder.named_parameters())


def test_a_result_that_differs_is_not_kept(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the way back would show: here the parts are split in the wrong order."""
    from engine.adapters.tools import convert as module

    source = saved(lora_tensors({"lora_unet_double_blocks_0_img_attn_qkv": (64, 192)}))
    right = module.split
    monkeypatch.setattr(module, "split", lambda layer, members, names: right(layer, members, names)[::-1])
    for to in ("diffusers", "peft"):
        with refused("written-file-wrong", "img_attn_qkv"):
            run(source, to, tmp_path / f"{to}.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
