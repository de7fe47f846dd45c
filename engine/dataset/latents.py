"""The latent cache: each picture encoded once, keyed by its content and by everything that changes its latent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.dataset.batches import Item
from engine.dataset.digests import FileDigests
from engine.dataset.pictures import Rejected
from engine.dataset.pixels import latent_mask, load_pixels
from engine.dataset.pool import Progress, ordered_map, workers
from engine.dataset.store import TensorStore
from engine.errors import DataError
from engine.text import printable

if TYPE_CHECKING:
    import torch

_FORMAT = "latents 1"
_Key = tuple[Path, tuple[tuple[int, int], ...], bool, tuple[object, ...] | None]


@dataclass
class BuildReport:
    """What a caching run did."""

    made: int = 0
    reused: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stopped: bool = False
    """It was asked to stop; what it made is kept, the next build goes on there."""


@dataclass(frozen=True, slots=True)
class _Entry:
    item: Item
    flip: bool

    @property
    def identity(self) -> _Key:
        placement = self.item.placement
        table = self.item.table
        own = None if table is None else (table.resize_interpolation, table.alpha_background, table.alpha_mask)
        return self.item.picture.path, (placement.bucket, placement.resized, placement.crop), self.flip, own


@dataclass
class _Batch:
    """Pictures of one bucket on their way to the encoder."""

    size: int
    keys: dict[_Entry, str] = field(default_factory=dict)
    missing: set[_Entry] = field(default_factory=set)
    loaded: list[tuple[_Entry, torch.Tensor, torch.Tensor | None]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class LatentCache:
    """Latents of pictures, on disk or in memory.

    Args:
        directory: where files go, never the picture folder; None: in memory.
        model_key: names the VAE and its precision: another key, other latents.
        table: resampling, background, mask and mirroring are read from it, for items without settings of their own.
        digests: of images that were read already.
    """

    def __init__(
        self, directory: Path | None, model_key: str, table: DatasetTable, digests: FileDigests | None = None
    ) -> None:
        self._store = TensorStore(directory)
        self._model_key = model_key
        self._table = table
        self._digests = digests or FileDigests()
        self._keys: dict[_Key, str] = {}

    def build(
        self,
        items: Iterable[Item],
        encode: Callable[[torch.Tensor], torch.Tensor],
        batch_size: int = 1,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> BuildReport:
        """Encode what is not there yet.

        Batches are cut from the whole list, not from what is missing, so that a latent does not depend on where an
        earlier run was killed.

        Args:
            encode: pixels [B, 3, H, W] float32 on the CPU to moments [B, 2C, h, w].
            batch_size: pictures encoded at once.
            progress: told (done, all) latents.
            should_stop: asked before each batch.

        Returns:
            counts, and pictures that can't be read: take them out with `Scan.without` and plan again.

        Raises:
            DataError: a latent is not finite (with the picture's name).
            StorageError: no space or no permission.
        """
        report = BuildReport()
        entries = self._entries(items)
        saved: set[str] = set()
        done = 0
        batches = ordered_map(self._prepare, _batches(entries, batch_size), workers(4), ahead=8)
        with closing(batches):
            while not (stopped := should_stop()) and (batch := next(batches, None)) is not None:
                self._finish(batch, encode, saved, report)
                done += batch.size
                if progress is not None:
                    progress(done, len(entries))
        report.stopped = stopped
        return report

    def get(self, item: Item, flip: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Moments [2C, h, w] float32, and the mask [h, w] where there is one; `build` must have seen the item.

        Raises:
            DataError: the cache file was removed or damaged meanwhile.
        """
        key = self._keys[_Entry(item, flip).identity]
        tensors = self._store.load(key)
        if tensors is None:
            raise DataError(
                f"The cached latent of {printable(item.picture.path)} is gone or damaged.",
                "Start or resume again: it is then encoded anew.",
            )
        return tensors["moments"], tensors.get("mask")

    def _entries(self, items: Iterable[Item]) -> list[_Entry]:
        """Each picture once for each placement and direction, in order of buckets."""
        entries = [
            _Entry(item, flip)
            for item in items
            for flip in ((False, True) if self._table_of(item).flip_aug else (False,))
        ]
        unique = {entry.identity: entry for entry in entries}
        return sorted(unique.values(), key=lambda entry: entry.item.placement.bucket)

    def _prepare(self, entries: Sequence[_Entry]) -> _Batch:
        """Find out what is missing and read the pictures; runs in threads, ahead of the encoder.

        A batch with anything missing is read whole, so that it is encoded as it was the first time.
        """
        batch = _Batch(len(entries))
        for entry in entries:
            key = self._key(entry)
            if isinstance(key, Rejected):
                batch.rejected.append(key)
                continue
            batch.keys[entry] = key
            if not self._present(key):
                batch.missing.add(entry)
        if batch.missing:
            for entry in batch.keys:
                loaded = self._load(entry)
                if isinstance(loaded, Rejected):
                    batch.rejected.append(loaded)
                else:
                    batch.loaded.append(loaded)
        return batch

    def _finish(
        self, batch: _Batch, encode: Callable[[torch.Tensor], torch.Tensor], saved: set[str], report: BuildReport
    ) -> None:
        """Encode a prepared batch and keep what is missing; of two pictures with the same bytes the first."""
        import torch

        for rejected in batch.rejected:
            if rejected.path not in {known.path for known in report.rejected}:
                report.rejected.append(rejected)
        while self._store.damaged:
            report.notes.append(self._store.damaged.pop(0))
        report.reused += len(batch.keys) - len(batch.missing)
        self._keys.update((entry.identity, key) for entry, key in batch.keys.items())
        if not batch.loaded:
            return
        with torch.no_grad():
            moments = encode(torch.stack([pixels for _, pixels, _ in batch.loaded])).detach().float().cpu()
        assert moments.ndim == 4 and len(moments) == len(batch.loaded), moments.shape
        for (entry, _, mask), moment in zip(batch.loaded, moments, strict=True):
            if entry not in batch.missing:
                continue
            if not torch.isfinite(moment).all():
                raise DataError(
                    f"The latent of {printable(entry.item.picture.path)} is not finite (NaN or infinite).",
                    "The VAE overflows in half precision: set model.no_half_vae = true, or use another VAE.",
                )
            report.made += 1
            key = batch.keys[entry]
            if key in saved:
                continue
            tensors = {"moments": moment.clone().contiguous()}
            if mask is not None:
                tensors["mask"] = latent_mask(mask, (moment.shape[1], moment.shape[2])).contiguous()
            self._store.save(key, tensors)
            saved.add(key)

    def _load(self, entry: _Entry) -> tuple[_Entry, torch.Tensor, torch.Tensor | None] | Rejected:
        item = entry.item
        try:
            pixels, mask = load_pixels(item.picture, item.placement, self._table_of(item), flip=entry.flip)
        except DataError as error:
            reason = error.message.removeprefix(f"{printable(item.picture.path)}: ").removesuffix(".")
            return Rejected(item.picture.path, reason)
        return entry, pixels, mask

    def _table_of(self, item: Item) -> DatasetTable:
        return item.table or self._table

    def _present(self, key: str) -> bool:
        tensors = self._store.load(key)
        return tensors is not None and "moments" in tensors

    def _key(self, entry: _Entry) -> str | Rejected:
        picture, placement, table = entry.item.picture, entry.item.placement, self._table_of(entry.item)
        try:
            content = self._digests.of(picture.path)
            mask = [] if picture.mask_path is None else [self._digests.of(picture.mask_path)]
        except OSError as error:
            return Rejected(picture.path, error.strerror or str(error))
        told = [
            _FORMAT, content, self._model_key, placement.bucket, placement.resized, placement.crop, entry.flip,
            table.resize_interpolation, table.alpha_background, table.alpha_mask, *mask,
            *(["kohya 2"] if picture.kohya_exact else []),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _batches(entries: Sequence[_Entry], batch_size: int) -> Iterator[Sequence[_Entry]]:
    for _, group in groupby(entries, key=lambda entry: entry.item.placement.bucket):
        bucket = list(group)
        for start in range(0, len(bucket), batch_size):
            yield bucket[start : start + batch_size]
