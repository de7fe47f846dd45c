"""Query, key and value with a LoRA each: in a file they are one LoRA, which has the strength of the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.adapters.key_formats import file_tensors
from engine.adapters.kinds.lora import Lora
from engine.adapters.kohya_format import write_lora
from engine.adapters.network import AdapterNetwork
from engine.adapters.selection import Selector
from engine.adapters.start import check_start
from engine.adapters.verify import Naming, verify_file
from engine.config import RunConfig
from engine.config.network import NetworkTable
from engine.errors import LoraSmithError
from engine.families.flux.reader import FluxReader
from engine.families.flux.targets import in_targets, lora_targets
from engine.families.registry import family_named
from engine.types import LoraTarget
from tests.engine.adapters.test_groups import GROUP, ROWS, Split
from tests.refusals import refused
from tests.tiny_flux import tiny_parts

RANK, NAME = 3, "lora_unet_linear1"
SPLIT = replace(GROUP, is_split=True)


def attach(target: LoraTarget = SPLIT, **network: object) -> tuple[Split, AdapterNetwork]:
    torch.manual_seed(0)
    module = Split()
    table = NetworkTable.model_validate({"network_dim": RANK, "network_alpha": 2.0, **network})
    made = AdapterNetwork.attach(
        Lora(), {"transformer": module}, [target], network=table, generator_seed=4, log=lambda _: None
    )
    return module, made


def filled(network: AdapterNetwork) -> AdapterNetwork:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def test_the_file_has_the_effect_of_the_training() -> None:
    module, network = attach()
    filled(network)
    x = torch.randn(5, 8)
    plain = Split()
    plain.load_state_dict(_base_weights(module))
    change = module(x) - plain(x)
    state = network.state()
    down, up = state[f"{NAME}.lora_down.weight"], state[f"{NAME}.lora_up.weight"]
    alpha = float(state[f"{NAME}.alpha"])
    assert (down.shape, up.shape, alpha) == ((4 * RANK, 8), (sum(ROWS), 4 * RANK), 4 * 2.0), "4 times alpha and rank"
    torch.testing.assert_close(x @ down.T @ up.T * (alpha / len(down)), change)
    first = 0
    for number, rows in enumerate(ROWS):
        block = up[first : first + rows].clone()
        block[:, number * RANK : (number + 1) * RANK] = 0
        assert not block.any(), "each layer has its own ranks"
        first += rows


def _base_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    state = module.state_dict()
    return {key.replace("base_layer.", ""): value for key, value in state.items() if "lora" not in key}


def test_it_comes_back_exactly_and_begins_without_effect() -> None:
    _, first = attach()
    assert all(not up.any() for up in first.modules[0].outer)
    downs = first.modules[0].parameters[:4]
    assert not any(torch.equal(downs[0], other) for other in downs[1:]), "each has initial values of its own"
    _, second = attach()
    second.load(filled(first).state(), lambda _: None)
    for mine, theirs in zip(second.state().values(), first.state().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert second.modules[0].alpha == 8.0


def test_a_lora_of_the_fused_layer_is_continued_by_each_layer() -> None:
    """Its down matrix becomes that of each; scaled by alpha / rank, the effect is the same."""
    fused_module, fused = attach(GROUP)
    split_module, split = attach(SPLIT, network_alpha=5.0)
    split.load(filled(fused).state(), lambda _: None)
    x = torch.randn(5, 8)
    torch.testing.assert_close(split_module(x), fused_module(x))
    _, wide = attach(GROUP, network_dim=4 * RANK)
    with refused("lora-not-split", "4 layers"):
        split.load(filled(wide).state(), lambda _: None)


def test_the_norm_is_that_of_the_file() -> None:
    _, network = attach()
    state = filled(network).state()
    delta = state[f"{NAME}.lora_up.weight"] @ state[f"{NAME}.lora_down.weight"] * (2.0 / RANK)
    assert network.modules[0].squared_norm().item() == pytest.approx(float(delta.square().sum()), rel=1e-5)
    assert network.apply_max_norm(0.5)[0] == 1
    assert network.modules[0].squared_norm().item() == pytest.approx(0.25, rel=1e-5)


@pytest.mark.parametrize(
    ("precision", "key_format"), [("float", "kohya"), ("fp16", "kohya"), ("fp16", "diffusers"), ("fp16", "comfy")]
)
def test_a_file_with_every_setting_of_the_family_passes_the_check(
    tmp_path: Path, precision: Any, key_format: Any
) -> None:
    parts = tiny_parts(blocks=(2, 3))
    settings = {"split_qkv": True, "single_dim": 3, "train_double_block_indices": "1", "in_dims": "2,0,2,0,4"}
    config = RunConfig().changed(flux=settings, network={"network_dim": 4, "network_alpha": 1.7})
    selector = Selector(config, family_named("flux"))
    targets = [*lora_targets(parts["text_encoder"], parts["transformer"]), *in_targets(parts["transformer"])]
    selection = selector.select(targets)
    components = {name: parts[name] for name in ("text_encoder", "transformer")}
    network = AdapterNetwork.attach(
        Lora(), components, [choice.target for choice in selection.choices],
        network=config.network, selection=selection, folds_alpha=True, log=lambda _: None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    ranks = {module.target.kohya_name: next(iter(module.shapes.values()))[0] for module in network.modules}
    assert ranks["lora_unet_double_blocks_1_img_attn_qkv"] == 12 and ranks["lora_unet_single_blocks_0_linear1"] == 12
    assert ranks["lora_unet_single_blocks_0_linear2"] == 3 and ranks["lora_unet_txt_in"] == 4
    assert "lora_unet_double_blocks_0_img_attn_qkv" not in ranks and "lora_unet_time_in_in_layer" not in ranks
    path = tmp_path / "x.safetensors"
    tensors, metadata = file_tensors(network, family_named("flux").spec, key_format)
    write_lora(path, tensors, metadata, precision, lambda _: None)
    difference = verify_file(path, network, components, FluxReader(), Naming(key_format, "FLUX"))
    assert difference is not None and difference < 0.02
    if key_format == "diffusers":
        key = "transformer.transformer_blocks.1.attn.to_k"
        assert len(tensors[f"{key}.lora_A.weight"]) == 4, "each layer has its own LoRA, not that of all together"


@pytest.mark.parametrize("key_format", ["kohya", "diffusers"])
@pytest.mark.parametrize(
    ("flux", "network", "sentence"),
    [
        ({"split_qkv": True}, {"network_dim": 4}, ""),
        ({}, {"network_dim": 4}, "has the shape"),
        ({"split_qkv": True}, {"network_dim": 6}, "has the shape"),
        ({"split_qkv": True, "img_attn_dim": 4}, {"network_dim": 2, "network_reg_dims": "lora_unet=4"}, ""),
        ({"split_qkv": True}, {"network_dim": 2, "network_reg_dims": "qkv=4,linear1=4"}, "has the shape"),
    ],
)
def test_the_file_to_start_from_must_fit_the_rank_of_each_layer(
    tmp_path: Path, flux: dict[str, Any], network: dict[str, Any], sentence: str, key_format: Any
) -> None:
    parts = tiny_parts(blocks=(1, 1))
    config = RunConfig().changed(flux={"split_qkv": True}, network={"network_dim": 4})
    selection = Selector(config, family_named("flux")).select(
        [target for target in lora_targets(parts["text_encoder"], parts["transformer"]) if target.is_denoiser]
    )
    made = AdapterNetwork.attach(
        Lora(), {"transformer": parts["transformer"]}, [choice.target for choice in selection.choices],
        network=config.network, selection=selection, log=lambda _: None,
    )  # fmt: skip
    path = tmp_path / "start.safetensors"
    write_lora(path, file_tensors(made, family_named("flux").spec, key_format)[0], {}, "float", lambda _: None)
    run = RunConfig().changed(
        flux=flux, network={**network, "network_weights": str(path), "network_train_unet_only": True}
    )
    if not sentence:
        check_start(run, family_named("flux"))
        return
    with pytest.raises(LoraSmithError, match=sentence):
        check_start(run, family_named("flux"))
