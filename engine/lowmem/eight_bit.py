"""Products in 8 bits: `[memory] base_precision` int8_w8a8 and fp8_w8a8 (8-bit weights, 8-bit activations).

A weight has codes and one scale for each of its rows, an input one scale for each of its rows (tokens), computed anew
each time: absmax / 127 for int8, absmax / 448 for float8_e4m3fn, symmetric. The product of the codes is made by the
card's 8-bit units and multiplied by both scales:

    x · Wᵀ ≈ s_x · (q(x) · q(W)ᵀ) · s_W

In the backward pass the weight's scales are on the axis that is summed over, so they go into the gradient before it is
quantised, and the same codes serve both directions:

    g · W = (g · s_W) · q(W) ≈ s_g · (q(g · s_W) · q(W))

* Gradients are e4m3 too, not e5m2: with a scale for each row the range of e4m3 is enough, and it has one bit more of
  precision.
* int8 is multiplied by `torch._int_mm` with exact sums in int32, fp8 by `torch._scaled_mm`. Both need a second operand
  whose columns are contiguous on every card, so that the backward pass makes a transposed copy of the codes, a byte
  for each.
* A product of at most `FEWEST_ROWS` rows is computed from decoded weights, as is every one within `decoded_products`:
  `_int_mm` needs more, and there is nothing to gain.
* bf16 is quantised and scaled in bf16, all other formats in float32: g · s_W and s_x · sums would leave fp16's range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from typing_extensions import override

from engine.config.values import BasePrecision
from engine.errors import UsageError
from engine.hardware.abilities import require_products
from engine.lowmem.frozen import FrozenLinear

STEP = 16
"""Both sizes of a layer are multiples of it: the kernels need that."""
FEWEST_ROWS = 16
"""Inputs with more rows are multiplied in 8 bits."""
LARGEST = {"int8_w8a8": 127.0, "fp8_w8a8": 448.0}
"""The largest code."""
_E4M3 = torch.float8_e4m3fn
_PROBE = (64, 48, 32)
"""Inputs, outputs and rows of the layer that is tried."""
_TOLERANCE = {"int8_w8a8": 0.03, "fp8_w8a8": 0.08}
"""Largest relative error of the layer that is tried: three times the usual one."""


class EightBitLinear(FrozenLinear):
    """A linear layer that multiplies in 8 bits. `weight`: int8 [out, in], the codes or (fp8) their bits; `scales`:
    float32 [out]."""

    packed_names = ("weight", "scales")
    scales: Tensor
    precision: BasePrecision
    row_scales: bool
    """Whether the fp8 kernel multiplies by the scales of the rows itself."""

    decodes = False
    """Of all layers, see `decoded_products`."""

    @override
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        codes, scales = self.packed("weight"), self.packed("scales")[:, None]
        if self.precision == "fp8_w8a8":
            return codes.view(_E4M3).to(dtype).mul_(scales)
        return torch.mul(codes, scales, out=_empty(codes, dtype))

    @override
    def product(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if self._decodes(rows):
            return super().product(x)
        codes, scales = self.packed("weight"), self.packed("scales")
        return self._multiplied(rows, codes.T, scales, self.bias, x.dtype).view(*x.shape[:-1], self.out_features)

    @override
    def product_back(self, gradient: Tensor) -> Tensor:
        rows = gradient.reshape(-1, self.out_features)
        if self._decodes(rows):
            return super().product_back(gradient)
        codes, scales = self.packed("weight"), self.packed("scales")
        scaled = torch.mul(rows, scales, out=_empty(rows, _wide(rows.dtype)))
        columns = codes.T.contiguous().T
        product = self._multiplied(scaled, columns, None, None, gradient.dtype)
        return product.view(*gradient.shape[:-1], self.in_features)

    def _decodes(self, rows: Tensor) -> bool:
        return self.decodes or len(rows) <= FEWEST_ROWS

    def _multiplied(
        self, rows: Tensor, columns: Tensor, scales: Tensor | None, bias: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """rows [M, K] · columns [K, N] · scales [N] + bias [N], quantised, in `dtype`."""
        own = _row_scales(rows, LARGEST[self.precision])
        codes = torch.div(rows, own, out=_empty(rows, rows.dtype))
        if self.precision == "int8_w8a8":
            sums = torch._int_mm(codes.round_().to(torch.int8), columns)
            return _scaled(sums, own, scales, bias, dtype)
        codes, columns = codes.to(_E4M3), columns.view(_E4M3)
        if self.row_scales:
            return _fp8_by_rows(codes, columns, own, scales, bias).to(dtype)
        unscaled = torch.ones((), device=codes.device)
        sums = torch._scaled_mm(codes, columns, scale_a=unscaled, scale_b=unscaled, out_dtype=torch.bfloat16)
        return _scaled(sums, own, scales, bias, dtype)


def encode(weight: Tensor, precision: BasePrecision) -> tuple[Tensor, Tensor]:
    """The codes, int8 [out, in], and the scales, float32 [out], of a float32 weight."""
    scales = _row_scales(weight, LARGEST[precision])
    codes = weight / scales
    codes = codes.round_().to(torch.int8) if precision == "int8_w8a8" else codes.to(_E4M3).view(torch.int8)
    return codes, scales.flatten()


@contextmanager
def decoded_products() -> Iterator[None]:
    """Within it all layers compute with decoded weights: their rounding does not depend on the input."""
    EightBitLinear.decodes = True
    try:
        yield
    finally:
        EightBitLinear.decodes = False


def check_products(precision: BasePrecision, device: torch.device) -> bool:
    """Check on the device that its 8-bit products are right; a GPU's compute capability is checked first.

    Returns:
        `EightBitLinear.row_scales` of its layers.

    Raises:
        UsageError: the device has no such products, or PyTorch's are wrong on it.
    """
    if device.type not in ("cuda", "cpu") or isinstance(torch.empty(0), FakeTensor):
        return True
    if device.type == "cuda":
        require_products(precision, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    problem = ""
    for row_scales in (True, False):
        try:
            error = _tried(precision, device, row_scales)
        except (RuntimeError, NotImplementedError) as reason:
            problem = str(reason).strip().partition("\n")[0].rstrip(".")
            continue
        if error <= _TOLERANCE[precision]:
            return row_scales
        problem = f"the result of a small product is off by {error:.0%}"
    stored = precision.partition("_")[0]
    raise UsageError(
        f"memory.base_precision is {precision}, but its products do not work with PyTorch {torch.__version__} on this "
        f"device ({problem}).",
        f"Set memory.base_precision={stored}, which stores the weights in 8 bits and decodes them before each product.",
        code="products-do-not-work",
    )


def _tried(precision: BasePrecision, device: torch.device, row_scales: bool) -> float:
    """The larger relative error of a small layer's output and input gradient, against its decoded weight."""
    width, out, count = _PROBE
    generator = torch.Generator().manual_seed(0)
    weight, x, gradient = (
        torch.randn(shape, generator=generator) for shape in ((out, width), (count, width), (count, out))
    )
    layer = EightBitLinear(width, out, device="meta").requires_grad_(False)
    codes, scales = encode(weight, precision)
    as_eight_bit(layer, codes.to(device), scales.to(device), precision, row_scales)
    layer.bias = nn.Parameter(torch.ones(out, device=device), requires_grad=False)
    decoded, x, gradient = layer.dequantize(torch.float32), x.to(device), gradient.to(device)
    errors = []
    for exact, own in ((x @ decoded.T + 1, layer.product(x)), (gradient @ decoded, layer.product_back(gradient))):
        error = float((own - exact).norm() / exact.norm())
        errors.append(error if error == error else float("inf"))
    return max(errors)


