"""Products in 8 bits: how far they are from exact ones in both directions, what they leave decoded, what they refuse.

The kernels are those of torch for the CPU, which are called as on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from engine.adapters.twins import no_trace
from engine.lowmem import block_swap
from engine.lowmem.base_precision import QuantisedLinear, Quantizer
from engine.lowmem.eight_bit import FEWEST_ROWS, EightBitLinear, as_eight_bit, check_products, decoded_products, encode
from engine.lowmem.frozen import FrozenLinear
from tests.refusals import refused
from tests.small_denoisers import SMALL, small_flux

CPU = torch.device("cpu")
WIDTH, OUT = 256, 384
BOTH = pytest.mark.parametrize("precision", ["int8_w8a8", "fp8_w8a8"])
KERNELS = pytest.mark.parametrize(
    ("precision", "row_scales", "most"),
    [("int8_w8a8", True, 0.012), ("fp8_w8a8", True, 0.04), ("fp8_w8a8", False, 0.04)],
)
"""Each kernel with the largest relative error for normal numbers; measured: 0.010 to 0.011, and 0.036 to 0.038."""
Calls = list[tuple[Tensor, Tensor]]


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative(mine: Tensor, exact: Tensor) -> float:
    return float((mine.float() - exact).norm() / exact.norm())


def layer_of(weight: Tensor, precision: Any, row_scales: bool = True, dtype: torch.dtype = torch.float32) -> Any:
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=dtype).requires_grad_(False)
    as_eight_bit(layer, *encode(weight, precision), precision, row_scales)
    return layer


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The operands of every product in 8 bits."""
    calls: Calls = []
    for name in ("_int_mm", "_scaled_mm"):
        kernel: Callable[..., Tensor] = getattr(torch, name)

        def watched(first: Tensor, second: Tensor, kernel: Any = kernel, **rest: Any) -> Tensor:
            calls.append((first, second))
            result: Tensor = kernel(first, second, **rest)
            return result

        monkeypatch.setattr(torch, name, watched)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@KERNELS
def test_both_directions_of_normal_numbers(precision: str, row_scales: bool, most: float, dtype: torch.dtype) -> None:
    weight, x, gradient = gaussian(OUT, WIDTH) * 0.02, gaussian(2, 50, WIDTH, seed=1), gaussian(2, 50, OUT, seed=2)
    layer = layer_of(weight, precision, row_scales, dtype)
    output, back = layer.product(x.to(dtype)), layer.product_back(gradient.to(dtype))
    assert output.dtype == back.dtype == dtype and output.shape == gradient.shape and back.shape == x.shape
    assert most / 2 < relative(output, x @ weight.T + layer.bias.float()) < most
    assert most / 2 < relative(back, gradient @ weight) < most


def test_int8_sums_are_exact() -> None:
    """The product of the codes, scaled: nothing else is lost."""
    weight, x = gaussian(OUT, WIDTH) * 0.02, gaussian(40, WIDTH, seed=1)
    layer = layer_of(weight, "int8_w8a8")
    codes, scales = encode(x, "int8_w8a8")
    expected = (codes.long() @ layer.weight.long().T).double() * scales[:, None] * layer.scales + layer.bias
    assert relative(layer.product(x), expected.float()) < 1e-6


@KERNELS
def test_a_row_with_large_values_does_not_damage_others(precision: str, row_scales: bool, most: float) -> None:
    """Each token and each row of the weight has a scale of its own."""
    weight, x = gaussian(OUT, WIDTH) * 0.02, gaussian(50, WIDTH, seed=1)
    weight[7] *= 1e4
    x[3] *= 1e4
    layer = layer_of(weight, precision, row_scales)
    output, exact = layer.product(x), x @ weight.T + layer.bias
    others = torch.tensor([row for row in range(OUT) if row != 7])
    assert relative(output[4:, others], exact[4:, others]) < most
    gradient = gaussian(50, OUT, seed=2)
    gradient[:, 7] *= 1e-4
    assert relative(layer.product_back(gradient), gradient @ weight) < most


@pytest.mark.parametrize(("precision", "low", "high"), [("int8_w8a8", 0.1, 0.2), ("fp8_w8a8", 0.03, 0.05)])
def test_a_channel_with_large_values_costs_int8_the_others(precision: str, low: float, high: float) -> None:
    """One channel 50 times as large as the others, in every token: int8 has few codes left for these, fp8 has floating
    codes. Measured, of what the other channels contribute to the output: 0.13 of it is lost in int8, 0.04 in fp8."""
    weight, x = gaussian(OUT, WIDTH) * 0.02, gaussian(50, WIDTH, seed=1)
    without = x.clone()
    x[:, 3] *= 50
    without[:, 3] = 0
    layer = layer_of(weight, precision)
    decoded = layer.dequantize(torch.float32)
    mine = layer.product(x) - x[:, 3:4] @ decoded[:, 3:4].T - layer.bias
    assert low < relative(mine, without @ weight.T) < high


