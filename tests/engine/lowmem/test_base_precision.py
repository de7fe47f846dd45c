"""The frozen base in fewer bits: how far it is from the plain model, what it takes, and what it leaves alone."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import T5Config, T5EncoderModel

from engine.families.unet.parts import build_unet
from engine.lowmem import base_precision
from engine.lowmem.base_precision import (
    BLOCK,
    NF4,
    QuantisedLinear,
    Quantizer,
    check_precision,
    decode_nf4_by_bitsandbytes,
)
from engine.models.loading import PartSource, TensorSource, load_part
from tests.refusals import refused
from tests.small_denoisers import BLOCKS, SMALL, _flux, small_flux, small_unet

CPU = torch.device("cpu")
BYTES = {"int8": 1 + 2 / 64, "fp8": 1 + 2 / 64, "nf4": 0.5 + 2 / 64}
"""Per weight: the code, and its share of a bf16 scale."""


def layer_of(precision: str, weight: Tensor) -> QuantisedLinear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    linear.weight.data = weight
    Quantizer(nn.ModuleDict({"mid_block": nn.Sequential(linear)}), precision, CPU, ("mid_block.",)).quantize_all()  # type: ignore[arg-type]
    assert isinstance(linear, QuantisedLinear)
    return linear


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).norm() / theirs.norm())


def joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


# Of normal weights: int8 steps are absmax / 127, their error is a uniform one; e4m3 has three bits behind the point;
# NF4's figure is that of the QLoRA paper's format (0.09 of the weights' norm).
@pytest.mark.parametrize(
    ("precision", "low", "high"), [("int8", 0.005, 0.0065), ("fp8", 0.022, 0.029), ("nf4", 0.085, 0.1)]
)
def test_error_of_the_weights(precision: str, low: float, high: float) -> None:
    weight = gaussian(256, 512) * 0.02
    assert low < relative(layer_of(precision, weight).dequantize(torch.float32), weight) < high


@pytest.mark.parametrize("precision", BYTES)
def test_edges(precision: str) -> None:
    """Zeros stay zeros, one large value does not damage other blocks, and nothing overflows."""
    weight = gaussian(4, 256) * 1e-3
    weight[0, :64] = 0.0
    weight[1, 3] = 6e4
    weight[2] = 1e-12
    weight[3] = -weight[3].abs().amax()
    decoded = layer_of(precision, weight).dequantize(torch.float32)
    assert torch.isfinite(decoded).all() and torch.equal(decoded[0, :64], torch.zeros(64))
    assert relative(decoded[1, 3], weight[1, 3]) < 5e-3
    assert relative(decoded[1, 64:], weight[1, 64:]) < 0.12, "the other blocks of the row"
    assert relative(decoded[2], weight[2]) < 5e-3 and relative(decoded[3], weight[3]) < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("precision", BYTES)
def test_decoding_in_half_precision_rounds_once_or_twice(precision: str, dtype: torch.dtype) -> None:
    layer = layer_of(precision, gaussian(64, 256) * 1e-3)
    exact, decoded = layer.dequantize(torch.float32), layer.dequantize(dtype)
    assert decoded.dtype == dtype and decoded.shape == (64, 256) and decoded.is_contiguous()
    assert relative(decoded.float(), exact) < torch.finfo(dtype).eps


def test_nf4_is_bitsandbytes_nf4() -> None:
    """The layout and the levels are those that its kernel decodes."""
    pytest.importorskip("bitsandbytes")
    layer = layer_of("nf4", gaussian(128, 256))
    for dtype in (torch.float32, torch.bfloat16):
        theirs = decode_nf4_by_bitsandbytes(layer.weight, layer.scales, dtype)
        assert theirs.shape == (128, 256) and theirs.dtype == dtype
        assert relative(theirs.float(), layer.dequantize(dtype).float()) < torch.finfo(dtype).eps


def test_nf4_takes_the_nearest_level() -> None:
    levels = torch.tensor(NF4)
    values = torch.linspace(-1, 1, BLOCK)  # the largest is 1: the scale is 1
    decoded = layer_of("nf4", values.repeat(2, 1)).dequantize(torch.float32)[0]
    nearest = levels[(values[:, None] - levels).abs().argmin(1)]
    assert torch.equal(decoded, nearest)


# Measured: loss 2e-4, 8e-4, 7e-4 (FLUX) and 3e-5, 6e-4, 4e-3 (U-Net) of its value; gradients 0.005, 0.03, 0.09 to 0.11.
@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.01), ("fp8", 0.05), ("nf4", 0.16)])
@pytest.mark.parametrize("kind", SMALL)
def test_against_the_plain_model(kind: str, precision: str, tolerance: float) -> None:
    plain, coded = SMALL[kind]().climb(), SMALL[kind]().climb(base_precision=precision)
    assert relative(coded.predict().detach(), plain.predict().detach()) < tolerance
    (loss, gradients), (expected, expected_gradients) = coded.step(), plain.step()
    assert abs(loss - expected) < tolerance * expected
    assert relative(joined(gradients), joined(expected_gradients)) < tolerance


@pytest.mark.parametrize("precision", BYTES)
def test_gradients_are_those_of_the_decoded_weights(precision: str) -> None:
    """Exactly a plain model whose weights are the decoded ones."""
    coded = small_flux().climb(base_precision=precision)
    plain = small_flux()
    with torch.no_grad():
        sources = dict(coded.denoiser.named_modules())
        for path, layer in plain.denoiser.named_modules():
            source = sources.get(f"{path}.base_layer")
            if isinstance(source, QuantisedLinear):
                layer.weight.copy_(source.dequantize(torch.float32))
    plain.climb()
    (loss, gradients), (expected, expected_gradients) = coded.step(), plain.step()
    assert loss == expected
    assert all(torch.equal(first, second) for first, second in zip(gradients, expected_gradients, strict=True))


def test_in_bf16_under_autocast() -> None:
    """int8 in bf16 is no further from fp32 than the plain model in bf16, twice over."""
    exact = small_flux().climb().step()[1]
    plain = relative(joined(small_flux(torch.bfloat16).climb().step()[1]), joined(exact))
    coded = relative(joined(small_flux(torch.bfloat16).climb(base_precision="int8").step()[1]), joined(exact))
    assert coded < 2 * plain


@pytest.mark.parametrize("precision", BYTES)
def test_what_is_coded_and_what_it_takes(precision: str) -> None:
    small = small_flux(torch.bfloat16)
    others = {name: tensor.clone() for name, tensor in small.denoiser.named_parameters()}
    weights = {
        path: layer.weight.numel()
        for path, layer in small.denoiser.named_modules()
        if isinstance(layer, nn.Linear) and path.split(".")[0].endswith("transformer_blocks")
    }
    small.quantise(precision)  # type: ignore[arg-type]
    layers = {p: layer for p, layer in small.denoiser.named_modules() if isinstance(layer, QuantisedLinear)}
    assert layers.keys() == weights.keys(), "not the embedders, norm_out and proj_out"
    for path, layer in layers.items():
        kind = "int8" if precision == "nf4" and ".norm" in path else precision
        assert layer.precision == kind
        assert layer.weight.nbytes + layer.scales.nbytes == BYTES[kind] * weights[path]
    for name, parameter in small.denoiser.named_parameters():
        if name.removesuffix(".weight") not in layers:
            assert parameter.dtype == torch.bfloat16 and torch.equal(parameter, others[name]), name
    assert small.messages[0].startswith(f"transformer, base_precision {precision}: ")


def test_layers_that_do_not_divide_stay_and_are_logged() -> None:
    messages: list[str] = []
    block = nn.Sequential(nn.Linear(96, 64), nn.Linear(64, 64)).requires_grad_(False)
    quantizer = Quantizer(nn.ModuleDict({"mid_block": block}), "fp8", CPU, ("mid_block.",))
    quantizer.quantize_all()
    quantizer.log_summary("unet", torch.bfloat16, messages.append)
    assert [type(layer) for layer in block] == [nn.Linear, QuantisedLinear]
    assert "unet, base_precision fp8: 1 not quantised, 1 in fp8; " in messages[0]
    assert messages[1] == "A layer is not quantised where its width is not a multiple of 64."
    assert "A U-Net with a quantised base is slower" in messages[2]
    plain = small_unet().climb(base_precision="auto")
    assert all(type(layer) is not QuantisedLinear for layer in plain.denoiser.modules())


def test_nothing_decoded_stays_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """During a step at most one decoded weight is alive; after the forward pass, with its graph, none."""
    alive: list[weakref.ref[Tensor]] = []
    most = 0
    decode = base_precision._DECODERS["int8"]

    def watched(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
        nonlocal most
        weight = decode(codes, scales, dtype)
        alive.append(weakref.ref(weight))
        most = max(most, sum(reference() is not None for reference in alive))
        return weight

    small = small_flux().climb(base_precision="int8")
    monkeypatch.setitem(base_precision._DECODERS, "int8", watched)
    gc.disable()
    try:
        loss = small.predict().square().mean()
        assert len(alive) == 46 and not any(reference() is not None for reference in alive)
        loss.backward()
    finally:
        gc.enable()
    # The graph begins at the first LoRA: a layer whose input has no gradient is not fetched twice.
    assert 46 + 30 < len(alive) < 2 * 46 and most == 1


def test_t5_in_bf16() -> None:
    """transformers looks at the dtype of a weight before it casts: codes do not mislead it."""
    config = T5Config(
        vocab_size=64, d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    torch.manual_seed(0)
    t5: Any = T5EncoderModel(config).eval().requires_grad_(False).to(torch.bfloat16)
    ids = torch.arange(2, 34)[None]
    plain = t5(ids).last_hidden_state
    quantizer = Quantizer(t5, "int8", CPU, ("encoder.block.",))
    quantizer.quantize_all()
    assert sum(isinstance(layer, QuantisedLinear) for layer in t5.modules()) == 2 * 7
    assert relative(t5(ids).last_hidden_state.float(), plain.float()) < 0.02


def test_weights_become_codes_one_by_one_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than one of the file's weights at a time: the host need not hold the model in its own format."""
    small = small_unet()
    save_file(small.denoiser.state_dict(), tmp_path / "unet.safetensors")
    config = {key: value for key, value in small.denoiser.config.items() if not key.startswith("_")}
    alive: list[weakref.ref[Tensor]] = []
    alive_counts = []
    quantize = Quantizer.quantize

    def watched(self: Quantizer, name: str, weight: Tensor) -> dict[str, Tensor]:
        alive_counts.append(sum(reference() is not None for reference in alive))
        alive.append(weakref.ref(weight))
        return quantize(self, name, weight)

    monkeypatch.setattr(Quantizer, "quantize", watched)
    source = PartSource(
        build_unet, config, [tmp_path / "unet.safetensors"], lambda keys: {key: [TensorSource(key)] for key in keys}
    )
    messages: list[str] = []
    unet = load_part("unet", source, torch.float16, messages.append, precision="int8", blocks=BLOCKS)
    assert len(alive_counts) == 48 and max(alive_counts) <= 1
    assert messages[0].startswith("unet, base_precision int8: 48 in int8; ")
    mine, theirs = unet.state_dict(), small_unet().quantise("int8").denoiser.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        expected = theirs[name] if tensor.dtype != torch.float16 else theirs[name].half()
        assert torch.equal(tensor, expected), name


def test_empty_weights_have_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For plans: the same layers under fake tensors, which take no memory."""
    real = small_flux().quantise("nf4")
    sizes = {name: (tensor.shape, tensor.dtype) for name, tensor in real.denoiser.state_dict().items()}
    monkeypatch.setattr(nn.Module, "to", lambda module, _: module)
    with FakeTensorMode():
        empty = _flux.__wrapped__(torch.float32)
        Quantizer(empty, "nf4", CPU, BLOCKS).quantize_all()
        state = empty.state_dict()
        assert all(isinstance(tensor, FakeTensor) for tensor in state.values())
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in state.items()} == sizes


def test_nf4_on_a_gpu_without_bitsandbytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused("bitsandbytes-missing"):
        check_precision("nf4", torch.device("cuda"))
    check_precision("nf4", CPU)
    check_precision("int8", torch.device("cuda"))