def as_eight_bit(layer: nn.Linear, codes: Tensor, scales: Tensor, precision: BasePrecision, row_scales: bool) -> None:
    """Convert a linear layer, in place, to one of these codes."""
    layer.weight = nn.Parameter(codes, requires_grad=False)
    layer.register_buffer("scales", scales)
    layer.__class__ = EightBitLinear
    assert isinstance(layer, EightBitLinear)
    layer.precision, layer.row_scales = precision, row_scales


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _empty(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty(rows.shape, dtype=dtype, device=rows.device)


def _row_scales(rows: Tensor, largest: float) -> Tensor:
    """float32 [M, 1], above zero; NaN or infinite where the row is not finite, which the product then is too."""
    with torch.autocast(rows.device.type, enabled=False):  # it would convert all rows to float32 first
        norms = torch.linalg.vector_norm(rows, math.inf, dim=-1, keepdim=True, dtype=torch.float32)
    return torch.rsub(norms, torch.finfo(torch.float32).tiny, alpha=-1 / largest)  # norms / largest + tiny


def _scaled(sums: Tensor, own: Tensor, scales: Tensor | None, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """sums [M, N] · own [M, 1] · scales [N] + bias [N] in `dtype`; a bias comes with scales."""
    product = torch.mul(sums, own, out=_empty(sums, _wide(dtype)))
    if scales is not None and bias is not None:
        torch.addcmul(bias, product, scales, out=product)
    elif scales is not None:
        product.mul_(scales)
    return product.to(dtype)


def _fp8_by_rows(codes: Tensor, columns: Tensor, own: Tensor, scales: Tensor | None, bias: Tensor | None) -> Tensor:
    """bfloat16 [M, N]: the kernel that takes scales of rows has no other result. A forward pass, which has `scales`,
    adds with fewer bits where that is faster; a gradient with all of them."""
    across = torch.ones(columns.shape[1], device=codes.device) if scales is None else scales
    return torch._scaled_mm(
        codes,
        columns,
        scale_a=own,
        scale_b=across[None],
        bias=None if bias is None else bias.to(torch.bfloat16),
        out_dtype=torch.bfloat16,
        use_fast_accum=scales is not None,
    )
