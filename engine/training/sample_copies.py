"""Chooses the samples and the training images that are compared in latents, within `training.max_check_share`."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence

from PIL import Image
from torch import Tensor

from engine.config.prompts import Prompt
from engine.dataset.reach import both_directions
from engine.out_of_memory import is_out_of_memory
from engine.results.check_plan import compared_images, compared_samples
from engine.runs import RunDir
from engine.training.latent_copies import LatentCopies, LatentCopy
from engine.training.oom import free_memory
from engine.training.prepare import Prepared
from engine.training.probes import spread_over, training_images


class SampleCopies:
    """Compares samples with the training images in latents; after a failure, which is only reported, no longer.

    Args:
        run: its events name the base model's samples if an earlier process generated them.
        prepared: the model, and the training images with their latents.
        warn: reports a failure: its code and a sentence.
    """

    def __init__(self, run: RunDir, prepared: Prepared, warn: Callable[[str, str], None]) -> None:
        self._run, self._prepared, self._warn = run, prepared, warn
        self._copies: LatentCopies | None = None
        self._failed = False

    def take(self, image: Image.Image, step: int, index: int, prompts: Sequence[Prompt], share: float) -> None:
        """Encode a sample, if it is among those that are compared. The VAE must be on the device.

        Args:
            index: of its prompt.
            prompts: all of them.
            share: `training.max_check_share`.
        """
        requests = [prompt.request for prompt in prompts]
        has_base = not prompts[index].random_seed and not self._prepared.config.network.network_weights
        passes = [prompt.passes for prompt in prompts]
        if self._failed or index >= compared_samples(share, passes):
            return
        try:
            if self._copies is None:
                self._copies = LatentCopies(self._run, self._encode, lambda: self._training(share))
            self._copies.take(image, step, (index, requests[index].prompt) if has_base else None)
        except Exception as error:  # a failed comparison must not end the training
            traceback.print_exc()
            self._failed, self._copies = True, None
            if is_out_of_memory(error):
                free_memory(error)
            self._warn("samples_not_compared", f"Samples are no longer compared with the training images: {error}")

    def report(self) -> LatentCopy | None:
        """The most copied one of the samples since the last call; None if nothing can be compared."""
        return None if self._copies is None else self._copies.report()

    def _encode(self, pixels: Tensor) -> Tensor:
        return self._prepared.model.encode_pixels(pixels.to(self._prepared.accelerator.device))

    def _training(self, share: float) -> Iterator[tuple[str, list[Tensor]]]:
        """Names and latents of training images, spread over the sorted paths."""
        batches, latents = self._prepared.batches, self._prepared.latents
        items = training_images(batches.items)
        number = compared_images(share, self._prepared.plan, len(items), cached=latents is not None)
        items_compared = spread_over(items, number)
        if latents is not None and latents.missing(directions := both_directions(items_compared, batches.config)):
            latents.add(batches.items, directions)
        for item in items_compared:
            yield item.image.path.name, batches.latents_of(item)
