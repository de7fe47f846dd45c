"""Products in 8 bits and cuDNN's attention on a GPU: the kernels compute what those of the CPU do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import UsageError
from engine.lowmem.eight_bit import EightBitLinear, as_eight_bit, check_products, encode
from engine.training.attention import CudnnAttention, by_cudnn, error_of, recorded_calls
from engine.training.exactness import device_abilities, set_determinism
from tests.small_denoisers import small_flux

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as in the trainer's environment

BOTH = pytest.mark.parametrize("precision", ["int8_w8a8", "fp8_w8a8"])
WIDE: dict[str, Any] = {"attention_head_dim": 64, "num_attention_heads": 16, "axes_dims_rope": (16, 24, 24)}


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    set_determinism()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def layer_on(device: str, precision: Any, dtype: torch.dtype) -> EightBitLinear:
    weight = torch.randn(3072, 1024, generator=torch.Generator().manual_seed(0)) * 0.02
    layer = nn.Linear(1024, 3072, dtype=dtype)
    nn.init.constant_(layer.bias, 0.5)
    try:
        row_scales = check_products(precision, torch.device(device))
    except UsageError as error:
        pytest.skip(error.message)
    codes, scales = (tensor.to(device) for tensor in encode(weight, precision))
    layer = layer.to(device).requires_grad_(False)
    as_eight_bit(layer, codes, scales, precision, row_scales)
    assert isinstance(layer, EightBitLinear)
    return layer


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_gpu_multiplies_as_the_cpu_does(precision: str, dtype: torch.dtype) -> None:
    """Rows beyond a multiple of the kernels' tiles, the same bytes again, and no graph that it could not be part of."""
    generator = torch.Generator().manual_seed(1)
    x, gradient = (torch.randn(1, 1037, width, generator=generator).to(dtype) for width in (1024, 3072))
    mine, theirs = (layer_on(device, precision, dtype) for device in ("cuda", "cpu"))
    for on_gpu, on_cpu in (
        (lambda: mine.product(x.cuda()), theirs.product(x)),
        (lambda: mine.product_back(gradient.cuda()), theirs.product_back(gradient)),
    ):
        first: Tensor = on_gpu()
        assert torch.equal(first, on_gpu())
        error = (first.cpu().float() - on_cpu.float()).norm() / on_cpu.float().norm()
        assert error < 0.01


@BOTH
def test_a_product_can_be_part_of_a_cuda_graph(precision: str) -> None:
    layer = layer_on("cuda", precision, torch.bfloat16)
    x = torch.randn(256, 1024, device="cuda", dtype=torch.bfloat16)
    expected, graph = layer.product(x), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer.product(x)
    graph.replay()
    assert torch.equal(captured, expected)


@BOTH
def test_a_model_learns_with_them_in_split_mode_too(precision: str) -> None:
    layer_on("cuda", precision, torch.bfloat16)
    resident, swapped = (
        small_flux(torch.bfloat16, "cuda", **WIDE).climb(
            base_precision=precision, gradient_checkpointing=True, split_mode=split
        )
        for split in (False, True)
    )
    losses = resident.steps(20)
    assert losses[-1] < losses[0] and swapped.steps(20) == losses


def test_cudnns_attention_is_judged_by_its_gradients() -> None:
    """22 tokens in heads of 32 and 64, where they were NaN: whatever this version gives, it is used only if right."""
    device, messages = torch.device("cuda"), list[str]()
    torch.use_deterministic_algorithms(False)
    for width in (32, 64):
        axes = (width // 4, width * 3 // 8, width * 3 // 8)
        small = small_flux(torch.bfloat16, "cuda", attention_head_dim=width, axes_dims_rope=axes).climb()
        (call,) = recorded_calls(small.predict)
        error = error_of(call, device, by_cudnn)
        attention = CudnnAttention(device, device_abilities(device), half=True, in_any_order=True, log=messages.append)
        attention.probe({((64, 64), 2): small.predict})
        with attention.allowed_for([((64, 64), 2)]):
            allowed = torch.backends.cuda.cudnn_sdp_enabled()
            losses = small.steps(3)
        assert allowed == (error is not None and error < 0.016) and all(loss == loss for loss in losses)
    assert len(messages) == 2
