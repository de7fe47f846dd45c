"""The memory that CUDA graphs of a run take besides an eager step's, from the planner's trace of such a step.

All graphs of a run share one pool of memory, and what an operation computes inside of it is not freed for others. With

    A: what forward and backward pass of the largest batch have at their peak, beyond what was there before them,
    S: the tensors of a batch, of which each captured shape keeps a copy, n shapes in all,
    W: workspaces of cuBLAS, which it takes anew for the stream of the capture, in both threads,
    G: the memory of the gradients, copied twice while the first replay is compared with the eager pass,
    U: what clipping and the optimizer's step have at their peak, beyond what was there before them,

an eager step has A and then U in the same memory. Before a capture that memory is given back to the driver, and the
pool takes A + W for good. So the most that is allocated at a time is an eager step's and n S + W + 2 G: during a
capture. What is taken from the driver is an eager step's, n S + W, and the largest of what comes outside of the pool
while that is there: 2 G; U; and in runs of several shapes A + G, by a pass of a shape that is not captured yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from engine.estimate.plan import Need
from engine.estimate.worker.kernels import CUBLAS, CUBLASLT
from engine.estimate.worker.segments import rounded

WORKSPACES = 2 * CUBLAS + CUBLASLT
"""Bytes: W."""


@dataclass(frozen=True)
class GraphPool:
    """Bytes of a run with graphs; the module's docstring has the formula."""

    passes: int
    """A."""
    batch: int
    """S."""
    gradients: int
    """G."""
    update: int
    """U."""
    captured: int
    """n."""
    has_several_shapes: bool

    def added_to(self, need: Need) -> Need:
        """The need of the training with graphs, from that of eager steps."""
        kept = self.captured * self.batch + WORKSPACES
        copies = 2 * self.gradients
        uncaptured = self.passes + self.gradients if self.has_several_shapes else 0
        allocated = kept + copies
        breakdown = {**need.breakdown, "graphs": allocated}
        reserved = need.reserved + kept + max(copies, self.update, uncaptured)
        return replace(need, allocated=need.allocated + allocated, reserved=reserved, breakdown=breakdown)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What torch's allocator counts for tensors with memory of their own."""
    return sum(rounded(tensor.untyped_storage().nbytes()) for tensor in tensors)
