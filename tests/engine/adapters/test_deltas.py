"""ΔW of each kind of adapter, compared with peft's own layers and with the formulas written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from engine.adapters.kinds.base import Parts, Weight
from engine.adapters.kinds.registry import kind_named

OUT, IN = 12, 8


def delta(kind: str, parts: Parts, weight: Weight, shape: tuple[int, ...]) -> Tensor:
    return kind_named(kind).delta(parts, weight).reshape(shape)


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def no_weight() -> Tensor:
    raise AssertionError("this kind does not need the weight")


def peft_layer(config: Any, layer: nn.Module) -> Any:
    """peft's layer around `layer`, with no factor that is zero."""
    root = nn.ModuleDict({"layer": layer})
    inject_adapter_in_model(config, root)
    result = root["layer"]
    for number, (name, parameter) in enumerate(result.named_parameters()):
        if "base_layer" not in name:
            parameter.data = values(*parameter.shape, seed=number)
    return result


def parts_of(layer: Any, alpha: float, **names: str) -> dict[str, Tensor]:
    """peft's factors by what they are for here."""
    tensors = {role: getattr(layer, name)["default"] for role, name in names.items() if "default" in
               getattr(layer, name)}  # fmt: skip
    return {role: tensor.detach() for role, tensor in tensors.items()} | {"alpha": torch.tensor(alpha)}


