"""Split mode: the frozen weights of chosen blocks are in the host's memory and are copied to the device when used.

A block is split into pieces of neighbouring layers. A ring of slots on the device holds the piece in use and the next
ones, which are copied on a separate stream while the current one computes. Frozen weights do not change, so nothing is
copied back. LoRA parameters, norms and biases stay on the device.

Layers fetch their weight at each use (`engine.lowmem.frozen`): forward, backward, the recomputation of gradient
checkpointing, sampling, the check of a saved file. Pieces may be fetched in any order; the next ones are predicted from
earlier fetches, and a wrong prediction costs time only.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from typing_extensions import override

from engine.errors import MemoryLimitError
from engine.lowmem.frozen import FrozenConv2d, FrozenLayer, FrozenLinear, OffloadedWeights
from engine.types import Log

PIECE = 128 * 2**20
"""Most bytes of a piece, unless a single layer has more."""
SLOTS = 4
"""One piece in use and three being copied: pieces take unequal times, and the copy should never be idle."""
_ALIGNMENT = 256

Parts = dict[str, tuple[int, torch.dtype, torch.Size]]
"""Of each tensor of a layer: its offset in the piece in bytes, its dtype and its shape."""


@dataclass(eq=False)
class _Slot:
    buffer: Tensor
    """uint8, as long as the longest piece."""
    piece: int | None = None
    ready: Any = None
    """CUDA event: the piece has arrived."""
    free: Any = None
    """CUDA event: the computation with the previous piece is done."""


class WeightRing:
    """The slots on the device and the pieces in the host's memory.

    Args:
        pieces: [bytes] uint8 each, on the host; pinned where the device is a GPU.
    """

    def __init__(self, pieces: Sequence[Tensor], device: torch.device, slots: int = SLOTS) -> None:
        self.pieces = list(pieces)
        self.device = device
        self._count = min(slots, len(self.pieces))
        self._slots: list[_Slot] = []  # least recently used first
        self._slot_of: dict[int, _Slot] = {}
        self._current: _Slot | None = None
        self._last: tuple[int, int] = (-1, -1)
        self._next_piece: dict[tuple[int, int], int] = {}
        real = device.type == "cuda" and not any(isinstance(piece, FakeTensor) for piece in self.pieces)
        self._stream: Any = torch.cuda.Stream(device) if real else None  # type: ignore[no-untyped-call]

    @property
    def slot_bytes(self) -> int:
        """Bytes of the slots on the device."""
        return self._count * max(len(piece) for piece in self.pieces)

    @property
    def host_bytes(self) -> int:
        """Bytes of the pieces on the host."""
        return sum(len(piece) for piece in self.pieces)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def fetch(self, piece: int) -> Tensor:
        """The bytes of a piece on the device, valid until another piece is fetched."""
        now = self._current
        if now is not None and now.piece == piece:
            return now.buffer
        if now is not None and self._stream is not None:
            now.free = torch.cuda.current_stream(self.device).record_event()
        slot = self._slot_of.get(piece) or self._copy(piece, [])
        if slot.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        self._next_piece[self._last] = piece
        self._last, self._current = (self._last[1], piece), slot
        self._prefetch()
        return slot.buffer

    def close(self) -> None:
        """Free the device's memory; the next fetch allocates it anew."""
        if self._stream is not None:
            self._stream.synchronize()
        self._slots, self._slot_of, self._current, self._last = [], {}, None, (-1, -1)

    def _prefetch(self) -> None:
        """Fill the other slots with the pieces that will be fetched next."""
        before, piece = self._last
        coming = [piece]
        while len(coming) < self._count:
            following = self._next_piece.get((before, piece), piece + (1 if before <= piece else -1))
            if following in coming or not 0 <= following < len(self.pieces):
                break
            coming.append(following)
            if following not in self._slot_of:
                self._copy(following, coming)
            before, piece = piece, following

    def _copy(self, piece: int, keep: Sequence[int]) -> _Slot:
        """Start to copy a piece into the least recently used slot."""
        if not self._slots:
            self._allocate_slots()
        slot = next(slot for slot in self._slots if slot.piece not in keep)
        self._slots.remove(slot)
        self._slots.append(slot)
        self._slot_of.pop(slot.piece, None)  # type: ignore[arg-type]
        slot.piece, self._slot_of[piece] = piece, slot
        source = self.pieces[piece]
        target = slot.buffer[: len(source)]
        if self._stream is None:
            target.copy_(source)
            return slot
        with torch.cuda.stream(self._stream):
            if slot.free is not None:
                self._stream.wait_event(slot.free)
            target.copy_(source, non_blocking=True)
            slot.ready = self._stream.record_event()
        return slot

    def _allocate_slots(self) -> None:
        longest = max(len(piece) for piece in self.pieces)
        for _ in range(self._count):
            buffer = torch.empty(longest, dtype=torch.uint8, device=self.device)
            self._slots.append(_Slot(buffer))
            if self._stream is not None:
                buffer.record_stream(self._stream)  # a freed slot waits for the copy into it
        if self._stream is not None:  # earlier queued work may still use the memory
            self._stream.wait_stream(torch.cuda.current_stream(self.device))


