"""The frozen base in fewer bits: `[memory] base_precision` int8, fp8 or nf4.

Linear layers inside the denoiser's blocks (and T5's) keep codes and one scale for each 64 values of a row; the weight
exists in the compute dtype only while a product is made. Norms, biases, embeddings, convolutions and everything
outside the blocks, the first and the last projection with them, stay as they are.

* int8: symmetric, absmax / 127. fp8: float8_e4m3fn, absmax / 448. nf4: the 16 quantiles of a normal distribution
  (Dettmers et al. 2023, QLoRA, appendix E), two codes a byte, the first in the upper half: the layout of bitsandbytes,
  whose kernel decodes it on a GPU.
* Scales are bf16, rounded before the codes are chosen, so that the codes make up for it: as exact as in fp32, and
  half as large (2 of 66 bytes, of nf4 2 of 34). 64 divides the widths of all families; 128 would not 320, of SD1.5.
* Layers that turn a timestep or a prompt into scales and shifts ("norm1.linear", "time_emb_proj") act on every token
  alike. In nf4 they are int8.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional

from engine.config.values import BasePrecision
from engine.errors import UsageError
from engine.memory.frozen import FrozenLinear
from engine.models.base import Say

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

    held = ("weight", "scales")
    scales: Tensor
    precision: BasePrecision

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """See `Frozen.matrix`."""
        return _DECODERS[self.precision](self.stored("weight"), self.stored("scales"), dtype)


def quantise(blocks: Sequence[nn.Module], precision: BasePrecision, device: torch.device, say: Say, what: str) -> None:
    """Replace the weights of the blocks' linear layers by codes, in place, one layer after the other.

    Args:
        blocks: of a denoiser or of T5; their weights may be empty, under fake tensors.
        precision: "auto" changes nothing.
        device: where the codes are computed; they come to where the weight was.
        what: the name of the component in the sentence that is said: "transformer".

    Raises:
        UsageError: see `check_precision`.
    """
    if precision == "auto":
        return
    check_precision(precision, device)
    before = _bytes(blocks)
    counts: Counter[str] = Counter()
    for block in blocks:
        for path, layer in block.named_modules():
            if type(layer) is nn.Linear:
                conditioning = any(part.startswith(_CONDITIONING) for part in path.split("."))
                chosen: BasePrecision = "int8" if precision == "nf4" and conditioning else precision
                fits = layer.in_features % BLOCK == 0
                counts[chosen if fits else "left"] += 1
                if fits:
                    _encode(layer, chosen, device)
    left = counts.pop("left", 0)
    if not counts and not left:
        return
    parts = [f"{count} layers in {name}" for name, count in counts.items()]
    if left:
        parts.append(f"{left} left as they are (their width is no multiple of {BLOCK})")
    say(
        f"Base weights of the {what}, base_precision {precision}: {', '.join(parts)}; its blocks take "
        f"{_bytes(blocks) / 2**30:.2f} GiB in place of {before / 2**30:.2f}."
    )


def check_precision(precision: BasePrecision, device: torch.device) -> None:
    """Refuse what this machine cannot decode.

    Raises:
        UsageError: nf4 on a GPU without bitsandbytes.
    """
    if precision == "nf4" and device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "memory.base_precision is nf4, and bitsandbytes, which decodes it on the GPU, is not installed.",
            'Install it (pip install "lorasmith[cuda]"), or set memory.base_precision=int8.',
        )


def _bytes(blocks: Sequence[nn.Module]) -> int:
    return sum(
        tensor.nbytes
        for block in blocks
        for tensors in (block.parameters(), block.buffers())
        for tensor in tensors
        if not tensor.requires_grad
    )


def _encode(layer: nn.Linear, precision: BasePrecision, device: torch.device) -> None:
    weight = layer.weight.detach()
    codes, scales = _ENCODERS[precision](weight.to(device).float().view(len(weight), -1, BLOCK))
    layer.weight = nn.Parameter(codes.flatten(1).to(weight.device), requires_grad=False)
    layer.register_buffer("scales", scales.to(weight.device))
    layer.__class__ = QuantisedLinear
    layer.precision = precision  # type: ignore[assignment]


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
    between = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(blocks / scales.float().unsqueeze(-1), between, out_int32=True).to(torch.uint8)
    return (codes[..., ::2] * 16 + codes[..., 1::2]).view(torch.int8), scales


def _decode_int8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    blocks = codes.view(len(codes), -1, BLOCK)
    weight = torch.empty(blocks.shape, dtype=dtype, device=codes.device)
    # into `weight` at once: one pass over the memory, and no tensor in float32
    return torch.mul(blocks, scales.float().unsqueeze(-1), out=weight).flatten(1)


def _decode_fp8(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    blocks = codes.view(torch.float8_e4m3fn).to(dtype).view(len(codes), -1, BLOCK)
    return blocks.mul_(scales.unsqueeze(-1)).flatten(1)


def _decode_nf4(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    packed = codes.view(torch.uint8)
    weight = torch.empty(len(codes), codes.shape[1] * 2, dtype=dtype, device=codes.device)
    if isinstance(codes, FakeTensor):  # a plan counts what the kernel takes on a GPU: nothing besides the weight
        return weight
    if codes.is_cuda:
        from bitsandbytes.functional import dequantize_4bit

        dequantize_4bit(packed.view(-1, 1), absmax=scales.float().flatten(), out=weight, quant_type="nf4")
        return weight
    levels = torch.tensor(NF4, dtype=dtype)
    pairs = torch.cartesian_prod(levels, levels)  # [256, 2]: what each byte means
    blocks = functional.embedding(packed.int(), pairs).view(len(codes), -1, BLOCK)
    torch.mul(blocks, scales.unsqueeze(-1), out=weight.view(blocks.shape))
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
