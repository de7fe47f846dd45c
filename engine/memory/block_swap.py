"""Split mode: the frozen weights of chosen blocks wait in the host's memory and come to the device when they are used.

A block is cut into pieces of neighbouring layers. A ring of slots on the device holds the piece in use and those that
come next; they are copied on a stream of their own while the present one computes. Frozen weights do not change, so
nothing is copied back. LoRA parameters, norms and biases stay on the device.

Whoever uses a layer asks for its weight (`engine.memory.frozen`): forward, backward, the second forward of gradient
checkpointing, a picture, the check of a saved file. The answer is right in any order of pieces; what comes next is
learned from what came before, and a wrong guess costs time only.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from engine.errors import MemoryLimitError
from engine.memory.frozen import Frozen, FrozenConv2d, FrozenLinear
from engine.models.base import Say

PIECE = 128 * 2**20
"""Bytes that a piece may have, unless a single layer has more."""
SLOTS = 4
"""One piece in use, and three on their way: pieces take unequally long, and the copy should never stand still."""
_ALIGNMENT = 256

Parts = dict[str, tuple[int, torch.dtype, torch.Size]]
"""Of each tensor of a layer: where its bytes begin in the piece, its dtype and its shape."""


@dataclass(eq=False)
class _Slot:
    buffer: Tensor
    """uint8, as long as the longest piece."""
    piece: int | None = None
    ready: Any = None
    """CUDA event: the piece has arrived."""
    free: Any = None
    """CUDA event: what was computed with the former piece is done."""


class Ring:
    """The slots on the device, and the pieces in the host's memory.

    Args:
        pieces: [bytes] uint8 each, on the host; pinned where the device is a GPU.
    """

    def __init__(self, pieces: Sequence[Tensor], device: torch.device, slots: int = SLOTS) -> None:
        self.pieces = list(pieces)
        self.device = device
        self._count = min(slots, len(self.pieces))
        self._slots: list[_Slot] = []  # the longest unused first
        self._of: dict[int, _Slot] = {}
        self._now: _Slot | None = None
        self._last: tuple[int, int] = (-1, -1)
        self._learned: dict[tuple[int, int], int] = {}
        real = device.type == "cuda" and not any(isinstance(piece, FakeTensor) for piece in self.pieces)
        self._stream: Any = torch.cuda.Stream(device) if real else None  # type: ignore[no-untyped-call]

    @property
    def slot_bytes(self) -> int:
        """What the slots take on the device."""
        return self._count * max(len(piece) for piece in self.pieces)

    @property
    def host_bytes(self) -> int:
        """What the pieces take on the host."""
        return sum(len(piece) for piece in self.pieces)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def fetch(self, piece: int) -> Tensor:
        """The bytes of a piece on the device, good until another piece is fetched."""
        now = self._now
        if now is not None and now.piece == piece:
            return now.buffer
        if now is not None and self._stream is not None:
            now.free = torch.cuda.current_stream(self.device).record_event()
        slot = self._of.get(piece) or self._copy(piece, [])
        if slot.ready is not None:
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
        self._learned[self._last] = piece
        self._last, self._now = (self._last[1], piece), slot
        self._prefetch()
        return slot.buffer

    def close(self) -> None:
        """Give the device's memory back; the next fetch takes it again."""
        if self._stream is not None:
            self._stream.synchronize()
        self._slots, self._of, self._now, self._last = [], {}, None, (-1, -1)

    def _prefetch(self) -> None:
        """Fill the other slots with what will be fetched next."""
        before, piece = self._last
        coming = [piece]
        while len(coming) < self._count:
            following = self._learned.get((before, piece), piece + (1 if before <= piece else -1))
            if following in coming or not 0 <= following < len(self.pieces):
                break
            coming.append(following)
            if following not in self._of:
                self._copy(following, coming)
            before, piece = piece, following

    def _copy(self, piece: int, keep: Sequence[int]) -> _Slot:
        """Start to copy a piece into the slot that has been unused for the longest time."""
        if not self._slots:
            self._take_slots()
        slot = next(slot for slot in self._slots if slot.piece not in keep)
        self._slots.remove(slot)
        self._slots.append(slot)
        self._of.pop(slot.piece, None)  # type: ignore[arg-type]
        slot.piece, self._of[piece] = piece, slot
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

    def _take_slots(self) -> None:
        longest = max(len(piece) for piece in self.pieces)
        for _ in range(self._count):
            buffer = torch.empty(longest, dtype=torch.uint8, device=self.device)
            self._slots.append(_Slot(buffer))
            if self._stream is not None:
                buffer.record_stream(self._stream)  # a slot that is let go waits for the copy into it
        if self._stream is not None:  # the memory may still be in use by what was queued before
            self._stream.wait_stream(torch.cuda.current_stream(self.device))


