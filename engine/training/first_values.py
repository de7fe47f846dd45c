"""First values of a LoRA that depend on the loaded model (PiSSA, OLoRA) or on the run's images (EVA): set once, before
the first step of a run without a saved state."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.adapters.base_start import begin_with_base
from engine.adapters.doubled import DoubledLoraModule
from engine.adapters.lora_layers import ADAPTER, LoraModule
from engine.text import plural
from engine.training.objective import Objective
from engine.training.prepare import Prepared
from engine.training.ranks import Ranks
from engine.training.seeds import generator
from engine.training.session import Session
from engine.training.step import batch_loss
from engine.training.train_state import TrainState

_BATCHES = 16
"""Batches that EVA looks at."""
_ROWS = 256
"""Inputs of each layer and batch that EVA looks at, evenly spaced."""


def set_first_values(
    session: Session, prepared: Prepared, state: TrainState, ranks: Ranks, objective: Objective
) -> None:
    """Set the values by `network.init_lora_weights`; modules with those of a file keep them.

    Rank 0 computes them, and the others get its values. No random state of the run is used.

    Raises:
        Stopped: a stop was requested meanwhile.
    """
    network, how = prepared.network, prepared.config.network.initialisation
    doubled = [module for module in network.modules if isinstance(module, DoubledLoraModule) and not module.is_loaded]
    is_eva = how == "eva" and prepared.config.network.network_weights is None
    if not (doubled or is_eva):
        return
    started = time.perf_counter()
    if session.is_main and is_eva:
        text = _from_inputs(session, prepared, state, objective)
    elif session.is_main:
        text = _from_base(session, prepared, doubled, stoppable=ranks.size == 1)
    ranks.copy_from_first([*network.parameters(), *network.constants()])
    if session.is_main:
        session.log(f"{text}: {time.perf_counter() - started:.1f} s.")


def _from_base(session: Session, prepared: Prepared, modules: Sequence[DoubledLoraModule], *, stoppable: bool) -> str:
    how, seed = prepared.config.network.initialisation, prepared.config.training.seed
    report = session.progress("train", "layers")
    for number, module in enumerate(modules):
        begin_with_base(module, how, generator(seed, how, module.target.kohya_name))
        report(number + 1, len(modules))
        if stoppable:
            session.raise_if_stopped()
    return f"{_TITLES[how]}: the LoRA begins with a part of the weights of {plural(len(modules), 'module')}"


_TITLES = {"pissa": "PiSSA", "olora": "OLoRA"}


@torch.no_grad()
def _from_inputs(session: Session, prepared: Prepared, state: TrainState, objective: Objective) -> str:
    """EVA (Paischer et al. 2024): the downs are the main directions of the layers' inputs over some batches."""
    seed, batches = prepared.config.training.seed, prepared.batches
    modules = [module for module in state.network.modules if isinstance(module, LoraModule)]
    sketches = [InputSketch(module) for module in modules]
    report = session.progress("train", "batches")
    state.train(False)
    number = 0
    try:
        with _watching(sketches), _eager(prepared.model.trainable.values()):
            for step, micro, indices in _first_batches(prepared, state):
                batch = batches.load(indices, step, generator(seed, "eva", step, micro), objective)
                batch_loss(
                    prepared.model,
                    objective,
                    batch.each(lambda tensor: tensor.to(batches.device)),
                    network=state.network,
                    uncached_encoders=batches.uncached_encoders,
                    trained=state.components,
                    autocast=prepared.autocast(),
                )
                number += 1
                report(number, _BATCHES)
                if prepared.accelerator.num_processes == 1:
                    session.raise_if_stopped()
    finally:
        state.train(True)
    directions = [sketch.set_down() for sketch in sketches]
    few = sum(count < module.rank for count, module in zip(directions, modules, strict=True))
    rest = f"; {plural(few, 'module')} with fewer inputs than ranks began with random values too" if few else ""
    return f"EVA: the LoRA begins with the main directions of its layers' inputs, of {number} batches{rest}"


def _first_batches(prepared: Prepared, state: TrainState) -> Iterator[tuple[int, int, list[int]]]:
    """(update, number in it, items) of the run's first batches."""
    count = 0
    for step in range(state.plan.max_train_steps):
        for micro, indices in enumerate(prepared.batches.micro_batches(step)):
            if count == _BATCHES:
                return
            count += 1
            yield step, micro, indices


class InputSketch:
    """The main directions of a module's inputs, in bounded memory: twice the rank rows, updated by each batch."""

    def __init__(self, module: LoraModule) -> None:
        self._module = module
        self._rows: Tensor | None = None
        """[at most 2r, in(·k·k)] float32: orthogonal directions times their singular values, the largest first."""

    @property
    def layer(self) -> Any:
        """The layer whose inputs are read: those of a module all have the same."""
        return self._module.layers[0]

    def add(self, x: Tensor) -> None:
        """Add a batch of inputs [..., in] or [B, in, h, w]."""
        down = self.layer.lora_A[ADAPTER]
        rows = _patches(x, down) if isinstance(down, nn.Conv2d) else x.reshape(-1, x.shape[-1])
        rows = rows[:: -(-len(rows) // _ROWS)].float()
        rows = rows[rows.isfinite().all(dim=1)]
        self._rows = rows if self._rows is None else torch.cat((self._rows, rows))
        self._compress()

    def _compress(self) -> None:
        """The largest directions, from the small matrix of inner products in float64."""
        assert self._rows is not None
        rows = self._rows.double()
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        values, vectors = values.flip(0)[: 2 * self._module.rank], vectors.flip(1)[:, : 2 * self._module.rank]
        kept = values > values[0] * 1e-12
        self._rows = (vectors[:, kept].T @ rows).float()

    def set_down(self) -> int:
        """Use the directions as the rows of the module's downs; returns how many there are."""
        if self._rows is None:
            return 0
        directions = functional.normalize(self._rows[: self._module.rank], dim=1)
        for layer in self._module.layers:
            weight = layer.lora_A[ADAPTER].weight
            weight[: len(directions)] = directions.view(-1, *weight.shape[1:]).to(weight)
        return len(directions)


def _patches(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """Inputs [number, in · k · k] float32 of a convolution at evenly spaced places of all images, not many more than
    `_ROWS`: all of them would take k · k times the memory of `x`.

    Args:
        x: [B, in, h, w].
    """
    assert not isinstance(layer.padding, str)
    places = len(x) * x.shape[-2] * x.shape[-1] / (layer.stride[0] * layer.stride[1])
    apart = max(1, int((places / _ROWS) ** 0.5))
    stride = (layer.stride[0] * apart, layer.stride[1] * apart)
    patches = functional.unfold(x.float(), layer.kernel_size, layer.dilation, layer.padding, stride)
    return patches.transpose(1, 2).flatten(0, 1)


@contextmanager
def _watching(sketches: Sequence[InputSketch]) -> Iterator[None]:
    """Within it the sketches get the inputs of their layers."""
    handles = []
    for sketch in sketches:

        def watch(_: nn.Module, inputs: tuple[Any, ...], sketch: InputSketch = sketch) -> None:
            with torch.autocast(inputs[0].device.type, enabled=False):
                sketch.add(inputs[0])

        handles.append(sketch.layer.register_forward_pre_hook(watch))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _eager(components: Any) -> Iterator[None]:
    """Within it no block runs compiled: a graph would not call the hooks."""
    compiled = [
        (module, module._compiled_call_impl)
        for component in components
        for module in component.modules()
        if module._compiled_call_impl is not None
    ]
    for module, _ in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call
