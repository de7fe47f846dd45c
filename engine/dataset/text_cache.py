"""The cache of text-encoder outputs, keyed by the encoded caption and the encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.dataset.store import DeviceStore, TensorStore
from engine.errors import DataError, ModelError
from engine.text import printable
from engine.types import Progress, Sharing

if TYPE_CHECKING:
    import torch

_FORMAT = "text 1"


@dataclass
class TextReport:
    """The result of building the cache."""

    encoded: int = 0
    reused: int = 0
    notes: list[str] = field(default_factory=list)
    stopped: bool = False


class TextCache:
    """Outputs of the text encoder, on disk or in memory.

    Args:
        directory: of the files; None: in memory.
        model_key: identifies the encoder, its precision, clip_skip and max_token_length.
    """

    def __init__(self, directory: Path | None, model_key: str) -> None:
        self._store = TensorStore(directory)
        self._model_key = model_key

    @property
    def nbytes(self) -> int:
        """Of the outputs that were encoded or loaded."""
        return sum(self._store.sizes.values())

    def on_device(self, device: torch.device) -> TextCache:
        """The same outputs on a device, each copied when it is first used; only to be read."""
        other = copy(self)
        other._store = DeviceStore(self._store, device)
        return other

    def build(
        self,
        captions: Iterable[str],
        encode: Callable[[list[str]], dict[str, torch.Tensor]],
        batch_size: int = 1,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        sharing: Sharing | None = None,
    ) -> TextReport:
        """Encode missing captions; batches are formed from all captions, as for latents.

        Args:
            encode: captions to tensors by name, the first axis of each being the caption.
            progress: called with (done, total) captions.
            sharing: several processes that call this with the same captions: each encodes every so many-th batch.

        Raises:
            ModelError: an output is not finite (with the caption).
            StorageError: no space or no permission.
        """
        import torch

        report = TextReport()
        unique = list(dict.fromkeys(captions))
        rank, size = (0, 1) if sharing is None else (sharing.rank, sharing.size)
        for start in range(rank * batch_size, len(unique), size * batch_size):
            if should_stop():
                report.stopped = True
                return report
            batch = unique[start : start + batch_size]
            missing = {caption for caption in batch if self._store.load(self._key(caption)) is None}
            report.notes += self._store.take_damaged()
            report.reused += len(batch) - len(missing)
            if missing:
                with torch.no_grad():
                    outputs = {name: tensor.detach().cpu() for name, tensor in encode(batch).items()}
                for row, caption in enumerate(batch):
                    if caption in missing:
                        self._save(caption, {name: tensor[row].clone() for name, tensor in outputs.items()})
                        report.encoded += 1
            if progress is not None:
                progress(start + len(batch), len(unique))
        return report if sharing is None else self._shared(unique, sharing, report)

    def _shared(self, captions: Sequence[str], sharing: Sharing, report: TextReport) -> TextReport:
        """The report of all processes, each of which has all outputs then."""
        parts: list[TextReport] = sharing.gather(report)
        keys = [self._key(caption) for caption in captions]
        self._store.refresh()
        missing = [key for key in keys if self._store.load(key) is None]
        sharing.share(missing, self._store.load, self._store.save)
        notes = list(dict.fromkeys(note for part in parts for note in part.notes))
        return TextReport(sum(part.encoded for part in parts), sum(part.reused for part in parts), notes)

    def has(self, caption: str) -> bool:
        """Whether the output for a caption is cached."""
        return self._store.load(self._key(caption)) is not None

    def get(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """The outputs of `encode` for these captions, stacked along a new first axis.

        Raises:
            DataError: a caption was not in the build, or its file was removed or damaged since.
        """
        import torch

        rows = []
        for caption in captions:
            tensors = self._store.load(self._key(caption))
            if tensors is None:
                raise DataError(
                    f'The cached text output of "{printable(caption)[:80]}" is missing or damaged.',
                    "Start or resume again to encode it again.",
                    code="cached-text-missing",
                )
            rows.append(tensors)
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _save(self, caption: str, tensors: dict[str, torch.Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ModelError(
                f'The text encoder\'s output for "{printable(caption)[:80]}" is not finite (NaN or infinite).',
                "Train in bf16 or fp32 (memory.mixed_precision), or check the checkpoint.",
                code="text-output-not-finite",
            )
        self._store.save(self._key(caption), {name: tensor.contiguous() for name, tensor in tensors.items()})

    def _key(self, caption: str) -> str:
        return hashlib.sha256(json.dumps([_FORMAT, self._model_key, caption]).encode()).hexdigest()
