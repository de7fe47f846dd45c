"""The cache of text-encoder outputs, keyed by the caption as it is encoded and by the encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engine.dataset.pool import Progress
from engine.dataset.store import TensorStore
from engine.errors import DataError, ModelError
from engine.text import printable

if TYPE_CHECKING:
    import torch

_FORMAT = "text 1"


@dataclass
class TextReport:
    """What a caching run did."""

    made: int = 0
    reused: int = 0
    notes: list[str] = field(default_factory=list)
    stopped: bool = False


class TextCache:
    """Outputs of the text encoder, on disk or in memory.

    Args:
        directory: where files go; None: in memory.
        model_key: names the encoder, its precision, clip_skip and max_token_length.
    """

    def __init__(self, directory: Path | None, model_key: str) -> None:
        self._store = TensorStore(directory)
        self._model_key = model_key

    def build(
        self,
        captions: Iterable[str],
        encode: Callable[[list[str]], dict[str, torch.Tensor]],
        batch_size: int = 1,
        progress: Progress | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> TextReport:
        """Encode captions that are not there yet; like latents in batches cut from the whole list.

        Args:
            encode: captions to tensors by name, the first axis of each being the caption.
            progress: told (done, all) captions.

        Raises:
            ModelError: an output is not finite (with the caption).
            StorageError: no space or no permission.
        """
        import torch

        report = TextReport()
        unique = list(dict.fromkeys(captions))
        for start in range(0, len(unique), batch_size):
            if should_stop():
                report.stopped = True
                break
            batch = unique[start : start + batch_size]
            missing = {caption for caption in batch if self._store.load(self._key(caption)) is None}
            report.notes += self._store.damaged
            self._store.damaged.clear()
            report.reused += len(batch) - len(missing)
            if missing:
                with torch.no_grad():
                    outputs = {name: tensor.detach().cpu() for name, tensor in encode(batch).items()}
                for row, caption in enumerate(batch):
                    if caption in missing:
                        self._keep(caption, {name: tensor[row].clone() for name, tensor in outputs.items()})
                        report.made += 1
            if progress is not None:
                progress(start + len(batch), len(unique))
        return report

    def get(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What `encode` gave for these captions, stacked along a new first axis.

        Raises:
            DataError: a caption was never built, or its file was removed or damaged meanwhile.
        """
        import torch

        rows = []
        for caption in captions:
            tensors = self._store.load(self._key(caption))
            if tensors is None:
                raise DataError(
                    f'The cached text output of "{printable(caption)[:80]}" is missing or damaged.',
                    "Start or resume again: it is then encoded anew.",
                )
            rows.append(tensors)
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _keep(self, caption: str, tensors: dict[str, torch.Tensor]) -> None:
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ModelError(
                f'The text encoder\'s output for "{printable(caption)[:80]}" is not finite (NaN or infinite).',
                "Train in bf16 or fp32 (memory.mixed_precision), or check the checkpoint.",
            )
        self._store.save(self._key(caption), {name: tensor.contiguous() for name, tensor in tensors.items()})

    def _key(self, caption: str) -> str:
        return hashlib.sha256(json.dumps([_FORMAT, self._model_key, caption]).encode()).hexdigest()
