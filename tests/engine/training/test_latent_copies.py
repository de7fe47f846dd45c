"""Copies of training images are found in latents, apart from any model: pixels stand for latents here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from engine.runs import RunDir
from engine.runs.events import EventLog, SampleEvent
from engine.training.latent_copies import LatentCopies, LatentCopy, likeness, pooled, usual_likeness

NOISE = torch.Generator().manual_seed(3)


def texture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Coarse coloured patches."""
    values = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def encode(pixels: Tensor) -> Tensor:
    """Moments whose mean is the image at an eighth of its size."""
    mean = torch.nn.functional.avg_pool2d(pixels, 8)
    return torch.cat([mean, torch.ones_like(mean)], dim=1)


def latent(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32).transpose(2, 0, 1).copy()) / 127.5 - 1
    return encode(pixels[None])[0].chunk(2)[0]


TRAINING = [(f"{seed}.png", [latent(texture(seed))]) for seed in range(6)]
MIRRORED = [(name, [*latents, latents[0].flip(-1)]) for name, latents in TRAINING]


def copies(tmp_path: Path, training: Sequence[tuple[str, list[Tensor]]] = TRAINING) -> LatentCopies:
    return LatentCopies(RunDir(tmp_path), encode, lambda: training)


def of(latent_copies: LatentCopies, *images: Image.Image) -> LatentCopy | None:
    for index, image in enumerate(images):
        latent_copies.take(image, 5, (index, "a prompt"))
    return latent_copies.report()


@pytest.mark.parametrize("shape", [(4, 64, 64), (16, 128, 96), (4, 8, 8)])
def test_what_is_compared_knows_neither_size_nor_overall_colour_nor_contrast(shape: tuple[int, int, int]) -> None:
    some = torch.rand(shape, generator=NOISE)
    compared = pooled(some)
    assert compared.shape == (shape[0] * 256,) and float(compared.norm()) == pytest.approx(1)
    same = 3 * some.repeat_interleave(2, 1).repeat_interleave(2, 2) + torch.arange(shape[0])[:, None, None]
    assert float(compared @ pooled(same)) == pytest.approx(1, abs=0.001)


def rows(*latents: Tensor) -> Tensor:
    return torch.stack([pooled(latent)[None] for latent in latents])


def test_versions_of_one_image_count_once() -> None:
    first, second, third = (latents[0] for _, latents in TRAINING[:3])
    usual = usual_likeness(rows(first, second, third))
    assert usual is not None and usual < 0.9
    assert usual_likeness(rows(first, first * 1.01, second, second, third, third)) == pytest.approx(usual)
    assert usual_likeness(rows(first, first, first)) is None
    assert usual_likeness(rows(first, torch.ones(3, 8, 8))) is None, "one colour is like nothing"
    assert usual_likeness(torch.zeros(0, 1, 1)) is None


def test_of_several_directions_the_nearest_counts() -> None:
    latent = TRAINING[0][1][0]
    both = torch.stack([pooled(latent), pooled(latent.flip(-1))])[None]
    assert likeness(pooled(latent.flip(-1))[None], both)[0, 0] == pytest.approx(1)
    assert likeness(pooled(latent.flip(-1))[None], both[:, :1])[0, 0] < 0.9


def test_a_copy_is_found_and_named(tmp_path: Path) -> None:
    for change in (lambda image: image, lambda image: image.filter(ImageFilter.GaussianBlur(2))):
        match = of(copies(tmp_path), texture(77), change(texture(3)), texture(78))
        assert match is not None and match.copying > 0.9 and match.name == "3.png" and match.base is None
    larger = of(copies(tmp_path), texture(4, (128, 96)))
    assert larger is not None and larger.copying > 0.9 and larger.name == "4.png"


def test_what_is_new_is_no_copy(tmp_path: Path) -> None:
    match = of(copies(tmp_path), texture(77), texture(78))
    assert match is not None and match.copying < 0.3


def test_a_mirrored_copy_is_found_where_images_are_trained_mirrored(tmp_path: Path) -> None:
    plain, mirrored = (of(copies(tmp_path, some), ImageOps.mirror(texture(2))) for some in (TRAINING, MIRRORED))
    assert plain is not None and mirrored is not None and plain.copying < 0.5
    assert mirrored.copying == pytest.approx(1, abs=0.01) and mirrored.name == "2.png"


def test_only_samples_since_the_last_report_count(tmp_path: Path) -> None:
    latent_copies = copies(tmp_path)
    assert (first := of(latent_copies, texture(1))) is not None and first.copying > 0.9
    assert (second := of(latent_copies, texture(77))) is not None and second.copying < 0.3
    assert latent_copies.report() is None


@pytest.mark.parametrize(("training", "why"), [([], "none"), (TRAINING[:1], "one"), (TRAINING[:1] * 3, "the same")])
def test_without_training_images_that_differ_nothing_is_compared(
    tmp_path: Path, training: list[tuple[str, list[Tensor]]], why: str
) -> None:
    assert of(copies(tmp_path, training), texture(1)) is None, why


def test_a_latent_that_is_not_finite_is_passed_over(tmp_path: Path) -> None:
    latent_copies = LatentCopies(RunDir(tmp_path), lambda pixels: encode(pixels) * float("nan"), lambda: TRAINING)
    assert of(latent_copies, texture(1)) is None


def test_the_base_models_sample_is_compared_too(tmp_path: Path) -> None:
    """Of the same prompt and seed: drawn in this life, or read from the file of an earlier one, to the same figure."""
    run = RunDir(tmp_path)
    run.samples.mkdir()
    run.private.mkdir()
    base, sample = Image.blend(texture(3), texture(50), 0.45), texture(3)
    base.save(run.samples / "base.png")
    (run.samples / "broken.png").write_bytes(b"no image")
    log = EventLog(run.events_path, run.reserve_path)
    for index, name in enumerate(("base.png", "broken.png", "gone.png")):
        log.emit(SampleEvent(path=str(run.samples / name), prompt="a prompt", index=index, step=0))
    log.emit(SampleEvent(path=str(run.samples / "base.png"), prompt="a prompt", index=3, step=5))

    def measured(key: tuple[int, str] | None, *, drawn: bool) -> float | None:
        latent_copies = copies(tmp_path)
        if drawn:
            latent_copies.take(base, 0, key)
        latent_copies.take(sample, 5, key)
        report = latent_copies.report()
        assert report is not None and report.copying == pytest.approx(1, abs=0.001)
        return report.base

    value = measured((0, "a prompt"), drawn=True)
    assert value is not None and 0.1 < value < 0.9
    assert measured((0, "a prompt"), drawn=False) == value
    for key in ((0, "another prompt"), (1, "a prompt"), (2, "a prompt"), (3, "a prompt"), None):
        assert measured(key, drawn=False) is None
    assert measured(None, drawn=True) is None
