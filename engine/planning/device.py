"""A device that computes nothing and behaves like a GPU: tensors on it have sizes and no memory.

torch's fake tensors can be on "cuda", but autograd asks for that device's guard, which a build without CUDA has not
got, and with CUDA it would open a context on the card. So the device is torch's place for a backend of one's own
(PrivateUse1), with what decides about memory on a GPU copied from there:

* autocast: the operations that torch's CUDA autocast casts, with its own rules for them;
* attention: flash attention in half precision without a mask, else the memory-efficient kernel. On a GPU too the
  N × N matrix is never made.

The registration holds for the whole process and cannot be undone; nothing but the planner's process needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from inspect import signature
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from engine.planning.counter import StorageCounter

NAME = "planned"
DEVICE = "planned:0"
_HALF = (torch.float16, torch.bfloat16)
_KEY: Any = torch._C.DispatchKey.AutocastPrivateUse1  # type: ignore[attr-defined]

LOWER = frozenset({
    "_convolution", "_convolution.deprecated", "conv1d", "conv2d", "conv3d", "conv_tbc", "conv_transpose1d",
    "conv_transpose2d.input", "conv_transpose3d.input", "convolution", "prelu", "addmm", "addmv", "addr", "matmul",
    "einsum", "mm", "mv", "linalg_vecdot", "linear", "addbmm", "baddbmm", "bmm", "chain_matmul", "linalg_multi_dot",
    "_scaled_dot_product_flash_attention",
})  # fmt: skip
"""Cast to autocast's type (torch's list for CUDA)."""
SUMS = frozenset({"prod", "prod.dim_int", "softmax.int", "log_softmax.int", "cumprod", "cumsum", "sum",
                  "sum.dim_IntList"})  # fmt: skip
"""Their output is float32 where no dtype is asked for."""
WIDEST = frozenset({"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put",
                    "tensordot", "scatter_add"})  # fmt: skip
"""Cast to the widest type among their inputs."""
_LEFT_OUT = frozenset({"_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "gru_cell", "lstm_cell", "rnn_relu_cell",
                       "rnn_tanh_cell", "cudnn_convolution", "cudnn_convolution_transpose", "binary_cross_entropy",
                       "scaled_dot_product_attention", "norm.Scalar", "norm.ScalarOpt_dim"})  # fmt: skip
"""No model of ours has them; attention has a kernel of its own."""


_WHOLE = ("silu_backward", "_fused_rms_norm")
"""One kernel on a GPU; for a backend without one of its own torch takes them apart, and each part would be counted."""


def _never(*_: Any) -> Any:
    raise AssertionError("fake tensors are not computed with")


class _Module:
    """What torch asks a backend's module (`torch.planned`)."""

    _initialized = False
    """For gradient checkpointing: there is no random state to keep."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return list(_HALF)


_casts: dict[int, tuple[Tensor, Tensor]] = {}
"""Autocast's memory of cast weights, until the outermost region ends: (weight, cast) by the weight's id."""


@cache
def _register() -> list[Any]:
    """Make torch know the device, once for the process."""
    library: Any = torch.library.Library
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    others = library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    autocast = library("aten", "IMPL", "AutocastPrivateUse1")
    for short in own_operations(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")):
        if short not in _LEFT_OUT:
            autocast.impl(short, partial(_autocast, short, _operation(short)))
    autocast.impl("scaled_dot_product_attention", _lower_attention)
    attention = library("aten", "IMPL", "AutogradPrivateUse1")
    attention.impl("scaled_dot_product_attention", _attention)
    kernels = library("aten", "IMPL", "PrivateUse1")
    for name in _WHOLE:
        kernels.impl(name, _never)
    return [others, autocast, attention, kernels]


def own_operations(registered: Sequence[str]) -> list[str]:
    """torch's own operations, without "aten::"; a library that happens to be installed may have registered others."""
    return [name.removeprefix("aten::") for name in registered if name.startswith("aten::")]


