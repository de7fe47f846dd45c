"""The frozen base in fewer bits: `[memory] base_precision` int8, fp8, nf4, int8_w8a8 or fp8_w8a8.

Linear layers inside the denoiser's blocks (and T5's) keep codes and one scale for each 64 values of a row; the weight
exists in the compute dtype only while a product is made. Norms, biases, embeddings, convolutions and everything
outside the blocks, the first and the last projection with them, stay as they are.

* int8: symmetric, absmax / 127. fp8: float8_e4m3fn, absmax / 448. nf4: the 16 quantiles of a normal distribution
  (Dettmers et al. 2023, QLoRA, appendix E), two codes a byte, the first in the upper half: the layout of bitsandbytes,
  whose kernel decodes it on a GPU.
* Scales are bf16, rounded before the codes are computed, so that the codes compensate: as exact as in fp32, and half
  as large (2 of 66 bytes, of nf4 2 of 34). 64 divides the widths of all families; 128 does not divide SD1.5's 320.
* Layers that turn a timestep or a prompt into scales and shifts ("norm1.linear", "time_emb_proj") affect every token.
  In nf4 they are int8.
* int8_w8a8 and fp8_w8a8 have a scale for each row and also multiply in 8 bits (`engine.lowmem.eight_bit`). Layers that
  do not fit their kernels, and those of the previous point, whose inputs have a row for each image only, are int8 or
  fp8 in blocks.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional
from typing_extensions import override

from engine.config.values import STORED_AS, BasePrecision
from engine.errors import UsageError
from engine.lowmem.eight_bit import STEP, as_eight_bit, check_products, encode
from engine.lowmem.frozen import FrozenLinear
from engine.text import listing
from engine.types import Log

BLOCK = 64
"""Values of a row that share a scale."""
NF4 = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
_CONDITIONING = ("norm", "time_emb_proj")


class QuantisedLinear(FrozenLinear):
    """A linear layer of codes. `weight`: int8 [out, in], the codes or (fp8) their bits; in nf4 [out, in / 2], two in
    a byte. `scales`: bf16 [out, in / 64]."""

    packed_names = ("weight", "scales")
    scales: Tensor
    precision: BasePrecision

    @override
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return _DECODERS[self.precision](self.packed("weight"), self.packed("scales"), dtype)


class Quantizer:
    """Quantises the linear layers of one module's blocks, one after the other.

    Args:
        module: a denoiser, or T5; its weights may be on the meta device.
        precision: "auto" quantises nothing.
        device: where the codes are computed; they are stored on the weight's device.
        blocks: prefixes of the paths of the layers in its blocks.

    Raises:
        UsageError: see `check_precision`.
    """

    def __init__(
        self, module: nn.Module, precision: BasePrecision, device: torch.device, blocks: Sequence[str]
    ) -> None:
        self._row_scales = check_precision(precision, device)
        self._precision, self._device = precision, device
        self._waiting: dict[str, tuple[nn.Linear, BasePrecision]] = {}
        self._counts: Counter[str] = Counter()
        self._values = self._bytes = 0
        for path, layer in module.named_modules():
            if precision != "auto" and type(layer) is nn.Linear and path.startswith(tuple(blocks)):
                own = _precision_of(layer, path, precision)
                if own != "auto":
                    self._waiting[f"{path}.weight"] = layer, own
                else:
                    self._counts["not quantised"] += 1

    def __contains__(self, name: str) -> bool:
        """Whether the tensor `name` of the module is the weight of a layer still to be quantised."""
        return name in self._waiting

    def quantize(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """Quantise the layer with the weight `name`; `weight` is [out, in] of any float dtype.

        Returns:
            The tensors that replace the weight in the module's state, by name.
        """
        layer, precision = self._waiting.pop(name)
        exact = weight.detach().to(self._device).float()
        if precision in STORED_AS:
            codes, scales = (tensor.to(weight.device) for tensor in encode(exact, precision))
            as_eight_bit(layer, codes, scales, precision, self._row_scales)
        else:
            codes, scales = _ENCODERS[precision](exact.view(len(weight), -1, BLOCK))
            codes, scales = codes.flatten(1).to(weight.device), scales.to(weight.device)
            layer.weight = nn.Parameter(codes, requires_grad=False)
            layer.register_buffer("scales", scales)
            layer.__class__ = QuantisedLinear
            layer.precision = precision  # type: ignore[assignment]
        state = {name: codes, name.removesuffix("weight") + "scales": scales}
        self._counts[f"in {precision}"] += 1
        self._values += weight.numel()
        self._bytes += sum(tensor.nbytes for tensor in state.values())
        return state

    def quantize_all(self) -> None:
        """Quantise every remaining layer from its own weight."""
        for name, (layer, _) in list(self._waiting.items()):
            self.quantize(name, layer.weight)

    def log_summary(self, what: str, dtype: torch.dtype, log: Log) -> None:
        """Log what was quantised in the component `what`, whose other weights are in `dtype`."""
        if self._precision == "auto":
            return
        layers = listing([f"{count} {how}" for how, count in self._counts.items()])
        log(
            f"{what}, base_precision {self._precision}: {layers}; {self._bytes / 2**30:.2f} GiB of codes instead of "
            f"{self._values * dtype.itemsize / 2**30:.2f} GiB of weights."
        )
        if self._counts["not quantised"]:
            log(f"A layer is not quantised where its width is not a multiple of {BLOCK}.")
        if self._precision in STORED_AS:
            log(
                "Products are in 8 bits in both directions, which rounds activations and gradients too; "
                f"memory.base_precision = {STORED_AS[self._precision]} rounds the weights only."
            )
        elif what == "unet":
            log("A U-Net with a quantised base is slower, its convolutions stay unquantised: use it only to fit.")


def check_precision(precision: BasePrecision, device: torch.device) -> bool:
    """Refuse a precision that this machine cannot decode or multiply.

    Returns:
        `EightBitLinear.row_scales`, for layers that multiply in 8 bits.

    Raises:
        UsageError: nf4 on a GPU without bitsandbytes; see also `check_products`.
    """
    if precision == "nf4" and device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "memory.base_precision is nf4, which needs bitsandbytes on the GPU, and that is not installed.",
            'Install it (pip install "lorasmith[cuda]"), or set memory.base_precision=int8.',
            code="bitsandbytes-missing",
        )
    return precision in STORED_AS and check_products(precision, device)


def _precision_of(layer: nn.Linear, path: str, precision: BasePrecision) -> BasePrecision:
    """The precision of the layer at `path` in its module; "auto": it stays as it is."""
    conditioning = any(part.startswith(_CONDITIONING) for part in path.split("."))
    fits_kernels = layer.in_features % STEP == layer.out_features % STEP == 0
    if precision in STORED_AS and fits_kernels and not conditioning:
        return precision
    if layer.in_features % BLOCK:
        return "auto"
    return "int8" if precision == "nf4" and conditioning else STORED_AS.get(precision, precision)


def _scales(blocks: Tensor, largest: float) -> Tensor:
    """bf16 [out, in / 64]; above zero, so that a block of zeros decodes to zeros."""
    return (blocks.abs().amax(-1) / largest).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()


def _encode_int8(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scales = _scales(blocks, 127.0)
    return (blocks / scales.float().unsqueeze(-1)).round().clamp(-127, 127).to(torch.int8), scales


def _encode_fp8(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scales = _scales(blocks, 448.0)
    scaled = (blocks / scales.float().unsqueeze(-1)).clamp(-448.0, 448.0)
    return scaled.to(torch.float8_e4m3fn).view(torch.int8), scales


def _encode_nf4(blocks: Tensor) -> tuple[Tensor, Tensor]:
    scales = _scales(blocks, 1.0)
    levels = torch.tensor(NF4).to(blocks.device)
    boundaries = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scales.float().unsqueeze(-1), boundaries, out_int32=True).to(torch.uint8)
    return (codes[..., ::2] * 16 + codes[..., 1::2]).view(torch.int8), scales


def _decode_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    blocks = codes.view(len(codes), -1, BLOCK)
    weight = torch.empty(blocks.shape, dtype=dtype, device=codes.device)
    # directly into `weight`: one pass over the memory, and no tensor in float32
    return torch.mul(blocks, scales.float().unsqueeze(-1), out=weight).flatten(1)


def _decode_fp8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    blocks = codes.view(torch.float8_e4m3fn).to(dtype).view(len(codes), -1, BLOCK)
    return blocks.mul_(scales.unsqueeze(-1)).flatten(1)


def _decode_nf4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(codes, FakeTensor):  # a plan counts the GPU kernel's memory: the weight only
        return torch.empty(len(codes), codes.shape[1] * 2, dtype=dtype, device=codes.device)
    if codes.is_cuda:
        return decode_nf4_by_bitsandbytes(codes, scales, dtype)
    levels = torch.tensor(NF4, dtype=dtype)
    pairs = torch.cartesian_prod(levels, levels)  # [256, 2]: the values of each byte
    blocks = functional.embedding(codes.view(torch.uint8).int(), pairs).view(len(codes), -1, BLOCK)
    return blocks.mul_(scales.unsqueeze(-1)).flatten(1)


def decode_nf4_by_bitsandbytes(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [out, in] of NF4 codes, by bitsandbytes' kernel."""
    from bitsandbytes.functional import QuantState, dequantize_4bit

    shape = torch.Size((len(codes), codes.shape[1] * 2))
    state = QuantState(scales.float().flatten(), shape=shape, dtype=dtype, blocksize=BLOCK, quant_type="nf4")
    weight: Tensor = dequantize_4bit(codes.view(torch.uint8).view(-1, 1), state)
    return weight


_ENCODERS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "int8": _encode_int8,
    "fp8": _encode_fp8,
    "nf4": _encode_nf4,
}
_DECODERS: dict[str, Callable[[Tensor, Tensor, torch.dtype], Tensor]] = {
    "int8": _decode_int8,
    "fp8": _decode_fp8,
    "nf4": _decode_nf4,
}
