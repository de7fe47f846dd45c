"""Layers of every kind but LoRA: fused layers, dropouts, number formats, what a backward pass keeps, files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from engine.adapters.adapted_layers import LayeredModule
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.network import AdapterNetwork
from engine.config.network import NetworkTable
from engine.estimate.worker.counter import StorageCounter, Watching
from engine.lowmem.base_precision import Quantizer
from engine.types import LoraTarget
from tests.refusals import refused

SIDE = 64
ROWS = (32, 32, 64)
KINDS: dict[str, dict[str, Any]] = {
    "loha": {},
    "lokr": {"factor": 4},
    "lokr of uneven rows": {"algo": "lokr", "factor": 3, "full_matrix": True},
    "lokr with a scalar": {"algo": "lokr", "use_scalar": True},
    "lora with a scalar": {"algo": "lora", "use_scalar": True},
    "dora": {"algo": "lora", "dora_wd": True},
    "dora by outputs": {"algo": "lora", "dora_wd": True, "wd_on_output": True},
    "dora of a loha with a scalar": {"algo": "loha", "dora_wd": True, "use_scalar": True},
    "dora of a lokr": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "glora": {},
    "full": {},
    "diag-oft": {"constraint": 0.05, "rescaled": True},
    "boft": {"network_dim": 8},
    "ia3": {},
}
"""Names, and settings; the name is the algo where these have none."""


def table(kind: str, **more: Any) -> NetworkTable:
    values = {"network_module": "lycoris.kohya", "network_dim": 4, "network_alpha": 2.0, "algo": kind, **KINDS[kind]}
    return NetworkTable.model_validate({**values, **more})


def attach(model: nn.Module, network: NetworkTable, targets: list[LoraTarget], **more: Any) -> AdapterNetwork:
    return AdapterNetwork.attach(
        trained_kind(network), {"unet": model}, targets, network=network, log=lambda _: None, **more
    )


def fill(network: AdapterNetwork, size: float = 0.2) -> None:
    """Random values, none of them zero."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            generator = torch.Generator().manual_seed(number)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)