@KERNELS
def test_edges(precision: str, row_scales: bool, most: float) -> None:
    """Rows of zeros stay zeros, the smallest and largest numbers are finite, and what is not finite stays visible: the
    scaler of fp16 and the check of the loss depend on that."""
    weight = gaussian(OUT, WIDTH)
    weight[0] = 0.0
    layer = layer_of(weight, precision, row_scales, torch.float16)
    layer.bias.zero_()
    x = gaussian(20, WIDTH, seed=1)
    x[0], x[1], x[2] = 0.0, 6e-8, x[2] * 1e3
    x[3, 5], x[4, 5] = float("inf"), float("nan")
    output = layer.product(x.half())
    assert not output[0].any() and not output[:3, 0].any() and torch.isfinite(output[:3]).all()
    assert torch.isfinite(output[5:]).all() and not torch.isfinite(output[3:5, 1:]).any()
    gradient = gaussian(20, OUT, seed=2) * 1e-6
    exact = gradient.half().float() @ weight
    assert relative(layer.product_back(gradient.half()), exact) < max(most, 0.05)


@BOTH
def test_the_operands_suit_the_kernels_of_a_gpu(precision: str, kernel_calls: Calls) -> None:
    """cuBLAS takes 8 bits only where both operands are contiguous along the axis that is summed, both sizes are
    multiples of 16, and the first has more than 16 rows."""
    layer = layer_of(gaussian(OUT, WIDTH), precision)
    layer.product(gaussian(WIDTH, 20).T)
    layer.product_back(gaussian(OUT, 20).T)
    assert len(kernel_calls) == 2
    for first, second in kernel_calls:
        assert first.is_contiguous() and second.T.is_contiguous()
        assert len(first) > 16 and not any(size % 16 for size in second.shape)
        assert first.dtype == second.dtype == (torch.int8 if precision == "int8_w8a8" else torch.float8_e4m3fn)


@BOTH
def test_few_rows_are_multiplied_by_decoded_weights(precision: str, kernel_calls: Calls) -> None:
    layer = layer_of(gaussian(OUT, WIDTH), precision)
    decoded = layer.dequantize(torch.float32)
    x, gradient = gaussian(FEWEST_ROWS, WIDTH), gaussian(FEWEST_ROWS, OUT)
    assert torch.equal(layer.product(x), nn.functional.linear(x, decoded, layer.bias))
    assert torch.equal(layer.product_back(gradient), gradient @ decoded)
    assert not kernel_calls
    layer.product(gaussian(FEWEST_ROWS + 1, WIDTH))
    assert len(kernel_calls) == 1


@BOTH
def test_the_check_of_a_saved_file_decodes(precision: str, kernel_calls: Calls) -> None:
    """The rounding of its inputs would amplify the differences between two ways to compute the same."""
    layer = layer_of(gaussian(OUT, WIDTH), precision)
    with no_trace({"unet": nn.Sequential(layer)}):
        layer.product(gaussian(40, WIDTH))
    assert not kernel_calls
    with pytest.raises(RuntimeError), decoded_products():
        raise RuntimeError
    layer.product(gaussian(40, WIDTH))
    assert len(kernel_calls) == 1


@BOTH
def test_which_layers_multiply_in_8_bits(precision: str) -> None:
    """Others are in blocks, as with the value that only stores 8 bits; T5 and convolutions are not asked."""
    block = nn.ModuleDict(
        {
            "to_q": nn.Linear(64, 64),
            "narrow": nn.Linear(48, 64),
            "odd_output": nn.Linear(64, 60),
            "norm1": nn.ModuleDict({"linear": nn.Linear(64, 64)}),
            "odd": nn.Linear(60, 64),
            "conv": nn.Conv2d(64, 64, 1),
        }
    ).requires_grad_(False)
    quantizer = Quantizer(nn.ModuleDict({"mid_block": block}), precision, CPU, ("mid_block.",))  # type: ignore[arg-type]
    quantizer.quantize_all()
    kinds = {name: type(layer) for name, layer in block.items() if name != "norm1"}
    assert kinds == {
        "to_q": EightBitLinear, "narrow": EightBitLinear, "odd_output": QuantisedLinear, "odd": nn.Linear,
        "conv": nn.Conv2d,
    }  # fmt: skip
    conditioning: Any = block["norm1"]
    stored = precision.removesuffix("_w8a8")
    assert conditioning["linear"].precision == block["odd_output"].precision == stored
    messages: list[str] = []
    quantizer.log_summary("unet", torch.bfloat16, messages.append)
    assert f"unet, base_precision {precision}: 1 not quantised, 2 in {precision}, 2 in {stored}; " in messages[0]
    assert "rounds activations and gradients too" in messages[-1]


