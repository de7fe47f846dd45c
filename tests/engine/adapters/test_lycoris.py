"""The kinds of LyCORIS compared with LyCORIS 4.1.3: from the same values its modules give the same outputs and
gradients, and it reads what is saved here.

Both compute in float32; the tolerances are those of sums in another order.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lycoris.functional import factorization as their_factorization
from lycoris.functional.general import power2factorization
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from torch import Tensor, nn

from engine.adapters.adapted_layers import LayeredModule
from engine.adapters.kinds.factorization import butterfly_factorization, factorization
from engine.adapters.kinds.registry import trained_kind
from engine.adapters.network import AdapterNetwork
from engine.config.network import NetworkTable
from engine.types import LoraTarget

OUTPUTS = {"rtol": 1e-4, "atol": 1e-5}
GRADIENTS = {"rtol": 1e-3, "atol": 1e-4}
LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "conv1x1": lambda: nn.Conv2d(24, 40, 1),
    "conv3x3": lambda: nn.Conv2d(24, 40, 3, stride=2, padding=1),
}
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "loha": (LohaModule, "loha", {}),
    "loha tucker": (LohaModule, "loha", {"use_tucker": True}),
    "loha scalar": (LohaModule, "loha", {"use_scalar": True}),
    "lokr": (LokrModule, "lokr", {}),
    "lokr factor": (LokrModule, "lokr", {"factor": 4}),
    "lokr full": (LokrModule, "lokr", {"factor": 2, "full_matrix": True}),
    "lokr both": (LokrModule, "lokr", {"factor": 8, "decompose_both": True, "network_dim": 2}),
    "lokr tucker": (LokrModule, "lokr", {"use_tucker": True, "factor": 2}),
    "lokr unbalanced": (LokrModule, "lokr", {"unbalanced_factorization": True, "factor": 4}),
    "lokr scalar": (LokrModule, "lokr", {"use_scalar": True, "factor": 2}),
    "locon tucker": (LoConModule, "lora", {"use_tucker": True}),
    "locon scalar": (LoConModule, "lora", {"use_scalar": True}),
    "dora": (LoConModule, "lora", {"dora_wd": True}),
    "dora by outputs": (LoConModule, "lora", {"dora_wd": True, "wd_on_output": True}),
    "dora tucker": (LoConModule, "lora", {"dora_wd": True, "use_tucker": True}),
    "dora scalar": (LoConModule, "lora", {"dora_wd": True, "use_scalar": True, "rs_lora": True}),
    "dora loha": (LohaModule, "loha", {"dora_wd": True}),
    "dora lokr": (LokrModule, "lokr", {"dora_wd": True, "factor": 4}),
    "dora lokr full by outputs": (LokrModule, "lokr", {"dora_wd": True, "wd_on_output": True, "full_matrix": True}),
    "rslora loha": (LohaModule, "loha", {"rs_lora": True}),
    "rslora lokr": (LokrModule, "lokr", {"rs_lora": True, "factor": 4}),
    "rslora glora": (GLoRAModule, "glora", {"rs_lora": True}),
    "glora": (GLoRAModule, "glora", {}),
    "glora scalar": (GLoRAModule, "glora", {"use_scalar": True}),
    "full": (FullModule, "full", {}),
    "oft": (DiagOFTModule, "diag-oft", {}),
    "oft limited": (DiagOFTModule, "diag-oft", {"constraint": 0.01}),
    "oft rescaled": (DiagOFTModule, "diag-oft", {"rescaled": True, "constraint": 0.01}),
    "boft": (ButterflyOFTModule, "boft", {"network_dim": 10}),
    "boft rescaled": (ButterflyOFTModule, "boft", {"network_dim": 12, "rescaled": True, "constraint": 0.02}),
    "ia3": (IA3Module, "ia3", {}),
}
THEIRS = {"weight": "weight", **{f"glora_{end}": f"{end}.weight" for end in ("a1", "a2", "b1", "b2")},
          "magnitude": "dora_scale", "down": "lora_down.weight", "mid": "lora_mid.weight", "up": "lora_up.weight",
          "diff": "weight", "diff_b": "bias"}  # fmt: skip
"""Roles of tensors to the names of their parameters, where these differ."""


def adapted(layer: nn.Module, settings: dict[str, Any], name: str = "lora_unet_x_to_k") -> tuple[nn.Module, Any]:
    """A model of this one layer, with an adapter of ours."""
    network = NetworkTable.model_validate(
        {"network_module": "lycoris.kohya", "network_dim": 4, "network_alpha": 2.0, **settings}
    )
    kind = {nn.Linear: "linear", nn.GroupNorm: "norm", nn.LayerNorm: "norm"}.get(type(layer))
    kind = kind or ("conv1x1" if layer.kernel_size == (1, 1) else "conv3x3")
    root = nn.ModuleDict({"layer": layer})
    target: Any = LoraTarget("unet", "layer", name, kind)
    made = AdapterNetwork.attach(trained_kind(network), {"unet": root}, [target], network=network, log=lambda _: None)
    (module,) = made.modules
    return root, module


def theirs_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of their modules."""
    own = {key: value for key, value in settings.items() if key not in ("network_dim", "dora_wd", "wd_on_output")}
    if "dora_wd" in settings:
        own |= {"weight_decompose": True, "wd_on_out": "wd_on_output" in settings}
    return own


