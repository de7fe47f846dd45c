"""A device that computes nothing and behaves like a GPU: tensors on it have sizes and no memory.

torch's fake tensors can be on "cuda", but autograd then needs that device's guard, which builds without CUDA lack, and
which opens a context on the card in builds with CUDA. So this uses torch's key for custom backends (PrivateUse1), and
copies from CUDA what decides the memory:

* autocast: the same operations are cast, by the same rules;
* attention: flash attention in half precision without a mask, else the memory-efficient kernel; both without the N × N
  matrix.

The registration is for the entire process and cannot be undone; only the planner's process uses it.
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
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from engine.estimate.worker.counter import StorageCounter

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
"""Their output is float32 if no dtype is requested."""
WIDEST = frozenset({"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "vdot", "grid_sampler", "index_put",
                    "tensordot", "scatter_add"})  # fmt: skip
"""Cast to the widest type among their inputs."""
_EXCLUDED = frozenset({"_thnn_fused_gru_cell", "_thnn_fused_lstm_cell", "gru_cell", "lstm_cell", "rnn_relu_cell",
                       "rnn_tanh_cell", "cudnn_convolution", "cudnn_convolution_transpose", "binary_cross_entropy",
                       "scaled_dot_product_attention", "norm.Scalar", "norm.ScalarOpt_dim"})  # fmt: skip
"""Not used by any of our models; attention is registered separately."""


_FUSED = ("silu_backward", "_fused_rms_norm")
"""One kernel on a GPU; for backends without it torch decomposes them, and each part would be counted."""


def _never(*_: Any) -> Any:
    raise AssertionError("fake tensors are not computed with")


class _Module:
    """The backend's module (`torch.planned`), with what torch calls."""

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
"""Autocast's cache of cast weights, until the outermost region ends: (weight, cast) by the weight's id."""


@cache
def _register() -> list[Any]:
    """Register the device with torch, once per process."""
    library: Any = torch.library.Library
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    others = library("_", "IMPL", "AutocastPrivateUse1")
    others.fallback(torch.library.fallthrough_kernel)
    autocast = library("aten", "IMPL", "AutocastPrivateUse1")
    for short in own_operations(torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA")):
        if short not in _EXCLUDED:
            autocast.impl(short, partial(_autocast, short, _operation(short)))
    autocast.impl("scaled_dot_product_attention", _lower_attention)
    attention = library("aten", "IMPL", "AutogradPrivateUse1")
    attention.impl("scaled_dot_product_attention", _attention)
    kernels = library("aten", "IMPL", "PrivateUse1")
    for name in _FUSED:
        kernels.impl(name, _never)
    return [others, autocast, attention, kernels]


def own_operations(registered: Sequence[str]) -> list[str]:
    """torch's own operations, without "aten::"; other installed libraries may have registered more."""
    return [name.removeprefix("aten::") for name in registered if name.startswith("aten::")]


def _operation(name: str) -> Callable[..., Any]:
    packet, _, overload = name.partition(".")
    operation: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload or "default")
    return operation


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
    """As `cached_cast` in torch's autocast_mode.cpp: casts float tensors on the device; trained weights once per
    region."""
    if not isinstance(value, Tensor) or value.device.type != NAME or not value.is_floating_point():
        return value
    if value.dtype in (dtype, torch.float64):
        return value
    is_cached = value.dtype == torch.float32 and value.requires_grad and value.is_leaf and not value._is_view()
    if not is_cached or dtype == torch.float32:
        return value.to(dtype)
    if id(value) not in _casts:
        _casts[id(value)] = (value, value.to(dtype))
    return _casts[id(value)][1]


def _widest(values: Any) -> torch.dtype:
    dtype = torch.get_autocast_dtype(NAME)

    def look(value: Any) -> Any:
        nonlocal dtype
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            dtype = torch.float32
        return value

    tree_map(look, values)
    return dtype


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
    """The kernel that torch chooses on a GPU with compute capability 8.0 or more."""
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
    """torch.autocast on the device in float16 or bfloat16; None: no casts."""
    try:
        with torch.autocast(NAME, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            yield
    finally:
        _casts.clear()


class _Fakes(FakeTensorMode):  # type: ignore[no-untyped-call]
    """torch's mode for a device that does not exist: nothing is copied to it, not even constants. Operations are
    counted here and not in a second mode, which would take a third more time."""

    avoid_device_init = True

    def __init__(self, counter: StorageCounter) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._counter = counter
        self._inside = False
        """While an operation is decomposed to find the shape of its result: the parts take no memory on a GPU."""

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = MappingProxyType({})) -> Any:
        if self._inside:
            return super().dispatch(func, types, args, kwargs)
        self._inside = True
        try:
            result = super().dispatch(func, types, args, kwargs)
        except DataDependentOutputException:
            if func is not torch.ops.aten._local_scalar_dense.default:
                raise
            return 1.0 if args[0].is_floating_point() else 1  # some optimizers read a sum: any number will do
        finally:
            self._inside = False
        self._counter.count(func, args, result)
        return result


@contextmanager
def pretending(counter: StorageCounter) -> Iterator[None]:
    """Within it all new tensors are fake, on the host and on `DEVICE`, and modules can be moved between the two."""
    _register()
    original = nn.Module._apply
    nn.Module._apply = _replacing  # type: ignore[method-assign]
    try:
        with _Fakes(counter), _recreate_fake_parameters():
            yield
    finally:
        nn.Module._apply = original  # type: ignore[method-assign]


@contextmanager
def _recreate_fake_parameters() -> Iterator[None]:
    """accelerate and PEFT recreate a parameter as `type(old)(tensor, **vars(old))`: fake ones support that since torch
    2.13, earlier ones with this patch."""
    original = FakeTensor.__new__
    if "fake_device" in signature(original).parameters:
        yield
        return

    def new(cls: type[FakeTensor], first: Any, *others: Any, **attributes: Any) -> Any:
        if isinstance(first, FakeTensorMode):
            return original(cls, first, *others, **attributes)
        fake = original(cls, attributes["fake_mode"], first, attributes["fake_device"])
        return nn.Parameter(fake, attributes["requires_grad"])

    FakeTensor.__new__ = new  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        FakeTensor.__new__ = original  # type: ignore[method-assign]


def _replacing(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` with new parameters, because a fake tensor's device cannot be changed in place."""
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