# Measured: the loss at most 0.002 of its value, gradients 0.006 to 0.008 (int8) and 0.031 to 0.035 (fp8) in float32,
# 0.009 to 0.028 and 0.036 to 0.042 in bf16, whose own rounding is in both models.
@pytest.mark.parametrize(("precision", "tolerance"), [("int8_w8a8", 0.012), ("fp8_w8a8", 0.045)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SMALL)
def test_losses_and_lora_gradients_of_a_model(
    kind: str, dtype: torch.dtype, precision: str, tolerance: float, kernel_calls: Calls
) -> None:
    plain, coded = SMALL[kind](dtype).climb(), SMALL[kind](dtype).climb(base_precision=precision)
    (loss, gradients), (expected, expected_gradients) = coded.step(), plain.step()
    mine, theirs = (torch.cat([tensor.flatten() for tensor in each]) for each in (gradients, expected_gradients))
    assert len(kernel_calls) > 40, "products in 8 bits"
    assert abs(loss - expected) < tolerance * expected
    assert relative(mine, theirs) < tolerance + (0.02 if dtype == torch.bfloat16 else 0)


@BOTH
def test_split_mode_and_checkpointing_change_not_a_bit(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_swap, "PIECE", 40_000)
    resident = small_flux().climb(base_precision=precision)
    swapped = small_flux().climb(
        base_precision=precision, split_mode=True, gradient_checkpointing=True, cpu_offload_checkpointing=True
    )
    layers = [layer for layer in swapped.denoiser.modules() if isinstance(layer, EightBitLinear)]
    assert len(layers) > 20 and all(layer.offloaded for layer in layers)
    assert swapped.steps(3) == resident.steps(3)


@BOTH
def test_the_codes_take_a_byte_each(precision: str) -> None:
    layer = layer_of(gaussian(OUT, WIDTH), precision)
    assert isinstance(layer, FrozenLinear) and layer.weight.dtype == torch.int8
    assert layer.weight.nbytes + layer.scales.nbytes == OUT * WIDTH + 4 * OUT


@KERNELS
def test_the_check_of_the_device_finds_its_kernels(
    precision: Any, row_scales: bool, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a build lacks the kernel with scales of rows, as PyTorch's for Windows, that without is used."""
    kernel = torch._scaled_mm

    def without_rows(first: Tensor, second: Tensor, *, scale_a: Tensor, **rest: Any) -> Tensor:
        if scale_a.numel() > 1:
            raise RuntimeError("Rowwise scaling is not currently supported on your device")
        result: Tensor = kernel(first, second, scale_a=scale_a, **rest)
        return result

    if not row_scales:
        monkeypatch.setattr(torch, "_scaled_mm", without_rows)
    assert check_products(precision, CPU) == row_scales


@BOTH
def test_kernels_that_fail_or_are_wrong_are_refused(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul\nand more")

    def wrong(first: Tensor, second: Tensor, **_: Any) -> Tensor:
        return torch.zeros(len(first), second.shape[1])

    for kernel, reason in ((missing, "CUBLAS_STATUS_NOT_SUPPORTED"), (wrong, "off by 100%")):
        monkeypatch.setattr(torch, "_int_mm", kernel)
        monkeypatch.setattr(torch, "_scaled_mm", kernel)
        with refused("products-do-not-work", precision, reason, f"memory.base_precision={precision[:-5]}"):
            check_products(precision, CPU)


@pytest.mark.parametrize(
    ("precision", "capability", "better"),
    [("fp8_w8a8", (8, 6), "to int8_w8a8, or to fp8"), ("fp8_w8a8", (7, 0), "to fp8"), ("int8_w8a8", (7, 0), "to int8")],
)
def test_a_card_without_such_products_is_refused(
    precision: Any, capability: tuple[int, int], better: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "The card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with refused("products-not-possible", precision, "The card", f"{capability[0]}.{capability[1]}", better):
        check_products(precision, torch.device("cuda"))


@BOTH
def test_plans_have_the_same_sizes(precision: str) -> None:
    def product() -> list[tuple[torch.Size, torch.dtype]]:
        layer = layer_of(gaussian(OUT, WIDTH), precision, dtype=torch.bfloat16)
        output = layer.product(torch.empty(2, 20, WIDTH, dtype=torch.bfloat16))
        tensors = [layer.weight, layer.scales, output, layer.product_back(output)]
        return [(tensor.shape, tensor.dtype) for tensor in tensors]

    real = product()
    with FakeTensorMode():
        assert check_products(precision, CPU)  # type: ignore[arg-type]
        assert product() == real