def values_of(module: LayeredModule, seed: int = 0) -> None:
    """Random values, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def their_parameter(module: nn.Module, role: str) -> nn.Parameter:
    parameters = dict(module.named_parameters())
    return parameters[role] if role in parameters else parameters[THEIRS[role]]


def inputs(layer: nn.Module) -> Tensor:
    shape = (3, 5, 24) if isinstance(layer, nn.Linear) else (2, 24, 6, 6)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_those_of_lycoris(case: str, layer: str) -> None:
    build, algo, settings = CASES[case]
    torch.manual_seed(3)
    base, ours = LAYERS[layer](), LAYERS[layer]()
    ours.load_state_dict(base.state_dict())
    base.requires_grad_(False)
    own = theirs_of(settings)
    rank = settings.get("network_dim", 4)
    theirs = build("x", base, lora_dim=rank, alpha=2.0, **own)
    root, module = adapted(ours, {"algo": algo, **settings})
    values_of(module)
    layer_of_ours = module.layers[0]
    adapter, offsets = layer_of_ours.adapter, layer_of_ours.group.offsets
    with torch.no_grad():
        for role, parameter in adapter.items():
            value = parameter if role != "rescale" else 1 + parameter
            value = value + offsets[role] if role in offsets else value
            their_parameter(theirs, role).copy_(value.reshape(their_parameter(theirs, role).shape))
    x, y = inputs(base), inputs(base)
    mine, their = root["layer"](x), theirs(y)
    torch.testing.assert_close(mine, their, **OUTPUTS)
    assert (mine - base(x)).abs().max() > 1e-3, "the adapter has an effect"
    weights = torch.randn(mine.shape, generator=torch.Generator().manual_seed(2))
    for output in (mine, their):
        (output * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, **GRADIENTS)
    for role, parameter in adapter.items():
        expected = their_parameter(theirs, role).grad
        torch.testing.assert_close(parameter.grad, expected.reshape(parameter.shape), **GRADIENTS, msg=role)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("case", CASES)
def test_lycoris_reads_what_is_saved(case: str, layer: str) -> None:
    """Our tensors, in a module that knows only what they show. (It cannot rebuild every module from its tensors itself:
    it forgets on_input of an (IA)³, and takes a kernel of a LoKr for inputs.)"""
    build, algo, settings = CASES[case]
    torch.manual_seed(3)
    base, ours = LAYERS[layer](), LAYERS[layer]()
    ours.load_state_dict(base.state_dict())
    root, module = adapted(ours, {"algo": algo, **settings})
    values_of(module)
    tensors = module.state()
    hidden = ("network_dim", "use_scalar", "constraint", "rs_lora")
    shown = {key: value for key, value in theirs_of(settings).items() if key not in hidden}
    alpha = float(tensors.get("alpha", torch.ones(())))
    theirs = build("x", base, lora_dim=settings.get("network_dim", 4), alpha=alpha,
                   constraint=alpha if "oft" in case else 0, **shown)  # fmt: skip
    missing = theirs.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys and {key for key in missing.missing_keys if key != "scalar"} == set()
    with torch.no_grad():
        torch.testing.assert_close(root["layer"](inputs(base)), theirs.eval()(inputs(base)), **OUTPUTS)


@pytest.mark.parametrize("layer", [nn.GroupNorm(4, 24), nn.LayerNorm(24)])
def test_a_norm_layer_is_that_of_lycoris(layer: nn.Module) -> None:
    nn.init.normal_(layer.weight)
    theirs = NormModule("x", copy.deepcopy(layer))
    root, module = adapted(layer, {"train_norm": True})
    values_of(module)
    theirs.load_state_dict(module.state(), strict=False)
    x = torch.randn(2, 24, 24)
    torch.testing.assert_close(root["layer"](x), theirs(x), **OUTPUTS)


SPLITS = {
    -1: {320: (16, 20), 640: (20, 32), 1280: (32, 40), 2048: (32, 64), 3072: (48, 64), 3840: (60, 64), 4096: (64, 64),
         6144: (64, 96), 9216: (96, 96), 10240: (80, 128), 11520: (96, 120), 127: (1, 127)},
    4: {512: (4, 128)}, 8: {3072: (8, 384)}, 16: {2048: (16, 128), 360: (15, 24)}, 1: {97: (1, 97)},
}  # fmt: skip
"""By factor and side (reference: LyCORIS 4.1.3, computed by its code)."""


@pytest.mark.parametrize(("factor", "side"), [(factor, side) for factor, sides in SPLITS.items() for side in sides])
def test_the_split_of_a_side(factor: int, side: int) -> None:
    assert factorization(side, factor) == SPLITS[factor][side] == their_factorization(side, factor)


def test_splits_are_those_of_lycoris() -> None:
    for side in range(1, 400):
        for factor in (-1, 1, 2, 3, 4, 7, 8, 16, 100):
            assert factorization(side, factor) == their_factorization(side, factor)
    for side in (96, 320, 640, 768, 1280, 3072, 9216, 97):
        for largest in (2, 4, 6, 10, 16, 24, 64):
            split = power2factorization(side, largest)
            assert butterfly_factorization(side, largest) == (split if split[1] else None)
