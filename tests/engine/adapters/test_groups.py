"""A LoRA on layers that are one in Kohya's files is the fused layer's: outputs, gradients, dropouts, files, merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from torch import nn

from engine.adapters.joined import merge_pairs, merge_parts
from engine.adapters.kinds.lora import Lora
from engine.adapters.kohya_format import write_lora
from engine.adapters.network import AdapterNetwork
from engine.adapters.start_tensors import start_tensors
from engine.adapters.verify import verify_file
from engine.config.schema import NetworkTable
from engine.families.flux.reader import FluxReader
from engine.families.flux.targets import lora_targets
from engine.types import LoraTarget
from tests.refusals import refused
from tests.tiny_flux import tiny_parts

ROWS = (6, 6, 6, 10)


class Split(nn.Module):
    """Four layers with one input, as diffusers has FLUX's linear1."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(8, rows) for rows in ROWS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The last first, as in a single block.
        last, *others = [self.parts[number](x) for number in (3, 0, 1, 2)]
        return torch.cat([*others, last], dim=-1)


class Fused(nn.Module):
    """The same as one layer, as Kohya has it."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.linear1 = nn.Linear(8, sum(ROWS))
        layers: Any = split.parts
        self.linear1.weight.data = torch.cat([layer.weight.data for layer in layers])
        self.linear1.bias.data = torch.cat([layer.bias.data for layer in layers])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear1(x)


GROUP = LoraTarget("transformer", "parts.0", "lora_unet_linear1", "linear", ("parts.1", "parts.2", "parts.3"))
FUSED = LoraTarget("transformer", "linear1", "lora_unet_linear1", "linear")


def attach(module: nn.Module, target: LoraTarget, **network: object) -> AdapterNetwork:
    table = NetworkTable.model_validate({"network_dim": 3, "network_alpha": 2.0, **network})
    return AdapterNetwork.attach(
        Lora(), {"transformer": module}, [target], network=table, generator_seed=4, log=lambda _: None
    )


def twins(**network: object) -> tuple[Split, AdapterNetwork, Fused, AdapterNetwork]:
    torch.manual_seed(0)
    split = Split()
    fused = Fused(split)
    group, single = attach(split, GROUP, **network), attach(fused, FUSED, **network)
    tensors = {key: torch.randn(tensor.shape) for key, tensor in single.state().items() if tensor.ndim}
    for part in (group, single):
        part.load({**tensors, "lora_unet_linear1.alpha": torch.tensor(2.0)}, lambda _: None)
    return split, group, fused, single


def test_outputs_gradients_and_files_are_those_of_the_fused_layer() -> None:
    split, group, fused, single = twins()
    x = torch.randn(2, 5, 8)
    outputs = split(x), fused(x)
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    (module,), (joined,) = group.modules, single.modules
    assert module.down.grad is not None
    torch.testing.assert_close(module.down.grad, joined.down.grad, rtol=1e-5, atol=1e-3)
    rows = torch.cat([up.grad for up in module.ups if up.grad is not None])
    torch.testing.assert_close(rows, joined.ups[0].grad, rtol=1e-5, atol=1e-3)
    assert len(module.ups) == 4
    assert len(group.parameters()) == len(set(map(id, group.parameters()))) == 5
    assert sum(p.numel() for p in group.parameters()) == sum(p.numel() for p in single.parameters())
    assert [tuple(tensor.shape) for tensor in group.state().values()] == [(3, 8), (28, 3), ()]
    for mine, theirs in zip(group.state().values(), single.state().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_new_group_begins_as_the_fused_layer() -> None:
    torch.manual_seed(0)
    split = Split()
    group, single = attach(split, GROUP), attach(Fused(split), FUSED)
    for mine, theirs in zip(group.state().values(), single.state().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dropout", ["network_dropout", "rank_dropout", "module_dropout"])
def test_dropouts_are_drawn_once_for_the_group(dropout: str) -> None:
    split, group, fused, single = twins(**{dropout: 0.5})
    group.train()
    single.train()
    changed = 0
    for seed in range(8):
        x = torch.randn(2, 5, 8)
        torch.manual_seed(seed)
        mine = split(x)
        torch.manual_seed(seed)
        torch.testing.assert_close(mine, fused(x))
        group.train(False)
        changed += int(not torch.allclose(mine, split(x)))
        group.train(True)
    assert changed >= 1


def test_the_norm_counts_all_rows() -> None:
    _, group, _, single = twins()
    assert group.apply_max_norm(1.0) == pytest.approx(single.apply_max_norm(1.0))
    for mine, theirs in zip(group.state().values(), single.state().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(("count", "rank", "alpha"), [(3, 4, 2.0), (4, 2, 1.0), (3, 4, 4.0)])
def test_merged_adapters_do_what_the_separate_ones_did(count: int, rank: int, alpha: float) -> None:
    torch.manual_seed(1)
    pairs = [(torch.randn(rank, 8), torch.randn(rows, rank), alpha / rank) for rows in ROWS[:count]]
    down, up, scale = merge_pairs(pairs, ROWS[:count])
    x = torch.randn(5, 8)
    separate = torch.cat([x @ a.T @ b.T * (alpha / rank) for a, b, _ in pairs], dim=-1)
    torch.testing.assert_close(x @ down.T @ up.T * scale, separate)
    assert len(down) == count * rank
    assert scale * len(down) == pytest.approx(count * alpha)  # 3 alpha, 4 alpha


def test_merging_with_other_factors_a_shared_down_and_a_layer_without() -> None:
    torch.manual_seed(1)
    x, down = torch.randn(5, 8), torch.randn(4, 8)
    pairs = [(torch.randn(2, 8), torch.randn(6, 2), 1.0), None, (torch.randn(3, 8), torch.randn(6, 3), 0.25)]
    a, b, scale = merge_pairs(pairs, (6, 6, 6))
    parts = [torch.zeros(5, 6) if pair is None else x @ pair[0].T @ pair[1].T * pair[2] for pair in pairs]
    torch.testing.assert_close(x @ a.T @ b.T * scale, torch.cat(parts, dim=-1))
    assert a.shape == (5, 8)
    shared = [(down, torch.randn(6, 4), 0.5), (down.clone(), torch.randn(6, 4), 0.5), None]
    a, b, scale = merge_pairs(shared, (6, 6, 6))
    assert (a.shape, b.shape, scale) == ((4, 8), (18, 4), 0.5)
    assert not b[12:].any()


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return tiny_parts(blocks=(2, 2))


def network_of(parts: dict[str, Any], **network: object) -> AdapterNetwork:
    trainable = {name: parts[name] for name in ("text_encoder", "transformer")}
    targets = lora_targets(parts["text_encoder"], parts["transformer"])
    table = NetworkTable.model_validate({"network_dim": 4, "network_alpha": 2.0, **network})
    network = AdapterNetwork.attach(Lora(), trainable, targets, network=table, folds_alpha=True, log=lambda _: None)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


@pytest.mark.parametrize("precision", ["float", "fp16", "bf16"])
def test_a_flux_file_passes_the_check(tmp_path: Any, precision: Any) -> None:
    parts = tiny_parts(blocks=(2, 2))
    network = network_of(parts, network_alpha=1.7)
    components = {name: parts[name] for name in ("text_encoder", "transformer")}
    path = tmp_path / "x.safetensors"
    write_lora(path, network.state(), {}, precision, lambda _: None)
    difference = verify_file(path, network, components, FluxReader())
    assert difference is not None
    assert difference < 0.02


def test_a_wrong_flux_file_does_not(tmp_path: Any) -> None:
    parts = tiny_parts(blocks=(1, 1))
    network = network_of(parts)
    components = {name: parts[name] for name in ("text_encoder", "transformer")}
    for key, change in (
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight", lambda t: t.roll(64, 0)),
        ("lora_unet_single_blocks_0_linear1.alpha", lambda t: t * 2),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", lambda t: -t),
    ):
        tensors = network.state()
        tensors[key] = change(tensors[key])
        write_lora(tmp_path / "x.safetensors", tensors, {}, "float", lambda _: None)
        with refused("written-lora-wrong", "1 modules differ"):
            verify_file(tmp_path / "x.safetensors", network, components, FluxReader())


def test_alphas_of_their_own_and_zero_up_matrices_pass(tmp_path: Any) -> None:
    """diffusers' converter takes a module of zeros for a block-diagonal one, and reads each module's own alpha."""
    parts = tiny_parts(blocks=(1, 1))
    network = network_of(parts)
    assert network.misread_by_diffusers() == []
    for number, module in enumerate(network.modules):
        module.set_alpha(1.0 + number % 3)
        with torch.no_grad():
            for up in module.ups if number % 2 else []:
                up.zero_()
    components = {name: parts[name] for name in ("text_encoder", "transformer")}
    write_lora(tmp_path / "x.safetensors", network.state(), {}, "float", lambda _: None)
    assert verify_file(tmp_path / "x.safetensors", network, components, FluxReader()) is not None


def peft_file(transformer: Any, rank: int, alpha: int, leave_out: str = "") -> dict[str, torch.Tensor]:
    """A LoRA that peft put on every layer that Kohya's groups have, in diffusers' names."""
    names = [name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)]
    chosen = [name for name in names if "blocks." in name and not (leave_out and leave_out in name)]
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=chosen, init_lora_weights=False)
    inject_adapter_in_model(config, transformer)
    return {f"transformer.{key}": value for key, value in get_peft_model_state_dict(transformer).items()}


def velocity(transformer: Any) -> torch.Tensor:
    return FluxReader().denoise({"transformer": transformer})


@pytest.mark.parametrize("leave_out", ["", "proj_mlp"])
def test_a_peft_lora_begins_with_its_effect(leave_out: str, tmp_path: Path) -> None:
    theirs, mine = tiny_parts(blocks=(1, 1))["transformer"], tiny_parts(blocks=(1, 1))
    torch.manual_seed(2)
    tensors = peft_file(theirs, rank=4, alpha=2, leave_out=leave_out)
    targets = lora_targets(mine["text_encoder"], mine["transformer"])
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})}
    messages: list[str] = []
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "x.safetensors", metadata)
    weights = start_tensors(tmp_path / "x.safetensors", Lora(), "FLUX", targets, mine, messages.append)
    assert messages == []
    assert weights["lora_unet_double_blocks_0_img_attn_qkv.alpha"] == 3 * 2
    assert weights["lora_unet_single_blocks_0_linear1.alpha"] == (3 if leave_out else 4) * 2
    assert weights["lora_unet_double_blocks_0_img_mlp_0.alpha"] == 2
    before = velocity(mine["transformer"])
    AdapterNetwork.attach(
        Lora(),
        {"transformer": mine["transformer"]},
        [target for target in targets if target.component == "transformer"],
        network=NetworkTable(dim_from_weights=True, network_weights="x"),
        weights=weights,
        log=messages.append,
    )
    torch.testing.assert_close(velocity(mine["transformer"]), velocity(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(velocity(mine["transformer"]), before, atol=1e-3)


def test_a_lora_of_layers_that_the_model_lacks_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    targets = lora_targets(parts["text_encoder"], parts["transformer"])
    name = "transformer.transformer_blocks.9.attn.to_out.0"
    pair = {f"{name}.lora_A.weight": torch.ones(1, 2), f"{name}.lora_B.weight": torch.ones(2, 1)}
    save_file(pair, tmp_path / "x.safetensors")
    with refused("lora-without-modules", name):
        start_tensors(tmp_path / "x.safetensors", Lora(), "FLUX", targets, parts, lambda _: None)


def test_a_part_of_another_width_is_refused(parts: dict[str, Any], tmp_path: Path) -> None:
    targets = lora_targets(parts["text_encoder"], parts["transformer"])
    name = "transformer.transformer_blocks.0.attn"
    tensors = {f"{name}.{end}.lora_A.weight": torch.rand(1, 64) for end in ("to_q", "to_k")}
    tensors |= {f"{name}.{end}.lora_B.weight": torch.ones(32, 1) for end in ("to_q", "to_k")}
    save_file(tensors, tmp_path / "x.safetensors")
    with refused("lora-wrong-shape", "lora_unet_double_blocks_0_img_attn_qkv"):
        start_tensors(tmp_path / "x.safetensors", Lora(), "FLUX", targets, parts, lambda _: None)


def test_a_lora_of_several_layers_is_joined_with_one_of_the_last() -> None:
    """As in XLabs' single blocks, whose LoRA of query, key and value has no rows for the MLP."""
    generator = torch.Generator().manual_seed(0)
    first = (torch.randn(2, 8, generator=generator), torch.randn(18, 2, generator=generator), 0.5)
    last = (torch.randn(3, 8, generator=generator), torch.randn(4, 3, generator=generator), 1.0)
    down, up, scale = merge_parts({0: (3, first)}, (6, 6, 6, 4))
    assert torch.equal(down, first[0]) and torch.equal(up[:18], first[1]) and not up[18:].any() and scale == 0.5
    down, up, scale = merge_parts({0: (3, first), 3: (1, last)}, (6, 6, 6, 4))
    expected = torch.cat([first[1] @ first[0] * 0.5, last[1] @ last[0]])
    torch.testing.assert_close(up @ down * scale, expected, rtol=1e-5, atol=1e-6)