@pytest.mark.parametrize("layer", [nn.Linear(IN, OUT), nn.Conv2d(IN, OUT, 3)], ids=["linear", "conv"])
def test_loha_is_pefts(layer: nn.Module) -> None:
    config = LoHaConfig(r=4, alpha=2, target_modules=["layer"])
    peft = peft_layer(config, layer)
    names = {name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")}
    parts = parts_of(peft, 2.0, **names)
    torch.testing.assert_close(
        delta("LoHa", parts, no_weight, tuple(layer.weight.shape)), peft.get_delta_weight("default")
    )


def test_loha_with_tucker_is_pefts() -> None:
    layer = nn.Conv2d(IN, OUT, 3)
    peft = peft_layer(LoHaConfig(r=4, alpha=2, target_modules=["layer"], use_effective_conv2d=True), layer)
    names = {name: name for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")}
    parts = parts_of(peft, 2.0, **names)
    assert "hada_t1" in parts
    torch.testing.assert_close(delta("LoHa", parts, no_weight, (OUT, IN, 3, 3)), peft.get_delta_weight("default"))


@pytest.mark.parametrize(
    ("layer", "options"),
    [
        (nn.Linear(64, 64), {"r": 2}),
        (nn.Linear(64, 64), {"r": 2, "decompose_both": True}),
        (nn.Conv2d(64, 64, 3), {"r": 2}),
        (nn.Conv2d(64, 64, 3), {"r": 2, "use_effective_conv2d": True}),
    ],
    ids=["linear", "both factored", "conv", "tucker"],
)
def test_lokr_is_pefts(layer: nn.Module, options: dict[str, Any]) -> None:
    peft = peft_layer(LoKrConfig(alpha=3, target_modules=["layer"], **options), layer)
    names = {name: name for name in
             ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")}  # fmt: skip
    parts = parts_of(peft, 3.0, **names)
    assert ("lokr_t2" in parts) == ("use_effective_conv2d" in options)
    torch.testing.assert_close(
        delta("LoKr", parts, no_weight, tuple(layer.weight.shape)), peft.get_delta_weight("default")
    )


def test_lokr_of_full_factors_has_no_scale() -> None:
    first, second = values(3, 2), values(4, 4)
    parts = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(99.0)}
    result = delta("LoKr", parts, no_weight, (OUT, IN))
    torch.testing.assert_close(result, torch.kron(first, second))
    assert result[4 + 1, 4 + 2] == first[1, 1] * second[1, 2]


def test_dora_for_outputs_is_pefts() -> None:
    layer = nn.Linear(IN, OUT, bias=False)
    peft = peft_layer(LoraConfig(r=4, lora_alpha=2, target_modules=["layer"], use_dora=True), layer)
    magnitude = peft.lora_magnitude_vector["default"].weight.detach()
    parts = {"down": peft.lora_A["default"].weight.detach(), "up": peft.lora_B["default"].weight.detach(),
             "alpha": torch.tensor(2.0)}  # fmt: skip
    x = values(5, IN)
    for shape in ((OUT,), (OUT, 1)):
        result = delta("DoRA", {**parts, "magnitude": magnitude.reshape(shape)}, lambda: layer.weight, (OUT, IN))
        torch.testing.assert_close(x @ (layer.weight + result).T, peft(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(OUT, IN), (OUT, IN, 3, 3)])
def test_dora_for_inputs_gives_the_columns_their_lengths(shape: tuple[int, ...]) -> None:
    weight, lengths = values(*shape), values(IN).abs() + 0.5
    parts = {"down": values(2, *shape[1:]), "up": values(OUT, 2, *(1 for _ in shape[2:])),
             "magnitude": lengths.reshape(1, IN, *(1 for _ in shape[2:]))}  # fmt: skip
    merged = weight + delta("DoRA", parts, lambda: weight, shape)
    torch.testing.assert_close(merged.transpose(0, 1).flatten(1).norm(dim=1), lengths)
    plain = weight + delta("LoRA", {key: parts[key] for key in ("down", "up")}, no_weight, shape)
    cosine = nn.functional.cosine_similarity(merged.transpose(0, 1).flatten(1), plain.transpose(0, 1).flatten(1), dim=1)
    torch.testing.assert_close(cosine, torch.ones(IN))


def test_dora_on_a_lokr() -> None:
    weight, lengths = values(OUT, IN), values(OUT).abs() + 0.5
    parts = {"lokr_w1": values(3, 2), "lokr_w2": values(4, 4), "magnitude": lengths.reshape(OUT, 1)}
    merged = weight + delta("LoKr with DoRA", parts, lambda: weight, (OUT, IN))
    torch.testing.assert_close(merged.norm(dim=1), lengths)


def test_a_lora_is_scaled_by_alpha_or_by_scale_or_not_at_all() -> None:
    down, up = values(4, IN), values(OUT, 4)
    full = up @ down
    for more, factor in (({}, 1.0), ({"alpha": torch.tensor(2.0)}, 0.5),
                         ({"alpha": torch.tensor(2.0), "scale": torch.tensor(3.0)}, 3.0)):  # fmt: skip
        parts = {"down": down, "up": up, **more}
        torch.testing.assert_close(delta("LoRA", parts, no_weight, (OUT, IN)), full * factor)


def test_tucker_is_three_convolutions_in_a_row() -> None:
    down, mid, up = values(2, IN, 1, 1), values(3, 2, 3, 3), values(OUT, 3, 1, 1)
    result = delta("LoRA with Tucker decomposition", {"down": down, "mid": mid, "up": up}, no_weight, (OUT, IN, 3, 3))
    x = values(1, IN, 6, 6)
    rows = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(x, down), mid), up)
    torch.testing.assert_close(nn.functional.conv2d(x, result), rows, rtol=1e-4, atol=1e-4)


def test_ia3_on_inputs_and_on_outputs() -> None:
    weight = values(OUT, IN)
    for count, on_input in ((IN, True), (OUT, False)):
        factors = values(count)
        parts = {"weight": factors, "on_input": torch.tensor(on_input)}
        merged = weight + delta("(IA)³", parts, lambda: weight, (OUT, IN))
        scaled = weight * (1 + factors if on_input else (1 + factors).reshape(-1, 1))
        torch.testing.assert_close(merged, scaled)


def test_glora_and_a_full_difference() -> None:
    weight, rank = values(OUT, IN), 3
    parts = {"glora_a1": values(IN, rank), "glora_a2": values(rank, IN), "glora_b1": values(OUT, rank),
             "glora_b2": values(rank, IN), "alpha": torch.tensor(6.0)}  # fmt: skip
    result = delta("GLoRA", parts, lambda: weight, (OUT, IN))
    expected = weight @ parts["glora_a1"] @ parts["glora_a2"] + parts["glora_b1"] @ parts["glora_b2"]
    torch.testing.assert_close(result, 2 * expected)
    assert torch.equal(delta("full difference", {"diff": weight}, no_weight, (OUT, IN)), weight)
