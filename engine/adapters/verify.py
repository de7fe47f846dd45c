"""The check of a saved LoRA: read back and loaded by diffusers' own loader, it must do what the adapter in memory does.

The check works on twins of the components: new module objects around the same weights. Whatever the loader does to
its twin (wrapping layers, casting, switching gradients), the model in training cannot notice, and no weight is copied.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn
from transformers.utils import logging as transformers_logging

from engine.adapters.lora import LoraNetwork
from engine.adapters.module import ADAPTER, LoraModule
from engine.adapters.names import ALPHA, DOWN, UP
from engine.errors import TrainingError
from engine.models.base import LoraReader
from engine.models.header import read_header
from engine.text import listing

_VERIFY = "verify"
_EPSILON = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Spacing of the numbers just above 1: what a cast changes, relatively."""
_TENSOR_FLOAT = 2.0**-14
"""Noise of fp32 on a GPU, whose convolutions may run in TF32."""


def verify_file(
    path: Path, network: LoraNetwork, components: Mapping[str, nn.Module], reader: LoraReader
) -> float | None:
    """Check a LoRA file against the adapter that it was saved from; nothing in training is touched.

    Args:
        path: a file that `write_lora` made from `network` as it is now.
        components: the components that `network` was attached to by name: the denoiser, and the text encoders.
        reader: of the model's family.

    Returns:
        The largest difference between the denoiser's output with the file and with the adapter in memory, relative
        to the output's largest value; None when the base itself gives no finite output in this precision.

    Raises:
        TrainingError: the file differs; the sentence says in what.
    """
    tensors = _read(path)
    _check_tensors(tensors, network)
    with _no_trace(components):
        loaded = _loaded_by_diffusers(tensors, components, reader)
        _check_loaded(loaded, tensors, network, folded=reader.folds_alpha)
        return _check_forward(loaded, tensors, components, reader)


def rehearse(network: LoraNetwork, components: Mapping[str, nn.Module], reader: LoraReader) -> None:
    """What `verify_file` takes of the device, without a file and without comparing: a second adapter in float32 and the
    small forward. For plans, under fake tensors."""
    second = [torch.empty_like(parameter, dtype=torch.float32) for parameter in network.parameters()]
    with _no_trace(components):
        reader.denoise({key: _twin(component, keep_adapter=True) for key, component in components.items()})
    del second


def _read(path: Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    metadata = read_header(path).metadata
    start = 8 + int.from_bytes(data[:8], "little")
    if hashlib.sha256(memoryview(data)[start:]).hexdigest() != metadata.get("sshs_model_hash"):
        raise _failure("what was read back has another hash than what was written")
    try:
        return load(data)
    except SafetensorError as error:
        raise _failure(f"it cannot be read back ({error})") from error


def _check_tensors(tensors: Mapping[str, torch.Tensor], network: LoraNetwork) -> None:
    """Exactly the network's modules, three tensors each, of the right shapes and finite."""
    expected: dict[str, tuple[int, ...]] = {}
    for module in network.modules:
        for part, shape in zip((DOWN, UP, ALPHA), (*module.shapes, ()), strict=True):
            expected[f"{module.target.kohya_name}.{part}"] = shape
    shared = expected.keys() & tensors.keys()
    for problem, keys in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has besides", tensors.keys() - expected.keys()),
        ("has of another shape", {key for key in shared if tensors[key].shape != expected[key]}),
        ("has with NaN or infinity", {key for key in tensors if not torch.isfinite(tensors[key]).all()}),
    ):
        if keys:
            raise _failure(f"it {problem} {len(keys)} of {len(expected)} tensors: {listing(sorted(keys), 3)}")


