"""Twins of a model's components: new module objects around the same weights, for the check of a saved file.

Whatever a loader does to its twin (wrapping layers, casting, switching gradients), the model in training cannot notice,
and no weight is copied.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers.utils import logging as transformers_logging

from engine.errors import TrainingError
from engine.lowmem.eight_bit import decoded_products

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


def twin_of(module: nn.Module, *, keep_adapter: bool) -> nn.Module:
    """A second tree of module objects around the same tensors: no hooks, no gradients, and no shared object that the
    loader could change. Without `keep_adapter`, our adapters are left out."""
    if hasattr(module, "base_layer") and not keep_adapter:
        return twin_of(module.base_layer, keep_adapter=False)  # type: ignore[arg-type]
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
        key: None if child is None else twin_of(child, keep_adapter=keep_adapter)
        for key, child in module._modules.items()
    }
    if hasattr(module, "base_layer"):
        twin.__dict__["cast_input_dtype_enabled"] = True
    return twin


@contextmanager
def no_trace(components: Mapping[str, nn.Module]) -> Iterator[None]:
    """Context without gradients, autocast and products in 8 bits, which would amplify differences in rounding; restores
    random states and silences the loaders' output."""
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
            decoded_products(),
        ):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def failure(what: str) -> TrainingError:
    """The error for a file that did not pass its check."""
    return TrainingError(
        f"The LoRA just written did not pass its check and is not kept: {what}.",
        "The state of the training is not affected: check the disk, and resume; if it happens again, please report it.",
        code="written-lora-wrong",
    )
