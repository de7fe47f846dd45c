"""The figures of a run: mean cosines of embeddings. docs/results.md has the formulas and their limits."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image, ImageOps
from torch import Tensor

from engine.dataset.decoding import UnusableImage, opened
from engine.errors import DataError
from engine.reading import read_bytes
from engine.results.similarity import Request, Sample
from engine.similarity.embedders import Clip, Dino
from engine.similarity.face import Face
from engine.worker import OnProgress

_MOST_PIXELS, _MOST_BYTES = 2**28, 2**30


class Embedder(Protocol):
    """A model that embeds images."""

    def image(self, image: Image.Image) -> Tensor:
        """The embedding [D] of an RGB image, of length 1."""


LOADERS: Mapping[str, Callable[[Path], Any]] = {"clip": Clip, "dino": Dino, "face": Face}


def measure(
    request: Request, progress: OnProgress, loaders: Mapping[str, Callable[[Path], Any]] = LOADERS
) -> dict[str, Any]:
    """{figure: {"model": name, "images": training images, "steps": {step: value}}} of the models that are named.

    Raises:
        ModelError: a model cannot be used.
        DataError: no training image is unchanged and at its place.
    """
    paths = {kind: path for kind in loaders if (path := getattr(request, kind)) is not None}
    models = {kind: loaders[kind](Path(path)) for kind, path in paths.items()}
    training = _training(request)
    samples = [(sample, image) for sample in request.samples if (image := _read(Path(sample.path))) is not None]
    done, total = 0, len(models) * (len(training) + len(samples))

    def embedded(model: Embedder, images: Sequence[Image.Image]) -> list[Tensor]:
        nonlocal done
        vectors = []
        for image in images:
            vectors.append(model.image(image))
            done += 1
            progress("images", done, total)
        return vectors

    figures: dict[str, Any] = {}
    for kind, model in models.items():
        real = torch.stack(embedded(model, training))
        generated = embedded(model, [image for _, image in samples])
        pairs = [(sample, vector) for (sample, _), vector in zip(samples, generated, strict=True)]
        facts = {"model": Path(paths[kind]).name, "images": len(training)}
        figures["clip_i" if kind == "clip" else kind] = {**facts, "steps": _to_images(pairs, real, request.trigger)}
        if kind == "clip":
            figures["clip_t"] = {**facts, "steps": _to_prompts(pairs, model, request.trigger)}
    return figures


def _to_images(pairs: Sequence[tuple[Sample, Tensor]], real: Tensor, trigger: str) -> dict[str, float]:
    """Mean cosine of all pairs of a sample and a training image, by step; if some prompts have the trigger, only their
    samples count."""
    with_trigger = [pair for pair in pairs if without(pair[0].prompt, trigger) != _tidy(pair[0].prompt)]
    return _means([(sample.step, float((real @ vector).mean())) for sample, vector in with_trigger or pairs])


def _to_prompts(pairs: Sequence[tuple[Sample, Tensor]], clip: Clip, trigger: str) -> dict[str, float]:
    """Mean cosine of samples and their prompts without the trigger, by step; prompts that are only the trigger are
    skipped."""
    texts = {sample.prompt: without(sample.prompt, trigger) for sample, _ in pairs}
    vectors = {prompt: clip.text(text) for prompt, text in texts.items() if text}
    comparable = [(sample, vector) for sample, vector in pairs if sample.prompt in vectors]
    return _means([(sample.step, float(vectors[sample.prompt] @ vector)) for sample, vector in comparable])


def _means(values: Sequence[tuple[int, float]]) -> dict[str, float]:
    by_step: dict[int, list[float]] = defaultdict(list)
    for step, value in values:
        by_step[step].append(value)
    return {str(step): sum(cosines) / len(cosines) for step, cosines in by_step.items()}


def without(prompt: str, trigger: str) -> str:
    """A prompt without the trigger word, and without the commas and spaces that it leaves."""
    text = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", prompt, flags=re.IGNORECASE) if trigger else prompt
    return _tidy(text)


def _tidy(text: str) -> str:
    parts = (" ".join(part.split()) for part in text.split(","))
    return ", ".join(part for part in parts if part)


def _training(request: Request) -> list[Image.Image]:
    images = []
    for path, digest in request.training:
        try:
            same = hashlib.sha256(read_bytes(Path(path), _MOST_BYTES)).hexdigest() == digest
        except (OSError, ValueError):  # gone, or no regular file any more
            continue
        if same and (image := _read(Path(path))) is not None:
            images.append(image)
    if not images:
        raise DataError(
            "None of the training images is unchanged and at its place.",
            "Put them back; the run's record names them.",
            code="training-images-changed",
        )
    return images


def _read(path: Path) -> Image.Image | None:
    try:
        with opened(path, _MOST_PIXELS) as (_, image):
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnusableImage:
        return None