def _loaded_by_diffusers(
    tensors: Mapping[str, torch.Tensor], components: Mapping[str, nn.Module], reader: LoraReader
) -> dict[str, nn.Module]:
    """Twins of the components without our adapter, and with the file loaded as diffusers loads it."""
    twins = {key: _twin(component, keep_adapter=False) for key, component in components.items()}
    try:
        reader.load(twins, tensors, _VERIFY)
    except (ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise _failure(f"diffusers' load_lora_weights refuses it ({error})") from error
    return {key: twin.eval() for key, twin in twins.items()}


def _check_loaded(
    loaded: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor], network: LoraNetwork, *, folded: bool
) -> None:
    """Each module arrived at its layers with its values and its scale, and no layer has one besides."""
    layers = {
        (component, path): layer
        for component, twin in loaded.items()
        for path, layer in twin.named_modules()
        if _VERIFY in getattr(layer, "lora_A", ())
    }
    wanted = {(module.target.component, path) for module in network.modules for path in module.target.paths}
    if layers.keys() != wanted:
        missing = sorted(".".join(key) for key in wanted - layers.keys())
        besides = sorted(".".join(key) for key in layers.keys() - wanted)
        raise _failure(
            f"loaded by diffusers, it misses {listing(missing, 3) or 'nothing'} and changes "
            f"{listing(besides, 3) or 'nothing'} besides",
        )
    for module in network.misread_by_diffusers():
        layers[module.target.component, module.target.path].scaling[_VERIFY] = module.scale
    wrong = []
    for module in network.modules:
        here = [layers[module.target.component, path] for path in module.target.paths]
        arrived = (_folded if folded else _whole)(module, here, tensors)
        if not arrived or not _is_as_in_memory(module, tensors):
            wrong.append(f"{module.target.component}.{module.target.path}")
    if wrong:
        raise _failure(f"{len(wrong)} modules differ from the adapter in memory: {listing(wrong, 3)}")
    _in_float32(loaded)


def _in_float32(loaded: Mapping[str, nn.Module]) -> None:
    """The file's values are checked: its number format shall not overflow in the forward. peft puts them beside the
    base's weight, which may wait on the host (split mode)."""
    for twin in loaded.values():
        device = next(twin.parameters()).device
        layers: list[Any] = [layer for layer in twin.modules() if _VERIFY in getattr(layer, "lora_A", ())]
        for layer in layers:
            layer.lora_A[_VERIFY].to(device, torch.float32)
            layer.lora_B[_VERIFY].to(device, torch.float32)


