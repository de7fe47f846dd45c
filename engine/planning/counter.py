"""How much memory tensors take at a time: every operation's results are watched, each storage is counted once.

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

from engine.planning.segments import Segments, rounded

OTHER = "activations"
"""Kind of what is made outside `StorageCounter.kind`."""


class StorageCounter:
    """Counts what tensors on devices of one type take, from the first operation that shows them to their end.

    Args:
        device_type: of what is counted: "cpu", "planned".
        workspace: of an operation, its arguments and its result: bytes that the kernel takes besides, while it runs.
    """

    def __init__(self, device_type: str, workspace: Callable[[Any, Sequence[Any], Any], int] | None = None) -> None:
        self._device_type = device_type
        self._workspace = workspace
        self._known: dict[int, tuple[int, str]] = {}
        self._kind = OTHER
        self._segments = Segments()
        self.live = 0
        """Bytes now."""
        self.kinds: Counter[str] = Counter()
        """Bytes now by kind."""
        self.peak = 0
        """Most bytes since `restart`."""
        self.kinds_at_peak: Mapping[str, int] = {}

    def see(self, operation: Any, args: Sequence[Any], result: Any) -> None:
        """Take up what an operation gave."""
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf)
        if self._workspace is not None and (extra := self._workspace(operation, args, result)):
            self._note(extra)

    def _watch(self, tensor: Tensor) -> None:
        if tensor.device.type != self._device_type or tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known or not storage.nbytes():
            return
        size = rounded(storage.nbytes())
        self._known[key] = (size, self._kind)
        weakref.finalize(storage, self._forget, key).atexit = False
        self.live += size
        self.kinds[self._kind] += size
        self._segments.take(key, size)
        self._note(0)

    def _forget(self, key: int) -> None:
        size, kind = self._known.pop(key)
        self.live -= size
        self.kinds[kind] -= size
        self._segments.give(key)

    def _note(self, extra: int) -> None:
        if self.live + extra > self.peak:
            self.peak = self.live + extra
            self.kinds_at_peak = {**self.kinds, "workspace": self.kinds["workspace"] + extra}

    @property
    def reserved(self) -> int:
        """What the allocator would have taken from the device until now, at least `peak`; an estimate."""
        return max(self._segments.reserved, self.peak)

    def restart(self) -> None:
        """Begin a new peak; what the allocator holds in reserve is given back."""
        self.peak = 0
        self._segments.trim()
        self._note(0)

    @contextmanager
    def kind(self, name: str) -> Iterator[None]:
        """Within it new storages are of this kind."""
        before, self._kind = self._kind, name
        try:
            yield
        finally:
            self._kind = before

    def rename(self, tensor: Tensor, kind: str) -> None:
        """What `tensor` stands in is of another kind than was known when it was made."""
        key = tensor.untyped_storage()._cdata
        if key in self._known:
            size, before = self._known[key]
            self._known[key] = (size, kind)
            self.kinds[before] -= size
            self.kinds[kind] += size


class Watching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it a counter sees every operation."""

    def __init__(self, counter: StorageCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.counter.see(func, args, result)
        return result