@dataclass(frozen=True)
class _RingWeights(OffloadedWeights):
    """A layer's weights in a piece of the ring."""

    ring: WeightRing
    piece: int
    parts: Parts

    @override
    def fetch(self, name: str) -> Tensor:
        start, dtype, shape = self.parts[name]
        return _view(self.ring.fetch(self.piece), start, dtype, shape)


def swap_blocks(blocks: Sequence[nn.Module], count: int | None, device: torch.device, log: Log) -> WeightRing | None:
    """Move the weights of `count` blocks (all: None) into pinned host memory, in place; before LoRA layers are added.

    They are spread evenly: while a resident block computes, the next swapped one is copied.

    Returns:
        The ring; None when the blocks have no weights to move.

    Raises:
        MemoryLimitError: the system refuses to pin more memory.
    """
    if count is not None and count > len(blocks):
        log(f"blocks_to_swap {count}: this model has {len(blocks)} blocks, and all of them are swapped.")
    chosen = len(blocks) if count is None else min(count, len(blocks))
    indices = [(2 * turn + 1) * len(blocks) // (2 * chosen) for turn in range(chosen)]
    groups = [group for index in indices for group in _cut(blocks[index])]
    if not groups:
        return None
    pieces = [_gather(layers, device) for layers in groups]
    ring = WeightRing([buffer for buffer, _ in pieces], device)
    for number, layers in enumerate(groups):
        for layer, parts in zip(layers, pieces[number][1], strict=True):
            layer.offloaded = _RingWeights(ring, number, parts)
    log(
        f"Split mode: {chosen} of {len(blocks)} blocks, {ring.host_bytes / 2**30:.2f} GiB, are kept in host memory; "
        f"{ring._count} slots on the device take {ring.slot_bytes / 2**30:.2f} GiB."
    )
    if device.type == "cpu":
        log("Split mode on the CPU saves nothing: host and device are the same memory.")
    return ring


def _cut(module: nn.Module) -> list[list[FrozenLayer]]:
    """The layers in groups of neighbours that fit into a piece."""
    layers = list(_layers(module))
    children = list(module.children())
    if children and sum(_size(layer) for layer in layers) > PIECE:
        return [piece for child in children for piece in _cut(child)]
    return [layers] if layers else []


def _layers(module: nn.Module) -> Iterator[FrozenLayer]:
    """The layers whose weights can be moved; converts them to frozen layers."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear
        elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = FrozenConv2d
        if isinstance(layer, FrozenLayer):
            yield layer


def _size(layer: FrozenLayer) -> int:
    return sum(-(-getattr(layer, name).nbytes // _ALIGNMENT) * _ALIGNMENT for name in layer.packed_names)


def _gather(layers: Sequence[FrozenLayer], device: torch.device) -> tuple[Tensor, list[Parts]]:
    """One buffer with all tensors of the layers, which become views of it, and the position of each in it."""
    buffer = _host_buffer(sum(_size(layer) for layer in layers), device)
    positions, start = [], 0
    for layer in layers:
        parts: Parts = {}
        for name in layer.packed_names:
            tensor = getattr(layer, name)
            parts[name] = (start, tensor.dtype, tensor.shape)
            view = _view(buffer, *parts[name])
            view.copy_(tensor.detach())
            tensor.data = view
            start += -(-view.nbytes // _ALIGNMENT) * _ALIGNMENT
        positions.append(parts)
    return buffer, positions


def _view(buffer: Tensor, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return buffer[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _host_buffer(size: int, device: torch.device) -> Tensor:
    """[size] uint8. Pinned by registering: torch's own pinned memory is rounded up to a power of two."""
    buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
    if device.type == "cuda" and not isinstance(buffer, FakeTensor):
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(buffer.data_ptr(), size, 0)):
            raise MemoryLimitError(
                f"The system refuses to pin another {size / 2**20:.0f} MiB of memory for split mode.",
                "Set a smaller memory.blocks_to_swap, or memory.base_precision=int8.",
                code="pinned-memory-refused",
            )
        weakref.finalize(buffer, _unpin, buffer.data_ptr()).atexit = False
    return buffer


def _unpin(address: int) -> None:
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()  # a copy may be in progress
    runtime.cudaHostUnregister(address)