def _is_as_in_memory(module: LoraModule, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the file's three tensors are the adapter's, cast."""
    down, up, alpha = (tensors[f"{module.target.kohya_name}.{part}"] for part in (DOWN, UP, ALPHA))
    return (
        torch.equal(module.down.detach().to("cpu", down.dtype), down)
        and torch.equal(module.up.detach().to("cpu", up.dtype), up)
        and torch.equal(torch.tensor(module.alpha, dtype=alpha.dtype), alpha)
    )


def _whole(module: LoraModule, layers: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the one layer has the file's matrices, and the module's scale."""
    (layer,) = layers
    for part, theirs in ((DOWN, layer.lora_A[_VERIFY].weight), (UP, layer.lora_B[_VERIFY].weight)):
        stored = tensors[f"{module.target.kohya_name}.{part}"]
        if not torch.equal(theirs.detach().to("cpu", torch.float32), stored.to(theirs.dtype).float()):
            return False
    alpha = tensors[f"{module.target.kohya_name}.{ALPHA}"]
    return bool(abs(layer.scaling[_VERIFY] - module.scale) <= abs(module.scale) * _EPSILON[alpha.dtype])


def _folded(module: LoraModule, layers: Sequence[Any], tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether each layer of the module has the file's down matrix and its rows of the up matrix, with the scale spread
    over both; or, where the up matrix is block-diagonal, its block of ranks only."""
    down, up = (tensors[f"{module.target.kohya_name}.{part}"].float() for part in (DOWN, UP))
    rows = torch.split(up, [len(one) for one in module.ups])
    for index, (layer, mine) in enumerate(zip(layers, rows, strict=True)):
        theirs_down, theirs_up = (
            half[_VERIFY].weight.detach().to("cpu", torch.float32) for half in (layer.lora_A, layer.lora_B)
        )
        rank = len(theirs_down)
        block = slice(None) if rank == len(down) else slice(index * rank, (index + 1) * rank)
        if mine.count_nonzero() != mine[:, block].count_nonzero():
            return False
        kinds = {layer.lora_A[_VERIFY].weight.dtype, tensors[f"{module.target.kohya_name}.{DOWN}"].dtype}
        rounding = 2 * max(_EPSILON[kind] for kind in kinds)
        factors = [_factor(theirs_down, down[block], rounding), _factor(theirs_up, mine[:, block], rounding)]
        if None in factors:
            return False
        found = math.prod(factor for factor in factors if factor is not None) * layer.scaling[_VERIFY]
        if mine.any() and abs(found - module.scale) > 2 * rounding * abs(module.scale):
            return False
    return True


def _factor(theirs: torch.Tensor, stored: torch.Tensor, rounding: float) -> float | None:
    """The number that `stored` was multiplied with; None where no number explains `theirs`."""
    if theirs.shape != stored.shape:
        return None
    largest = stored.abs().max()
    factor = (
        float(theirs.flatten()[stored.abs().argmax()] / stored.flatten()[stored.abs().argmax()]) if largest else 1.0
    )
    return factor if (theirs - stored * factor).abs().max() <= rounding * abs(factor) * largest else None


def _check_forward(
    loaded: Mapping[str, nn.Module],
    tensors: Mapping[str, torch.Tensor],
    components: Mapping[str, nn.Module],
    reader: LoraReader,
) -> float | None:
    """One small forward each with the adapter in memory and with the file.

    A deep network in half precision can make much of the file's rounding. Where the outputs differ by more than the
    computation's own rounding, the adapter in memory is rounded likewise (in its twin): then both must agree.
    """
    memory = {key: _twin(component, keep_adapter=True) for key, component in components.items()}
    mine, theirs = reader.denoise(memory), reader.denoise(loaded)
    largest = mine.abs().max().item()
    difference = (theirs - mine).abs().max().item()
    if not math.isfinite(difference):
        with_none = {key: _twin(component, keep_adapter=False) for key, component in components.items()}
        if torch.isfinite(reader.denoise(with_none)).all():
            raise _failure("with it the denoiser gives NaN or infinity")
        return None
    allowed = 16 * max(_EPSILON[next(list(components.values())[-1].parameters()).dtype], _TENSOR_FLOAT) * largest
    if difference > allowed:
        _round(memory, next(iter(tensors.values())).dtype)
        unexplained = (theirs - reader.denoise(memory)).abs().max().item()
        if not unexplained <= allowed:
            raise _failure(
                f"with it the denoiser's output differs by {unexplained:.3g} from that of the adapter in memory; "
                f"{allowed:.3g} is the most that rounding explains"
            )
    return difference / largest if largest else difference


def _round(twins: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    """Round the adapter in the twins as the file's number format does."""
    for twin in twins.values():
        layers: list[Any] = [layer for layer in twin.modules() if hasattr(layer, "lora_A")]
        for layer in layers:
            for half in (layer.lora_A, layer.lora_B):
                half[ADAPTER].weight.data = half[ADAPTER].weight.data.to(dtype).float()
            alpha = torch.tensor(layer.lora_alpha[ADAPTER], dtype=dtype).item()
            layer.scaling = {ADAPTER: alpha / layer.r[ADAPTER]}  # another dictionary: the old one is the original's


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)


def _twin(module: nn.Module, *, keep_adapter: bool) -> nn.Module:
    """A second tree of module objects around the same tensors: no hooks, no gradients, and nothing shared that the
    loader could change. Without `keep_adapter`, our LoRA layers are left out."""
    if hasattr(module, "lora_A") and not keep_adapter:
        return _twin(module.get_base_layer(), keep_adapter=False)  # type: ignore[operator]
    twin = module.__class__.__new__(module.__class__)
    # a bound method among the attributes would lead back to the original
    kept = {key: value for key, value in module.__dict__.items() if not inspect.ismethod(value)}
    twin.__dict__.update(kept)
    twin.__dict__.update({key: OrderedDict() for key in _HOOKS if key in kept})
    twin.__dict__["_compiled_call_impl"] = None  # it would run the original
    twin.__dict__["_parameters"] = {
        key: None if value is None else nn.Parameter(value.data, requires_grad=False)
        for key, value in module._parameters.items()
    }
    twin.__dict__["_buffers"] = dict(module._buffers)
    twin.__dict__["_modules"] = {
        key: None if child is None else _twin(child, keep_adapter=keep_adapter)
        for key, child in module._modules.items()
    }
    if hasattr(module, "lora_A"):
        twin.__dict__["cast_input_dtype_enabled"] = True
    else:
        for key in ("peft_config", "_hf_peft_config_loaded"):
            twin.__dict__.pop(key, None)
    return twin


@contextmanager
def _no_trace(components: Mapping[str, nn.Module]) -> Iterator[None]:
    """No gradients, no autocast, random states put back, and the loaders' chatter held back."""
    devices = {next(component.parameters()).device for component in components.values()}
    cuda = [device for device in devices if device.type == "cuda"]
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    bar = transformers_logging.is_progress_bar_enabled()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        with (
            warnings.catch_warnings(action="ignore"),
            torch.no_grad(),
            torch.random.fork_rng(cuda),
            torch.autocast(cuda[0].type if cuda else "cpu", enabled=False),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _failure(what: str) -> TrainingError:
    return TrainingError(
        f"The LoRA just written did not pass its check and is not kept: {what}.",
        "The state of the training is not affected: check the disk, and resume; if it comes again, please report it.",
    )