def stack(count: int = 4, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Linear layers and what is between them."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(SIDE, SIDE), nn.Tanh()) for _ in range(count)))
    return model if dtype == torch.float32 else model.to(dtype)


def stack_targets(count: int = 4) -> list[LoraTarget]:
    return [LoraTarget("unet", f"{number}.0", f"lora_unet_{number}_to_k", "linear") for number in range(count)]


class Split(nn.Module):
    """Three layers that are one in Kohya's files."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.parts = nn.ModuleList(nn.Linear(SIDE, rows) for rows in ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


class Fused(nn.Module):
    """The same as one layer."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        layers: Any = split.parts
        self.layer = nn.Linear(SIDE, sum(ROWS))
        self.layer.weight.data = torch.cat([layer.weight.data for layer in layers])
        self.layer.bias.data = torch.cat([layer.bias.data for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_components_mode_is_that_of_its_adapters(kind: str) -> None:
    """`TrainState.train` sets only the components' mode."""
    model = stack()
    network = attach(model, table(kind, rank_dropout=0.0 if kind == "ia3" else 0.1), stack_targets())
    for mode in (False, True):
        model.train(mode)
        assert {part.training for layer in network._layers() for part in layer.modules()} == {mode}


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_layer_in_parts_is_the_fused_layer(kind: str) -> None:
    split = Split()
    fused, network = Fused(split), table(kind)
    name = "lora_unet_img_attn_qkv"
    group = attach(split, network, [LoraTarget("unet", "parts.0", name, "linear", ("parts.1", "parts.2"))])
    single = attach(fused, network, [LoraTarget("unet", "layer", name, "linear")])
    for each in (group, single):
        fill(each)
    assert all(torch.equal(mine, single.state()[key]) for key, mine in group.state().items())
    x = torch.randn(2, 5, SIDE)
    outputs = split(x), fused(x)
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for output in outputs:
        output.square().sum().backward()
    for mine, theirs in zip(group.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_autocast_are_close_to_float32(kind: str) -> None:
    x = torch.randn(8, SIDE, generator=torch.Generator().manual_seed(3))
    outputs, gradients = [], []
    for dtype, autocast in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
        model = stack(dtype=dtype)
        network = attach(model, table(kind), stack_targets())
        fill(network, 0.1)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(x.to(dtype))
        output.float().square().sum().backward()
        assert all(parameter.grad.dtype == torch.float32 for parameter in network.parameters())
        outputs.append(output.float())
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in network.parameters()]))
    for number in (1, 2):
        torch.testing.assert_close(outputs[number], outputs[0], rtol=0.1, atol=0.1)
        assert torch.cosine_similarity(gradients[number], gradients[0], dim=0) > 0.98


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_base_keeps_its_codes_and_gets_no_gradient(kind: str) -> None:
    exact, rounded = stack(), stack()
    Quantizer(rounded, "int8", torch.device("cpu"), [""]).quantize_all()
    x = torch.randn(8, SIDE, generator=torch.Generator().manual_seed(3))
    outputs = []
    for model in (exact, rounded):
        network = attach(model, table(kind), stack_targets())
        fill(network, 0.1)
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
        base = [value for name, value in model.named_parameters() if ".base_layer." in name]
        assert base and all(value.grad is None for value in base)
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", ["lokr", "glora"])
def test_a_compiled_block_computes_the_same(kind: str) -> None:
    model = stack(1)
    network = attach(model, table(kind), stack_targets(1))
    fill(network)
    x, outputs, gradients = torch.randn(3, SIDE), [], []
    for compiled in (False, True):
        if compiled:
            model[0].compile(backend="eager", dynamic=False)
        outputs.append(model(x))
        outputs[-1].square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
        for parameter in network.parameters():
            parameter.grad = None
    torch._dynamo.reset()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def measured(step: Callable[[], object]) -> int:
    """The most bytes that torch's allocator had given out at once, by the events of its profiler."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]  # type: ignore[union-attr]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def planned(step: Callable[[], object]) -> int:
    """The same for tensors without memory, as a plan counts them."""
    counter = StorageCounter("cpu")
    with FakeTensorMode(), Watching(counter):
        step()
    return counter.peak


@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_counts_what_a_step_takes(kind: str) -> None:
    def step() -> None:
        model = stack()
        attach(model, table(kind), stack_targets())
        model(torch.ones(16, SIDE)).sum().backward()

    step()  # what torch keeps from a first call is no part of a step
    assert measured(step) <= planned(step) <= 1.1 * measured(step), "a plan counts blocks of 512 bytes"


@pytest.mark.parametrize("kind", KINDS)
def test_no_change_of_a_weight_is_kept_for_the_backward_pass(kind: str) -> None:
    """After the forward pass of eight layers there is less than one of them beside base, adapter and activations."""
    counter, count, samples = StorageCounter("cpu"), 8, 2
    with FakeTensorMode(), Watching(counter):
        model = stack(count)
        network = attach(model, table(kind), stack_targets(count))
        before = counter.live
        output = model(torch.ones(samples, SIDE))
        activations = 6 * count * 512
        assert counter.live - before < SIDE * SIDE * 4 + activations
        output.sum().backward()
    assert network.parameters()


@pytest.mark.parametrize(("scaled", "share"), [(False, 0.5), (True, 1.0)])
@pytest.mark.parametrize("kind", ["loha", "lokr", "full"])
def test_rank_dropout_leaves_out_outputs(kind: str, scaled: bool, share: float) -> None:
    model = stack(1)
    network = attach(model, table(kind, rank_dropout=0.5, rank_dropout_scale=scaled), stack_targets(1))
    fill(network)
    x = torch.randn(3, SIDE)
    layer: Any = model[0][0]  # type: ignore[index]
    full = layer.eval()(x) - layer.base_layer(x)
    torch.manual_seed(0)
    dropped = layer.train()(x) - layer.base_layer(x)
    columns = (dropped.abs() > 1e-6).any(0)
    assert 10 < columns.sum() < SIDE - 10
    factor = SIDE / columns.sum() if scaled else 1.0
    torch.testing.assert_close(dropped[:, columns], full[:, columns] * factor, rtol=1e-4, atol=1e-5)


def test_module_dropout_skips_all_layers_of_a_module() -> None:
    split = Split()
    target = LoraTarget("unet", "parts.0", "lora_unet_img_attn_qkv", "linear", ("parts.1", "parts.2"))
    network = attach(split, table("loha", module_dropout=0.5), [target])
    fill(network)
    x = torch.randn(2, SIDE)
    layers: Any = split.parts
    base = torch.cat([layer.base_layer(x) for layer in layers], dim=-1)
    torch.manual_seed(0)
    skipped = [torch.equal(split.train()(x), base) for _ in range(20)]
    changed = [bool((split(x) - base).abs().amin(0).gt(0).all()) for _ in range(20)]
    assert 0 < sum(skipped) < 20 and 0 < sum(changed) < 20
    assert not torch.equal(split.eval()(x), base)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_loaded_exactly_and_a_scalar_becomes_1(kind: str) -> None:
    first, second = stack(2), stack(2)
    source = attach(first, table(kind), stack_targets(2))
    fill(source)
    state = source.state()
    again = attach(second, table(kind), stack_targets(2), weights=state)
    assert again.state().keys() == state.keys()
    x = torch.randn(3, SIDE)
    torch.testing.assert_close(second(x), first(x))
    if "constraint" not in KINDS[kind]:  # blocks at their limit are scaled by a factor that is 1 but for rounding
        assert all(torch.equal(tensor, state[key]) for key, tensor in again.state().items())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("full", "ia3")])
def test_sizes_can_be_those_of_a_file(kind: str) -> None:
    """Whatever the settings are: with dim_from_weights each module has the shapes of the file's."""
    source = attach(stack(2), table(kind, network_dim=8), stack_targets(2))
    fill(source)
    name = "lora_unet_0_to_k"
    weights = {key: tensor for key, tensor in source.state().items() if key.startswith(name)}
    same = {key: getattr(table(kind), key) for key in ("algo", "use_scalar", "dora_wd", "wd_on_output")}
    settings = {**same, "dim_from_weights": True}
    network = NetworkTable.model_validate({"network_module": "lycoris.kohya", "network_dim": 2, **settings})
    made = attach(stack(2), network, stack_targets(2), weights=weights)
    assert [module.target.kohya_name for module in made.modules] == [name]
    assert all(torch.equal(tensor, weights[key]) for key, tensor in made.state().items())


def test_a_file_of_other_sizes_or_layers_is_refused() -> None:
    state = attach(stack(1), table("loha", network_dim=8), stack_targets(1)).state()
    with refused("lora-wrong-shape", "hada_w1_a", [64, 8]):
        attach(stack(1), table("loha"), stack_targets(1), weights=state)
    with refused("lora-without-modules"):
        attach(stack(1), table("lokr", dim_from_weights=True), stack_targets(1), weights={
            "lora_unet_x.lokr_w1": torch.ones(2, 2), "lora_unet_x.lokr_w2": torch.ones(2, 2)})  # fmt: skip


def test_layers_that_a_kind_cannot_have_are_refused() -> None:
    with refused("boft-not-divisible", "blocks of 4", "20 outputs") as caught:
        attach(nn.Sequential(nn.Linear(8, 20)), table("boft", network_dim=4), [LoraTarget("unet", "0", "x", "linear")])
    assert "Set network_dim and conv_dim to 10 or more" in str(caught.value.hint)
    with refused("nothing-trained", "(IA)³"):
        attach(stack(1), table("ia3"), [LoraTarget("unet", "0.0", "lora_unet_proj_in", "linear")])


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_the_norm_is_kept(kind: str) -> None:
    network = attach(stack(3), table(kind), stack_targets(3))
    fill(network, 0.5)
    scaled, mean, largest = network.apply_max_norm(0.1)
    assert scaled == 3 and mean == pytest.approx(0.1) and largest == pytest.approx(0.1)
    for module in network.modules:
        assert isinstance(module, LayeredModule)
        assert module.squared_norm().sqrt().item() <= 0.1001
    assert network.apply_max_norm(0.2)[0] == 0
