"""From a step's number to its batches. Which pictures, captions and mirrorings come is a function of seed and position,
so nothing but the step needs to be remembered."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from engine.config import RunConfig
from engine.config.dataset import DatasetTable
from engine.dataset.arithmetic import StepPlan
from engine.dataset.batches import Item, epoch_batches, is_flipped, item_caption, run_captions
from engine.dataset.captions import CaptionRules
from engine.dataset.latents import LatentCache
from engine.dataset.pixels import latent_mask, load_pixels
from engine.dataset.sizes import size_conditioning
from engine.dataset.text_cache import TextCache
from engine.models.base import Model
from engine.training import seeds
from engine.training.seeds import derive

Augmented = tuple[Item, bool, int]
"""A picture, whether it is mirrored, and the seed of its other changes."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch on the training device."""

    latents: Tensor
    """[B, C, h, w] float32, drawn from the VAE posterior."""
    captions: list[str]
    text: Mapping[str, Tensor]
    """What is cached of the encoded captions."""
    weights: Tensor
    """[B] float32: prior_loss_weight for regularization pictures, else 1."""
    mask: Tensor | None
    """[B, 1, h, w] float32 in 0-1."""
    sizes: Tensor
    """[B, 6] float32, as `Model.predict` takes them."""


class Feed:
    """The batches of a run.

    Args:
        items: all items of an epoch, repeats included.
        latents: the cache, or None to encode pictures in each step.
        texts: the cache of encoded captions, or None to encode them in each step.
        live: names of the text encoders that run in each step: those that are not cached.
        raw: cached captions are those that were read: see `item_caption`.
        rank, num_processes: this process's share of the batches.
    """

    def __init__(
        self,
        config: RunConfig,
        items: Sequence[Item],
        plan: StepPlan,
        model: Model,
        device: torch.device,
        latents: LatentCache | None,
        texts: TextCache | None,
        rank: int = 0,
        num_processes: int = 1,
        live: Sequence[str] = (),
        raw: bool = False,
    ) -> None:
        self.config = config
        self.items = items
        self.plan = plan
        self.model = model
        self.device = device
        self.latents = latents
        self.texts = texts
        self.live = tuple(live)
        self.raw = raw
        self.rank = rank
        self.num_processes = num_processes
        self.rules = CaptionRules.from_config(config)
        self._batches = lru_cache(maxsize=2)(self._shuffle)

    def epoch(self, step: int) -> int:
        """The epoch, from 1, of the update with 0-based number `step`."""
        return self.plan.place(step)[0]

    def micro_batches(self, step: int) -> list[list[int]]:
        """Item indices of each batch of update `step`; the last update of an epoch may have fewer batches."""
        epoch, inside = self.plan.place(step)
        batches = self._batches(epoch)
        accumulation = self.config.training.gradient_accumulation_steps
        first = inside * accumulation
        return batches[first : first + accumulation]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        batches = epoch_batches(self.items, self.config.training.train_batch_size, self.config.training.seed, epoch)
        if self.num_processes == 1:
            return batches
        # Every process gets as many batches: where they do not divide, the first ones come again.
        whole = -(-len(batches) // self.num_processes) * self.num_processes
        return [batches[number % len(batches)] for number in range(self.rank, whole, self.num_processes)]

    def caption(self, index: int, step: int, *, raw: bool = False) -> str:
        """The caption of item `index` in update `step`, after dropout, shuffling and the rest; `raw` without."""
        return item_caption(
            self.items[index],
            index,
            self.rules,
            self.plan,
            seed=self.config.training.seed,
            epoch=self.epoch(step),
            step=step,
            raw=raw,
        )

    def all_captions(self) -> list[str]:
        """Every caption of the run that is cached, each once."""
        return run_captions(self.items, self.rules, self.plan, self.config.training.seed, raw=self.raw)

    def load(self, indices: Sequence[int], step: int, generator: torch.Generator) -> Batch:
        """One micro-batch; the posterior's draw is the first that `generator` makes."""
        seed, epoch = self.config.training.seed, self.epoch(step)
        items = tuple(self.items[index] for index in indices)
        augmented = [
            (item, self._table(item).flip_aug and is_flipped(seed, epoch, index), derive(seed, "augment", epoch, index))
            for index, item in zip(indices, items, strict=True)
        ]
        moments, masks = self._encoded(augmented) if self.latents is None else self._cached(self.latents, augmented)
        latents = self._drawn(augmented, moments, generator)
        captions = [self.caption(index, step) for index in indices]
        cached = [self.caption(index, step, raw=True) for index in indices] if self.raw else captions
        weight = self.config.training.prior_loss_weight
        return Batch(
            latents=latents.to(self.device),
            captions=captions,
            text=self.cached_text(cached),
            weights=torch.tensor([weight if item.is_reg else 1.0 for item in items], device=self.device),
            mask=self._mask(masks, latents.shape[-2:]),
            sizes=sizes_of([(item, flip) for item, flip, _ in augmented]).to(self.device),
        )

    def cached_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """What is cached of the encoded captions, on the training device."""
        found = {} if self.texts is None else self.texts.get(captions)
        return {name: tensor.to(self.device) for name, tensor in found.items()}

    def _drawn(self, entries: Sequence[Augmented], moments: Tensor, generator: torch.Generator) -> Tensor:
        """Latents from moments [B, 2C, h, w]: anew in each step, or with kohya_exact once for a cached picture."""
        mean, deviation = moments.chunk(2, dim=1)
        training = self.config.training
        if not training.kohya_exact or self.latents is None:
            return mean + deviation * torch.randn(mean.shape, generator=generator)
        names = [(item.dataset, item.subset_index, item.picture.path.name, int(flip)) for item, flip, _ in entries]
        draws = [
            torch.randn(mean.shape[1:], generator=seeds.generator(training.seed, "latent", *name)) for name in names
        ]
        return mean + deviation * torch.stack(draws)

    def _cached(self, cache: LatentCache, entries: Sequence[Augmented]) -> tuple[Tensor, list[Tensor | None]]:
        found = [cache.get(item, flip) for item, flip, _ in entries]
        return torch.stack([moments for moments, _ in found]), [mask for _, mask in found]

    def _encoded(self, entries: Sequence[Augmented]) -> tuple[Tensor, list[Tensor | None]]:
        """Decode and encode now, because each step gives the pictures new pixels."""
        read = [
            load_pixels(item.picture, item.placement, self._table(item), flip=flip, rng=random.Random(seed))
            for item, flip, seed in entries
        ]
        pixels = torch.stack([picture for picture, _ in read]).to(self.device)
        moments = self.model.encode_pixels(pixels).cpu()
        size = (moments.shape[-2], moments.shape[-1])
        return moments, [None if mask is None else latent_mask(mask, size) for _, mask in read]

    def _table(self, item: Item) -> DatasetTable:
        return item.table or self.config.dataset

    def _mask(self, masks: list[Tensor | None], size: torch.Size) -> Tensor | None:
        if all(mask is None for mask in masks):
            return None
        return torch.stack([torch.ones(1, *size) if mask is None else mask[None] for mask in masks]).to(self.device)


def sizes_of(entries: Sequence[tuple[Item, bool]]) -> Tensor:
    """Size conditioning [B, 6] float32 of items, each with whether it is mirrored."""
    rows = [
        size_conditioning((item.picture.width, item.picture.height), item.placement, flip=flip)
        for item, flip in entries
    ]
    return torch.tensor(rows, dtype=torch.float32)