@dataclass(frozen=True)
class _Seat:
    """See `Seat`."""

    ring: Ring
    piece: int
    parts: Parts

    def fetch(self, name: str) -> Tensor:
        start, dtype, shape = self.parts[name]
        return _view(self.ring.fetch(self.piece), start, dtype, shape)


def swap_blocks(blocks: Sequence[nn.Module], count: int | None, device: torch.device, say: Say) -> Ring | None:
    """Move the weights of `count` blocks (all: None) into pinned host memory, in place; before LoRA layers are put in.

    They are spread evenly: while a resident block computes, the next one that is not resident can arrive.

    Returns:
        The ring; None when the blocks have no weights to move.

    Raises:
        MemoryLimitError: the system pins no more memory.
    """
    if count is not None and count > len(blocks):
        say(f"blocks_to_swap {count}: this model has {len(blocks)} blocks, and all of them are swapped.")
    chosen = len(blocks) if count is None else min(count, len(blocks))
    indices = [(2 * turn + 1) * len(blocks) // (2 * chosen) for turn in range(chosen)]
    groups = [group for index in indices for group in _cut(blocks[index])]
    if not groups:
        return None
    gathered = [_gather(layers, device) for layers in groups]
    ring = Ring([buffer for buffer, _ in gathered], device)
    for number, layers in enumerate(groups):
        for layer, parts in zip(layers, gathered[number][1], strict=True):
            layer.seat = _Seat(ring, number, parts)
    say(
        f"Split mode: {chosen} of {len(blocks)} blocks, {ring.host_bytes / 2**30:.2f} GiB, wait in host memory; "
        f"{ring._count} slots on the device take {ring.slot_bytes / 2**30:.2f} GiB."
    )
    if device.type == "cpu":
        say("Split mode on the CPU wins nothing: host and device are the same memory.")
    return ring


def _cut(module: nn.Module) -> list[list[Frozen]]:
    """Neighbouring layers together, as many as a piece may have."""
    layers = list(_layers(module))
    children = list(module.children())
    if children and sum(_size(layer) for layer in layers) > PIECE:
        return [piece for child in children for piece in _cut(child)]
    return [layers] if layers else []


def _layers(module: nn.Module) -> Iterator[Frozen]:
    """The layers whose weights can be moved; they become frozen ones."""
    for layer in module.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = FrozenLinear
        elif type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            layer.__class__ = FrozenConv2d
        if isinstance(layer, Frozen):
            yield layer


def _size(layer: Frozen) -> int:
    return sum(-(-getattr(layer, name).nbytes // _ALIGNMENT) * _ALIGNMENT for name in layer.held)


def _gather(layers: Sequence[Frozen], device: torch.device) -> tuple[Tensor, list[Parts]]:
    """One buffer with all tensors of the layers, which become views of it; and where each stands in it."""
    buffer = _host_buffer(sum(_size(layer) for layer in layers), device)
    places, start = [], 0
    for layer in layers:
        parts: Parts = {}
        for name in layer.held:
            tensor = getattr(layer, name)
            parts[name] = (start, tensor.dtype, tensor.shape)
            view = _view(buffer, *parts[name])
            view.copy_(tensor.detach())
            tensor.data = view
            start += -(-view.nbytes // _ALIGNMENT) * _ALIGNMENT
        places.append(parts)
    return buffer, places


def _view(buffer: Tensor, start: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    return buffer[start : start + shape.numel() * dtype.itemsize].view(dtype).view(shape)


def _host_buffer(size: int, device: torch.device) -> Tensor:
    """[size] uint8. Pinned by registering: torch's own pinned memory is rounded up to a power of two."""
    buffer = torch.empty(size, dtype=torch.uint8, device="cpu")
    if device.type == "cuda" and not isinstance(buffer, FakeTensor):
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        if int(runtime.cudaHostRegister(buffer.data_ptr(), size, 0)):
            raise MemoryLimitError(
                f"The system does not pin another {size / 2**20:.0f} MiB of memory for split mode.",
                "Set a smaller memory.blocks_to_swap, or memory.base_precision=int8.",
            )
        weakref.finalize(buffer, _unpin, buffer.data_ptr()).atexit = False
    return buffer


def _unpin(address: int) -> None:
    runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()  # a copy may be under way
    runtime.cudaHostUnregister(address)