def _operation(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    found: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return found


def _autocast(name: str, operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
        if name in SUMS:
            if kwargs.get("dtype") is None and isinstance(args[0], Tensor) and args[0].dtype in _HALF:
                kwargs["dtype"] = torch.float32
            return operation(*args, **kwargs)
        if name in LOWER:
            dtype = torch.get_autocast_dtype(NAME)
        elif name in WIDEST:
            dtype = _widest((args, kwargs))
        else:
            dtype = torch.float32
        args, kwargs = tree_map(partial(_cast, dtype), (args, kwargs))
        return operation(*args, **kwargs)


def _cast(dtype: torch.dtype, value: Any) -> Any:
    """As `cached_cast` in torch's autocast_mode.cpp: float tensors on the device; trained weights once a region."""
    if not isinstance(value, Tensor) or value.device.type != NAME or not value.is_floating_point():
        return value
    if value.dtype in (dtype, torch.float64):
        return value
    kept = value.dtype == torch.float32 and value.requires_grad and value.is_leaf and not value._is_view()
    if not kept or dtype == torch.float32:
        return value.to(dtype)
    if id(value) not in _casts:
        _casts[id(value)] = (value, value.to(dtype))
    return _casts[id(value)][1]


def _widest(values: Any) -> torch.dtype:
    found = torch.get_autocast_dtype(NAME)

    def look(value: Any) -> Any:
        nonlocal found
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            found = torch.float32
        return value

    tree_map(look, values)
    return found


def _lower_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *args: Any, **kwargs: Any
) -> Any:
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
        dtype = torch.get_autocast_dtype(NAME)
        query, key, value = (_cast(dtype, tensor) for tensor in (query, key, value))
        mask = None if mask is None else _cast(dtype, mask)
        return torch.ops.aten.scaled_dot_product_attention(query, key, value, mask, *args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The kernel that torch takes on a GPU with compute capability 8.0 or more."""
    assert not enable_gqa, "no model of ours shares keys between heads"
    if query.dtype in _HALF and attn_mask is None:
        flash: Any = torch.ops.aten._scaled_dot_product_flash_attention
        output: Tensor = flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return output
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(attn_mask.logical_not(), -torch.inf)
    if attn_mask is not None:
        attn_mask = attn_mask.expand(*query.shape[:-1], key.shape[-2])
    keeps = any(tensor.requires_grad for tensor in (query, key, value)) and torch.is_grad_enabled()
    efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    output = efficient(query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale)[0]
    return output


@contextmanager
def autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """torch.autocast on the device in float16 or bfloat16; None: nothing is cast."""
    try:
        with torch.autocast(NAME, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            yield
    finally:
        _casts.clear()


class _Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """torch's own, told that no device is really there: nothing is copied to it, not even a constant. A counter sees
    every operation here, and not in a mode of its own: that would take a third of the time again."""

    avoid_device_init = True

    def __init__(self, counter: StorageCounter) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._counter = counter
        self._inside = False
        """An operation is being taken apart to find the shape of its result: its parts are no memory on a GPU."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = MappingProxyType({})) -> Any:
        if self._inside:
            return super().dispatch(func, types, args, kwargs)
        self._inside = True
        try:
            result = super().dispatch(func, types, args, kwargs)
        finally:
            self._inside = False
        self._counter.see(func, args, result)
        return result


@contextmanager
def pretending(counter: StorageCounter) -> Iterator[None]:
    """Within it every new tensor is a fake one, on the host and on `DEVICE`, and modules can move between them."""
    _register()
    original = nn.Module._apply
    nn.Module._apply = _replacing  # type: ignore[method-assign]
    try:
        with _Fakes(counter), _made_anew():
            yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


@contextmanager
def _made_anew() -> Iterator[None]:
    """accelerate and PEFT make a parameter anew from a tensor and the old one's attributes, as
    `type(old)(tensor, **vars(old))`: a fake one can be made so since torch 2.13, and before it by this."""
    original = FakeTensor.__new__
    if "fake_device" in signature(original).parameters:
        yield
        return

    def new(cls: type[FakeTensor], first: Any, *others: Any, **attributes: Any) -> Any:
        if isinstance(first, FakeTensorMode):
            return original(cls, first, *others, **attributes)
        made = original(cls, attributes["fake_mode"], first, attributes["fake_device"])
        return nn.Parameter(made, attributes["requires_grad"])

    FakeTensor.__new__ = new  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        FakeTensor.__new__ = original  # type: ignore[method-assign]


def _replacing(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module.to` and its relatives, by new parameters: a fake tensor's device cannot be changed in place."""
    if recurse:
        for child in module.children():
            child._apply(fn)  # type: ignore[no-untyped-call]
    done: dict[nn.Parameter, nn.Parameter] = vars(fn).setdefault("done", {})  # one tensor may have two names
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter not in done:
            with torch.no_grad():
                moved = fn(parameter)
            done[parameter] = parameter if moved is parameter else nn.Parameter(moved, parameter.requires_grad)
        if parameter is not None:
            module._parameters[name] = done[parameter]
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module
