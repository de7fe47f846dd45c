"""cuDNN's attention in training steps. It is the fastest kernel on some cards, adds in varying order, and its gradients
are NaN for some lengths (pytorch issue 196678; seen with 22 tokens on an H200). So it is used only where a resume need
not be exact, and only in steps whose calls were tried before the first one, at their own shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from engine.hardware.abilities import Abilities
from engine.out_of_memory import is_out_of_memory
from engine.text import plural
from engine.training.batch_source import BatchShape
from engine.types import Log

Kernel = Callable[..., Tensor]
"""Called as `scaled_dot_product_attention`; raises RuntimeError where it does not take a shape."""
TOLERANCE = 2
"""Most relative error, in units of the dtype's epsilon: 1.6 % in bf16, 0.2 % in fp16. That of the CPU's flash attention
is below 0.5."""


@dataclass(frozen=True)
class AttentionCall:
    """One kind of call of attention: what decides which kernel runs, and how."""

    shapes: tuple[tuple[int, ...], ...]
    """Of query, key and value: [B, heads, tokens, width]."""
    strides: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    mask: tuple[tuple[int, ...], torch.dtype] | None
    is_causal: bool
    scale: float | None

    def __str__(self) -> str:
        (_, heads, queries, width), (_, _, keys, _), _ = self.shapes
        return f"{queries} by {keys} tokens in {heads} heads of {width}"


class _Recorder(TorchFunctionMode):
    """Within it the kinds of calls of attention are recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[AttentionCall, None] = {}

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            self.calls[_call(*args, **(kwargs or {}))] = None
        return func(*args, **(kwargs or {}))


def _call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall:
    kind = query.device.type
    return AttentionCall(
        shapes=tuple(tuple(tensor.shape) for tensor in (query, key, value)),
        strides=tuple(tensor.stride() for tensor in (query, key, value)),
        dtype=torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype,
        mask=None if attn_mask is None else (tuple(attn_mask.shape), attn_mask.dtype),
        is_causal=is_causal,
        scale=scale,
    )


def recorded_calls(compute: Callable[[], object]) -> list[AttentionCall]:
    """The kinds of calls of attention in `compute`, which runs without gradients and is not compiled."""
    recorder = _Recorder()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"), recorder:
        compute()
    return list(recorder.calls)


def by_cudnn(*args: Any, **kwargs: Any) -> Tensor:
    """Attention by cuDNN's kernel alone."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        result: Tensor = scaled_dot_product_attention(*args, **kwargs)
    return result


def error_of(call: AttentionCall, device: torch.device, kernel: Kernel) -> float | None:
    """Largest relative error of a kernel's output and gradients for normal random numbers, against exact attention in
    float32 of the first head of the first image and the last of the last; infinite if any number is not finite.

    Returns:
        None: the kernel does not take the call, for which torch then takes another.
    """
    generator = torch.Generator(device).manual_seed(0)
    inputs = [
        # zero: an expanded tensor, whose memory cannot be filled
        torch.empty(shape, dtype=call.dtype, device=device).normal_(generator=generator)
        if 0 in stride
        else torch.empty_strided(shape, stride, dtype=call.dtype, device=device).normal_(generator=generator)
        for shape, stride in zip(call.shapes, call.strides, strict=True)
    ]
    gradient = torch.empty_like(inputs[0]).normal_(generator=generator)
    options = {"is_causal": call.is_causal, "scale": call.scale}
    mask = None if call.mask is None else torch.zeros(call.mask[0], dtype=call.mask[1], device=device)
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.logical_not()
    # The memory that is allocated next holds NaN: a kernel that reads what it has not written is found out.
    filled = [torch.full_like(tensor, torch.nan) for tensor in (*inputs, gradient)]
    filled.clear()
    try:
        mine = _passes(inputs, gradient, kernel, mask, options)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        return None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in mine):
        return float("inf")
    errors = []
    for head in ((slice(0, 1), slice(0, 1)), (slice(-1, None), slice(-1, None))):
        parts = [tensor[head].float() for tensor in (*inputs, gradient)]
        # The mask excludes nothing, so that it is the same for every head.
        exact = _passes(parts[:3], parts[3], _exactly, None, options)
        errors += [
            float((tensor[head].float() - best).norm() / best.norm()) for tensor, best in zip(mine, exact, strict=True)
        ]
    return max(errors)


def _exactly(*args: Any, **kwargs: Any) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        result: Tensor = scaled_dot_product_attention(*args, **kwargs)
    return result


def _passes(
    inputs: Sequence[Tensor], gradient: Tensor, kernel: Kernel, mask: Tensor | None, options: Mapping[str, Any]
) -> list[Tensor]:
    """The output, and the gradients of query, key and value."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = kernel(*leaves, attn_mask=mask, **options)
        return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]


def _problem(errors: Mapping[AttentionCall, float]) -> str:
    """Why a kernel with these errors must not be used; empty: it may be."""
    if not errors:
        return "it takes none of this run's shapes"
    worst = max(errors, key=lambda call: errors[call])
    if not math.isfinite(errors[worst]):
        return f"its output or a gradient is not finite with {worst}"
    if errors[worst] > TOLERANCE * torch.finfo(worst.dtype).eps:
        return f"its output or a gradient is off by {errors[worst]:.1%} with {worst}"
    return ""


class CudnnAttention:
    """Decides once, before the first step, in which steps cuDNN's attention may run.

    Args:
        able: what the device computes.
        half: whether the model computes in half precision.
        in_any_order: whether a resume need not be exact (memory.deterministic is off).
        log: called with the decision.
        kernel: the one that is tried.
    """

    def __init__(
        self,
        device: torch.device,
        able: Abilities,
        *,
        half: bool,
        in_any_order: bool,
        log: Log,
        kernel: Kernel = by_cudnn,
    ) -> None:
        self.wanted = able.cudnn and half and in_any_order
        self._device, self._log, self._kernel = device, log, kernel
        self._tried: frozenset[BatchShape] = frozenset()

    def probe(self, batches: Mapping[BatchShape, Callable[[], object]]) -> None:
        """Try the kernel at the shapes of a run.

        Args:
            batches: each shape of a batch that the run has, with a forward pass of one.
        """
        if not self.wanted:
            return
        try:
            calls = dict.fromkeys(call for compute in batches.values() for call in recorded_calls(compute))
            errors = {call: error_of(call, self._device, self._kernel) for call in calls}
            problem = _problem({call: error for call, error in errors.items() if error is not None})
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            problem = "there is not enough memory to try it"
        if problem:
            self._log(f"Attention in training steps: in any order, and without cuDNN's kernel: {problem}.")
            return
        self._tried = frozenset(batches)
        most = max(error for error in errors.values() if error is not None)
        self._log(
            "Attention in training steps: in any order, with cuDNN's kernel. Its output and gradients, tried at this "
            f"run's {plural(len(calls), 'shape')}, are within {most:.1%} of exact ones."
        )

    def give_up(self) -> None:
        """Do not use the kernel any more: a step was not finite, and this may be why."""
        if self._tried:
            self._tried = frozenset()
            self._log("Attention in training steps: from here on without cuDNN's kernel, as a step was not finite.")

    @contextmanager
    def allowed_for(self, shapes: Iterable[BatchShape]) -> Iterator[None]:
        """Within it torch may take cuDNN's attention, if all batches of these shapes were tried."""
        if not self._tried or not self._tried.issuperset(shapes):
            yield
            return
        torch.backends.cuda.enable_cudnn_sdp(True)
        try:
            yield
        finally:
            torch.backends.cuda.enable_cudnn_sdp(False)
