"""How close a sample is to a copy of a training image, in VAE latents. docs/results.md has formula and limits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, normalize

from engine.dataset.decoding import UnusableImage, opened
from engine.runs import RunDir, read_events
from engine.runs.events import SampleEvent
from engine.runs.layout import own_file

if TYPE_CHECKING:
    from PIL import Image

SIDE = 16
"""Cells per side to which latents are averaged: 32 px each in an image of 512 px."""
SAME = 0.97
"""Likeness at which two training images count as versions of one."""
MOST_PIXELS = 2**26
"""Largest sample that is read back."""
Key = tuple[int, str]
"""A sample's prompt: its index and its text."""


@dataclass(frozen=True)
class LatentCopy:
    """The most copied sample of a step."""

    copying: float
    """0: as similar to a training image as two of these are to each other; 1: a copy."""
    base: float | None
    """The same for the base model's sample with that prompt and seed; None without one."""
    name: str
    """The most similar training image."""


def pooled(latent: Tensor) -> Tensor:
    """Latents [C, h, w] for comparison, [C · SIDE²] float32 of length 1: averaged to cells, each channel less its mean,
    so that neither size nor overall colour counts."""
    cells = adaptive_avg_pool2d(latent.float()[None], SIDE)[0]
    return normalize((cells - cells.mean((1, 2), keepdim=True)).flatten(), dim=0)


def likeness(some: Tensor, images: Tensor) -> Tensor:
    """[A, N]: the highest cosine of pooled latents [A, D] to those of images [N, versions, D]."""
    return torch.einsum("ad,nvd->anv", some, images).amax(-1)


def usual_likeness(images: Tensor) -> float | None:
    """The likeness of a training image to its nearest other one, below 1: the median over all, with versions of one
    image (`SAME`) counted as one. None if fewer than two differ; images of a single colour are skipped.

    Args:
        images: [N, versions, D], the first version of each as it is.
    """
    between: list[list[float]] = likeness(images[:, 0], images).tolist()
    different: list[int] = []
    for index, row in enumerate(between):
        if row[index] > 0 and all(row[other] < SAME for other in different):
            different.append(index)
    if len(different) < 2:
        return None
    return statistics.median(max(between[index][other] for other in different if other != index) for index in different)


class LatentCopies:
    """Compares samples with training images; each is encoded once.

    Args:
        run: its events name the base model's samples if an earlier process generated them.
        encode: pixels [1, 3, H, W] in [-1, 1] to moments [1, 2C, h, w].
        training: gives the name of each training image, and its latents [C, h, w], also mirrored if it is trained so;
            called once, with the first samples.
    """

    def __init__(
        self,
        run: RunDir,
        encode: Callable[[Tensor], Tensor],
        training: Callable[[], Iterable[tuple[str, Sequence[Tensor]]]],
    ) -> None:
        self._run, self._encode, self._read = run, encode, training
        self._names: list[str] = []
        self._images: Tensor | None = None
        self._usual: float | None = None
        self._base: dict[Key, Tensor | None] = {}
        self._paths: dict[Key, Path] | None = None
        self._new: list[tuple[Tensor, Tensor | None]] = []

    def take(self, image: Image.Image, step: int, key: Key | None) -> None:
        """Encode a sample; those of step 0 are the base model's.

        Args:
            key: None if the base model has no sample with that seed.
        """
        sample = self._pooled(image)
        if step == 0:
            if key is not None:
                self._base[key] = sample
            return
        if self._images is None:
            self._load()
        if sample is not None and self._usual is not None:
            self._new.append((sample, None if key is None else self._base_sample(key)))

    def report(self) -> LatentCopy | None:
        """The most copied one of the samples since the last call; None if nothing can be compared."""
        new, self._new = self._new, []
        if not new or self._images is None or self._usual is None:
            return None
        alike = likeness(torch.stack([sample for sample, _ in new]), self._images)
        number, nearest = divmod(int(alike.argmax()), len(self._names))
        base = new[number][1]
        return LatentCopy(
            self._copying(float(alike[number, nearest])),
            None if base is None else self._copying(float(likeness(base[None], self._images).max())),
            self._names[nearest],
        )

    def _copying(self, alike: float) -> float:
        assert self._usual is not None
        return min(1.0, max(0.0, 1 - (1 - alike) / (1 - self._usual)))

    def _load(self) -> None:
        images = [(name, [pooled(latent) for latent in latents]) for name, latents in self._read()]
        self._names = [name for name, _ in images]
        most = max((len(versions) for _, versions in images), default=1)
        rows = [torch.stack([*versions, *versions[:1] * (most - len(versions))]) for _, versions in images]
        self._images = torch.stack(rows) if rows else torch.zeros(0, 1, 1)
        self._usual = usual_likeness(self._images)

    def _base_sample(self, key: Key) -> Tensor | None:
        if key not in self._base:
            if self._paths is None:
                self._paths = _first_samples(self._run)
            self._base[key] = self._pooled_file(self._paths.get(key))
        return self._base[key]

    def _pooled_file(self, path: Path | None) -> Tensor | None:
        if path is None:
            return None
        try:
            with opened(path, MOST_PIXELS) as (_, stored):
                image = stored.convert("RGB")
        except UnusableImage:
            return None
        return self._pooled(image)

    def _pooled(self, image: Image.Image) -> Tensor | None:
        """None if the VAE overflows."""
        import numpy as np

        values = torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32).transpose(2, 0, 1).copy())
        with torch.no_grad():
            latent = self._encode(values[None] / 127.5 - 1)[0].chunk(2)[0].float().cpu()
        return pooled(latent) if bool(torch.isfinite(latent).all()) else None


def _first_samples(run: RunDir) -> dict[Key, Path]:
    """The samples of step 0."""
    return {
        (event.index or 0, event.prompt or ""): path
        for event in read_events(run.events_path)
        if isinstance(event, SampleEvent) and event.step == 0 and (path := own_file(run.samples, event.path or ""))
    }
