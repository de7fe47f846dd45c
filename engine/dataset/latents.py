"""The latent cache: each image is encoded once, keyed by its content and everything that affects its latent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.dataset import DatasetTable
from engine.dataset.checked import content_key
from engine.dataset.digests import FileDigests
from engine.dataset.fitted import Fitted, FittedImages
from engine.dataset.images import Rejected
from engine.dataset.items import Item
from engine.dataset.pixels import as_tensors, latent_mask, load_pixels
from engine.dataset.pool import ordered_map, workers
from engine.dataset.reach import Direction
from engine.dataset.store import DeviceStore, TensorStore
from engine.errors import DataError
from engine.text import printable
from engine.types import Progress, Sharing

if TYPE_CHECKING:
    import torch

_FORMAT = "latents 1"
_Key = tuple[Path, tuple[tuple[int, int], ...], bool, tuple[object, ...] | None]


@dataclass
class BuildReport:
    """The result of building the cache."""

    encoded: int = 0
    reused: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed: list[Path] = field(default_factory=list)
    """Images whose content has changed since an earlier build."""
    stopped: bool = False
    """`should_stop` ended it; finished latents are kept, the next build continues."""


@dataclass(frozen=True, slots=True)
class _Entry:
    item: Item
    flip: bool

    @property
    def identity(self) -> _Key:
        placement = self.item.placement
        table = self.item.table
        own = None if table is None else (table.resize_interpolation, table.alpha_background, table.alpha_mask)
        return self.item.image.path, (placement.bucket, placement.resized, placement.crop), self.flip, own


@dataclass
class _Batch:
    """Images of one bucket, loaded for the encoder."""

    size: int
    keys: dict[_Entry, str] = field(default_factory=dict)
    missing: set[_Entry] = field(default_factory=set)
    loaded: list[tuple[_Entry, torch.Tensor, torch.Tensor | None]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


class LatentCache:
    """Latents of images, on disk or in memory.

    Args:
        directory: of the files, never the image folder; None: in memory.
        model_key: identifies the VAE and its precision.
        table: resampling, background, mask and mirroring for items without their own settings.
        digests: of image files.
        fitted: images that were decoded already.
    """

    def __init__(
        self,
        directory: Path | None,
        model_key: str,
        table: DatasetTable,
        digests: FileDigests | None = None,
        fitted: FittedImages | None = None,
    ) -> None:
        self._store = TensorStore(directory)
        self._model_key = model_key
        self._table = table
        self._digests = digests or FileDigests()
        self._fitted = fitted
        self._keys: dict[_Key, str] = {}
        self._present: set[str] = set()
        """Keys of available latents."""

    def unmirrored(self) -> LatentCache:
        """A cache of images that are never mirrored; it shares the latents, and the checksum results of files."""
        table = self._table.model_copy(update={"flip_aug": False})
        other = LatentCache(None, self._model_key, table, self._digests, self._fitted)
        other._store = self._store
        return other

    @property
    def nbytes(self) -> int:
        """Of the latents that were encoded or loaded."""
        return sum(self._store.sizes.values())

    def on_device(self, device: torch.device) -> LatentCache:
        """The same latents on a device, each copied when it is first used; only to be read."""
        other = copy(self)
        other._store = DeviceStore(self._store, device)
        return other

    def build(
        self,
        items: Iterable[Item],
        encode: Callable[[torch.Tensor], torch.Tensor],
        batch_size: int = 1,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        only: Collection[Direction] | None = None,
        sharing: Sharing | None = None,
        looked_up: Progress = lambda _done, _total: None,
    ) -> BuildReport:
        """Encode missing latents.

        Batches are formed from all items, not from the missing ones, so that a latent depends neither on where an
        earlier run was killed nor on the length of a run.

        Args:
            items: all items of an epoch.
            encode: pixels [B, 3, H, W] float32 on the CPU to moments [B, 2C, h, w].
            batch_size: images encoded at once.
            progress: called with (done, total) latents.
            should_stop: called before each batch.
            only: the needed items and directions; None: all. Batches without any of them are skipped.
            sharing: several processes that call this with the same items: each encodes every so many-th batch.
            looked_up: called with (done, total) latents whose keys are made, where not all of them are needed.

        Returns:
            counts, and images that can't be read: remove them with `Scan.without` and plan the steps again.

        Raises:
            DataError: a latent is not finite (with the image's name).
            StorageError: no space or no permission.
        """
        report = BuildReport()
        groups = list(_batches(self._entries(items), batch_size))
        needed = None if only is None and sharing is None else self._needed(groups, only, report, looked_up)
        if needed is not None:
            groups = [entries for entries in groups if not needed.isdisjoint(entries)]
        if sharing is None:
            self._encode(groups, partial(self._prepare, needed=needed), encode, progress, should_stop, report)
            return report
        assert needed is not None
        share, total = groups[sharing.rank :: sharing.size], sum(map(len, groups))
        prepare = partial(self._prepare, needed=needed, others=False)
        of_all = partial(_of_all, progress or (lambda _done, _total: None), sharing.size, total)
        self._encode(share, prepare, encode, of_all, should_stop, report)
        return report if report.stopped else self._shared(groups, sharing, report)

    def _encode(
        self,
        groups: Sequence[Sequence[_Entry]],
        prepare: Callable[[Sequence[_Entry]], _Batch],
        encode: Callable[[torch.Tensor], torch.Tensor],
        progress: Progress | None,
        should_stop: Callable[[], bool],
        report: BuildReport,
    ) -> None:
        total, saved, done = sum(map(len, groups)), set[str](), 0
        batches = ordered_map(prepare, groups, workers(4), ahead=8)
        with closing(batches):
            while not (stopped := should_stop()) and (batch := next(batches, None)) is not None:
                self._finish(batch, encode, saved, report)
                done += batch.size
                if progress is not None:
                    progress(done, total)
        report.stopped = stopped
        first: dict[Path, Rejected] = {}
        for rejected in report.rejected:
            first.setdefault(rejected.path, rejected)
        report.rejected = list(first.values())

    def _shared(self, groups: Sequence[Sequence[_Entry]], sharing: Sharing, report: BuildReport) -> BuildReport:
        """The report of all processes, each of which has all latents then."""
        reports: list[BuildReport] = sharing.gather(report)
        total = BuildReport(
            encoded=sum(part.encoded for part in reports),
            reused=sum(part.reused for part in reports),
            rejected=list({rejected.path: rejected for part in reports for rejected in part.rejected}.values()),
            notes=list(dict.fromkeys(note for part in reports for note in part.notes)),
            changed=list(dict.fromkeys(path for part in reports for path in part.changed)),
            stopped=any(part.stopped for part in reports),
        )
        entries = [entry for entries in groups for entry in entries]
        keys = dict.fromkeys(key for entry in entries if (key := self._keys.get(entry.identity)) is not None)
        self._store.refresh()
        missing = dict.fromkeys(key for key in keys if not self._is_stored(key))
        sharing.share(list(missing), self._store.load, self._store.save)
        self._present |= {key for key in keys if key not in missing or self._is_stored(key)}
        return total

    def has(self, item: Item, flip: bool = False) -> bool:
        """Whether the latent of an item is available after a build."""
        return self._keys.get(_Entry(item, flip).identity) in self._present

    def get(self, item: Item, flip: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Moments [2C, h, w] float32, and the mask [h, w] or None; `build` must have included the item.

        Raises:
            DataError: the cache file was removed or damaged after the build.
        """
        key = self._keys[_Entry(item, flip).identity]
        tensors = self._store.load(key)
        if tensors is None:
            raise DataError(
                f"The cached latent of {printable(item.image.path)} is missing or damaged.",
                "Start or resume again to encode it again.",
                code="cached-latent-missing",
            )
        return tensors["moments"], tensors.get("mask")

    def _entries(self, items: Iterable[Item]) -> list[_Entry]:
        """One entry per image, placement and direction, sorted by bucket."""
        entries = [
            _Entry(item, flip)
            for item in items
            for flip in ((False, True) if self._table_of(item).flip_aug else (False,))
        ]
        unique = {entry.identity: entry for entry in entries}
        return sorted(unique.values(), key=lambda entry: entry.item.placement.bucket)

    def _needed(
        self,
        batches: Sequence[Sequence[_Entry]],
        only: Collection[Direction] | None,
        report: BuildReport,
        progress: Progress,
    ) -> set[_Entry]:
        """The entries for the directions in `only` (None: for all); of images with the same bytes the first, as in a
        full build."""
        requested = None if only is None else {_Entry(item, flip).identity for item, flip in only}
        entries = [entry for batch in batches for entry in batch]
        first: dict[str, _Entry] = {}
        needed = set()
        keys = ordered_map(self._key, entries, workers(4), ahead=64)
        for number, (entry, key) in enumerate(zip(entries, keys, strict=True), 1):
            progress(number, len(entries))
            if isinstance(key, str):
                self._note(entry, key, report)
                first.setdefault(key, entry)
            if requested is None or entry.identity in requested:
                needed.add(first[key] if isinstance(key, str) else entry)
        return needed

    def _note(self, entry: _Entry, key: str, report: BuildReport) -> None:
        if self._keys.setdefault(entry.identity, key) != key:
            report.changed.append(entry.item.image.path)
            self._keys[entry.identity] = key

    def _prepare(self, entries: Sequence[_Entry], needed: Collection[_Entry] | None, *, others: bool = True) -> _Batch:
        """Find missing latents and load the images; runs in threads, ahead of the encoder.

        A batch with a missing and needed latent is loaded completely, so that it is encoded as the first time.

        Args:
            others: whether to keep latents that are encoded on the way and not needed. Not where several processes
                encode: images with the same bytes may be in batches of two of them.
        """
        batch = _Batch(len(entries))
        for entry in entries:
            key = self._key(entry)
            if isinstance(key, Rejected):
                batch.rejected.append(key)
                continue
            batch.keys[entry] = key
            if not self._is_stored(key) and (others or needed is None or entry in needed):
                batch.missing.add(entry)
        if batch.missing and (needed is None or not batch.missing.isdisjoint(needed)):
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
        """Encode a prepared batch and save the missing latents; of two images with the same bytes the first."""
        import torch

        report.rejected += batch.rejected
        report.notes += self._store.take_damaged()
        report.reused += len(batch.keys) - len(batch.missing)
        for entry, key in batch.keys.items():
            self._note(entry, key, report)
            if entry not in batch.missing:
                self._present.add(key)
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
                    f"The latent of {printable(entry.item.image.path)} is not finite (NaN or infinite).",
                    "The VAE overflows in half precision: set model.no_half_vae = true, or use another VAE.",
                    code="latent-not-finite",
                )
            report.encoded += 1
            key = batch.keys[entry]
            self._present.add(key)
            if key in saved:
                continue
            tensors = {"moments": moment.clone().contiguous()}
            if mask is not None:
                tensors["mask"] = latent_mask(mask, (moment.shape[1], moment.shape[2])).contiguous()
            self._store.save(key, tensors)
            saved.add(key)

    def _load(self, entry: _Entry) -> tuple[_Entry, torch.Tensor, torch.Tensor | None] | Rejected:
        item, table = entry.item, self._table_of(entry.item)
        if (fitted := self._fitted_of(item)) is not None:
            return entry, *as_tensors(*fitted, flip=entry.flip)
        try:
            pixels, mask = load_pixels(item.image, item.placement, table, flip=entry.flip)
        except DataError as error:
            reason = error.message.removeprefix(f"{printable(item.image.path)}: ").removesuffix(".")
            return Rejected(item.image.path, reason)
        return entry, pixels, mask

    def _fitted_of(self, item: Item) -> Fitted | None:
        """The image as it was decoded before, if it was and has the same content since."""
        if self._fitted is None or item.image.mask_path is not None:
            return None
        key = content_key(self._digests, item.image)
        return None if key is None else self._fitted.get(key, item.placement, self._table_of(item))

    def _table_of(self, item: Item) -> DatasetTable:
        return item.table or self._table

    def _is_stored(self, key: str) -> bool:
        tensors = self._store.load(key)
        return tensors is not None and "moments" in tensors

    def _key(self, entry: _Entry) -> str | Rejected:
        image, placement, table = entry.item.image, entry.item.placement, self._table_of(entry.item)
        try:
            content = self._digests.of(image.path)
            mask = [] if image.mask_path is None else [self._digests.of(image.mask_path)]
        except OSError as error:
            return Rejected(image.path, error.strerror or str(error))
        key_parts = [
            _FORMAT, content, self._model_key, placement.bucket, placement.resized, placement.crop, entry.flip,
            table.resize_interpolation, table.alpha_background, table.alpha_mask, *mask,
            *(["kohya 2"] if image.kohya_exact else []),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()


def _of_all(progress: Progress, size: int, total: int, done: int, _: int) -> None:
    """Report the progress of one of `size` processes, which have shares of the same size, as that of all."""
    progress(min(done * size, total), total)


def _batches(entries: Sequence[_Entry], batch_size: int) -> Iterator[Sequence[_Entry]]:
    for _, group in groupby(entries, key=lambda entry: entry.item.placement.bucket):
        bucket = list(group)
        for start in range(0, len(bucket), batch_size):
            yield bucket[start : start + batch_size]
