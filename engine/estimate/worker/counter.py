"""Counts the memory of tensors: the results of every operation are tracked, each storage is counted once.

Sizes are rounded as torch's CUDA allocator rounds them. What it reserves is estimated by `Segments`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.estimate.worker.segments import Segments, rounded

OTHER = "activations"
"""Kind of storages created outside `StorageCounter.kind`."""


class StorageCounter:
    """Counts the memory of tensors on one type of device, from the first operation that returns them to their end.

    Args:
        device_type: "cpu", "planned".
        workspace: gives the bytes that an operation's kernel takes additionally while it runs, from the operation, its
            arguments and its result.
    """

    def __init__(self, device_type: str, workspace: Callable[[Any, Sequence[Any], Any], int] | None = None) -> None:
        self._device_type = device_type
        self._workspace = workspace
        self._storages: dict[int, tuple[int, str]] = {}
        self._kind = OTHER
        self._segments = Segments()
        self.live = 0
        """Bytes now."""
        self.kinds: Counter[str] = Counter()
        """Bytes now by kind."""
        self.peak = 0
        """Most bytes since `restart`."""
        self.kinds_at_peak: Mapping[str, int] = {}
        self.stage = ""
        """What a training step does now: "forward", "backward", "update"; empty outside of one."""
        self.stage_peaks: Counter[str] = Counter()
        """Most bytes in each stage."""

    def count(self, operation: Any, args: Sequence[Any], result: Any) -> None:
        """Count the results of an operation."""
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add_storage(leaf)
        if self._workspace is not None and (extra := self._workspace(operation, args, result)):
            self._note(extra)

    def _add_storage(self, tensor: Tensor) -> None:
        if tensor.device.type != self._device_type or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._storages or not storage.nbytes():
            return
        size = rounded(storage.nbytes())
        self._storages[key] = (size, self._kind)
        weakref.finalize(storage, self._remove_storage, key).atexit = False
        self.live += size
        self.kinds[self._kind] += size
        self._segments.allocate(key, size)
        self._note(0)

    def _remove_storage(self, key: int) -> None:
        size, kind = self._storages.pop(key)
        self.live -= size
        self.kinds[kind] -= size
        self._segments.free(key)

    def _note(self, extra: int) -> None:
        self.stage_peaks[self.stage] = max(self.stage_peaks[self.stage], self.live + extra)
        if self.live + extra > self.peak:
            self.peak = self.live + extra
            self.kinds_at_peak = {**self.kinds, "workspace": self.kinds["workspace"] + extra}

    @property
    def reserved(self) -> int:
        """Estimate of what the allocator would have taken from the device so far, at least `peak`."""
        return max(self._segments.reserved, self.peak)

    def restart(self) -> None:
        """Reset the peak, and return the allocator's unused memory to the device."""
        self.peak = 0
        self._segments.trim()
        self._note(0)

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Within it new storages count as this kind."""
        before, self._kind = self._kind, name
        try:
            yield
        finally:
            self._kind = before

    def rename(self, tensor: Tensor, kind: str) -> None:
        """Change the kind of the storage of `tensor`."""
        key = tensor.untyped_storage()._cdata
        if key in self._storages:
            size, before = self._storages[key]
            self._storages[key] = (size, kind)
            self.kinds[before] -= size
            self.kinds[kind] += size


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it a counter counts every operation."""

    def __init__(self, counter: StorageCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.counter.count(func, args, result)
        return result
