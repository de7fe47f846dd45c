"""The forward and backward passes of a batch as one launch: captured once for each shape as a CUDA graph, and replayed.

A step starts thousands of operations from Python, and small ones take less time than their start. A graph starts them
all at once. It always works on the same memory: each batch is copied into that of the first one of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from engine.config import RunConfig
from engine.config.graphs import why_no_graphs
from engine.lowmem.compiled import nothing_compiled
from engine.out_of_memory import is_out_of_memory
from engine.training.batch_source import Batch
from engine.training.flat_update import UpdateLayout
from engine.types import Log

WARM_UP = 3
"""Passes of a shape before it is captured: in the first ones blocks are compiled (memory.torch_compile), and libraries
choose kernels and allocate workspaces."""
LIMIT = 32
"""Most shapes that are captured; the others start their operations one by one."""
TOLERANCE = 1e-2
"""Most relative difference of a gradient from that of the same pass without a graph, where kernels may add in any
order."""
LEAST_UPDATES = 200
"""In shorter runs "auto" captures nothing."""

Pass = Callable[[], Tensor]
"""Computes the passes of a batch; returns its loss, a scalar without a graph of autograd."""
Compute = Callable[[Batch, int], Tensor]
"""The passes of a batch that is one of so many in its update. Gradients are added to memory that stays in place."""


class Capturer(Protocol):
    """Records what a pass does on the device."""

    def capture(self, compute: Pass) -> Pass:
        """What repeats the pass on the same memory; nothing is computed yet.

        Raises:
            RuntimeError: it does something that cannot be recorded.
        """

    def release(self) -> None:
        """Give back the memory of everything that was captured, which is not used any more."""


class CudaCapturer:
    """CUDA graphs with one common pool of memory: they are replayed one after the other, and share nothing."""

    def __init__(self) -> None:
        self._pool: Any = None

    def capture(self, compute: Pass) -> Pass:
        """See `Capturer.capture`."""
        torch.cuda.empty_cache()  # the pool gets memory of its own
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            loss = compute()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay

    def release(self) -> None:
        """See `Capturer.release`."""
        self._pool = None
        torch.cuda.empty_cache()


class GraphedPasses:
    """Computes batches: the first ones of each shape one operation after the other, then from a graph.

    The first replay of a graph is compared with the same pass without it. If it differs, or if a pass cannot be
    captured, the run continues without graphs, which is logged once.

    Args:
        gradients: gives the memory that passes add to.
        exact: whether kernels add in a fixed order, so that a replay gives the same bytes.
        wait: waits until no other thread uses the device.
    """

    def __init__(
        self,
        compute: Compute,
        gradients: Callable[[], Sequence[Tensor]],
        capturer: Capturer,
        log: Log,
        *,
        exact: bool,
        wait: Callable[[], None],
    ) -> None:
        self._compute, self._gradients, self._capturer, self._log = compute, gradients, capturer, log
        self._exact, self._wait = exact, wait
        self._passes: dict[Any, int] = {}
        self._captured: dict[Any, tuple[Batch, Pass]] = {}
        self._is_refused = self._is_reported = False

    def __call__(self, batch: Batch, parts: int) -> Tensor:
        """The loss of the batch, which may change at the next call; its gradients are added.

        Args:
            parts: the number of batches of the update.
        """
        key = (parts, _shape_of(batch))
        self._passes[key] = self._passes.get(key, 0) + 1
        if key in self._captured:
            static, replay = self._captured[key]
            for own, new in zip(static.tensors(), batch.tensors(), strict=True):
                own.copy_(new)
            return replay()
        if self._is_refused or self._passes[key] <= WARM_UP or len(self._captured) == LIMIT:
            return self._compute(batch, parts)
        return self._capture(key, batch, parts)

    def release(self) -> None:
        """Free the memory of all graphs, for a phase that needs it; the next batch of each shape is captured anew."""
        if self._captured:
            self._captured.clear()
            self._capturer.release()

    def _capture(self, key: Any, batch: Batch, parts: int) -> Tensor:
        static = batch.each(torch.clone)
        gradients = self._gradients()
        before = [gradient.clone() for gradient in gradients]
        loss = self._compute(static, parts)
        after = [gradient.clone() for gradient in gradients]
        if not all(bool(value.isfinite().all()) for value in (loss, *after)):
            return loss  # NaN equals nothing; the next batch is captured
        problem = ""
        try:
            self._wait()
            with nothing_compiled():
                replay = self._capturer.capture(lambda: self._compute(static, parts))
            _set(gradients, before)
            problem = self._difference([replay(), *gradients], [loss, *after])
        except RuntimeError as error:
            problem = "there is not enough memory" if is_out_of_memory(error) else str(error).strip().partition("\n")[0]
        if not problem:
            self._captured[key] = static, replay
            if not self._is_reported:
                self._is_reported = True
                self._log("Training steps are launched as CUDA graphs, one for each shape of a batch.")
            return loss
        _set(gradients, after)
        self._is_refused = True
        self.release()
        self._log(f"Training steps are not launched as CUDA graphs: {problem}.")
        return loss

    def _difference(self, values: Sequence[Tensor], expected: Sequence[Tensor]) -> str:
        """What is wrong with a replay; empty: nothing."""
        for value, right in zip(values, expected, strict=True):
            if self._exact and not torch.equal(value, right):
                return "a replay did not give the same bytes"
            if not self._exact and not (value - right).norm() <= TOLERANCE * right.norm():
                return "a replay gave other values"
        return ""


def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _shape_of(batch: Batch) -> Any:
    """Everything that a graph of a batch depends on."""
    return (
        tuple(part is None for part in (batch.mask, *batch.noise)),
        tuple(batch.tokens),
        tuple(batch.text),
        tuple((tensor.shape, tensor.dtype) for tensor in batch.tensors()),
    )


def why_not(
    config: RunConfig,
    layout: UpdateLayout,
    *,
    device: torch.device,
    updates: int,
    parts: Sequence[nn.Module],
    tokenises: bool,
) -> str:
    """Why a run's steps are not captured, as part of a sentence; empty: they are.

    Args:
        updates: of the run.
        parts: of the model, that run in each step.
        tokenises: whether steps encode captions that were not tokenised before, which no graph can repeat.
    """
    excluded = why_no_graphs(config)
    reasons = {
        "it is a run on the CPU": device.type != "cuda",
        f"the run has fewer than {LEAST_UPDATES} steps": config.memory.cuda_graphs == "auto"
        and updates < LEAST_UPDATES,
        excluded: bool(excluded),
        "captions are tokenised in each step": tokenises,
        "dropouts of the model draw random numbers in each step": any(map(_has_dropout, parts)),
        "gradients have no memory that stays in place": layout.flat is None,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _has_dropout(part: nn.Module) -> bool:
    """transformers' attention has its share as a number."""
    shares = (
        module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", 0) for module in part.modules()
    )
    return any(isinstance(share, int | float) and share > 0 for share in shares)
