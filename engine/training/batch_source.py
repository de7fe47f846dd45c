"""The batches of each step. Images, captions, mirroring and noise are functions of the seed and the step's number, so
that a resume needs nothing but the step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engine.config import RunConfig
from engine.config.changes import stages
from engine.config.dataset import DatasetTable
from engine.dataset.arithmetic import StepPlan
from engine.dataset.batches import epoch_batches, is_flipped, item_caption, run_captions
from engine.dataset.buckets import Size
from engine.dataset.captions import CaptionRules
from engine.dataset.face_crop import face_of
from engine.dataset.items import Item
from engine.dataset.latents import LatentCache
from engine.dataset.pixels import latent_mask, load_pixels
from engine.dataset.reach import Direction, reached
from engine.dataset.sizes import size_conditioning
from engine.dataset.text_cache import TextCache
from engine.families.base import Model
from engine.training import seeds
from engine.training.objective import Noise, Objective
from engine.training.seeds import derive

BatchShape = tuple[Size, int]
"""(width, height) of a bucket in pixels, and the number of images."""
Augmented = tuple[Item, bool, int]
"""An image, whether it is mirrored, and the seed of its other changes."""


@dataclass(frozen=True)
class Inputs:
    """What a batch is made from; only images of the same bucket are in it."""

    entries: Sequence[Augmented]
    moments: Tensor | None
    """[B, 2C, h, w] float32, cached; None: `pixels` are encoded in the step."""
    pixels: Tensor | None
    """[B, 3, H, W] float32 in [-1, 1]."""
    masks: Sequence[Tensor | None]
    """[h, w] of each image, where there is none None; [H, W] with `pixels`."""
    captions: list[str]
    tokens: Mapping[str, Tensor]
    text: Mapping[str, Tensor]
    """The cached outputs of the text encoders."""
    weights: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch: everything that the model and the loss compute with."""

    latents: Tensor
    """[B, C, h, w] float32, sampled from the VAE posterior."""
    noise: Noise
    captions: list[str]
    tokens: Mapping[str, Tensor]
    """The captions as `Model.encode_tokens` takes them, if text encoders run in the step."""
    text: Mapping[str, Tensor]
    """The cached outputs of the text encoders."""
    weights: Tensor
    """[B] float32: prior_loss_weight for regularization images, else 1."""
    mask: Tensor | None
    """[B, 1, h, w] float32 in 0-1."""
    sizes: Tensor
    """[B, 6] float32, as `Model.predict` takes them."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor changed."""
        return Batch(**{field.name: _changed(getattr(self, field.name), change) for field in fields(self)})

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor."""
        parts = (
            self.latents,
            *self.noise,
            *self.tokens.values(),
            *self.text.values(),
            self.weights,
            self.mask,
            self.sizes,
        )
        return (part for part in parts if part is not None)


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Noise):
        return Noise(*(_changed(part, change) for part in value))
    return {name: change(part) for name, part in value.items()} if isinstance(value, Mapping) else value


class BatchSource:
    """The batches of a run. `inputs` and `batch` may be called by another thread than the trainer's.

    Args:
        items: all items of an epoch, repeats included.
        latents: the cache, or None to encode images in each step.
        caches_raw_captions: the cached captions are those that were read: see `raw` of `item_caption`.
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
        rank: int = 0,
        num_processes: int = 1,
        caches_raw_captions: bool = False,
    ) -> None:
        self.config = config
        self.items = items
        self.model = model
        self.device = device
        self.latents = latents
        self.texts: TextCache | None = None
        """The cache of encoded captions, which `cache_texts` fills before the first step; None: there is none."""
        self.uncached_encoders: tuple[str, ...] = ()
        """Names of the text encoders that run in each step; `cache_texts` decides them."""
        self.kept_latents: LatentCache | None = None
        """The same as `latents`, on the training device; None: they are copied for each batch."""
        self.kept_texts: TextCache | None = None
        """Likewise."""
        self.caches_raw_captions = caches_raw_captions
        self.rank = rank
        self.num_processes = num_processes
        self.version = 0
        """Counts the calls of `use`."""
        self.use(config, plan)
        self._batches = lru_cache(maxsize=2)(self._shuffle)

    def use(self, config: RunConfig, plan: StepPlan) -> None:
        """Use this length and these caption rules from the next update on; all else stays as at the start."""
        self.plan, self.rules = plan, CaptionRules.from_config(config)
        self.version += 1

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

    def shapes(self, step: int) -> list[BatchShape]:
        """The shape of each batch of update `step`."""
        return [(self.items[batch[0]].placement.bucket, len(batch)) for batch in self.micro_batches(step)]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        batches = epoch_batches(self.items, self.config.training.train_batch_size, self.config.training.seed, epoch)
        if self.num_processes == 1:
            return batches
        # Every process gets the same number of batches: if they do not divide evenly, the first ones are repeated.
        padded_length = -(-len(batches) // self.num_processes) * self.num_processes
        return [batches[number % len(batches)] for number in range(self.rank, padded_length, self.num_processes)]

    def caption(self, index: int, step: int, *, raw: bool = False) -> str:
        """The caption of item `index` in update `step`, after dropout, shuffling and the like; with `raw` as it was
        read."""
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
        """Every caption of the run that is to be cached, each once; the listed changes of settings included."""
        captions: dict[str, None] = {}
        parts = list(stages(self.config))
        for (first, config), following in zip(parts, [*(begin for begin, _ in parts[1:]), None], strict=True):
            plan, rules = self.plan.of_length(config.training), CaptionRules.from_config(config)
            if following is not None:
                plan = replace(plan, max_train_steps=min(following, plan.max_train_steps))
            seed = config.training.seed
            raw = self.caches_raw_captions
            captions.update(dict.fromkeys(run_captions(self.items, rules, plan, seed, first=first, raw=raw)))
        return list(captions)

    def directions(self, step: int) -> list[Direction]:
        """The items that this process trains on in update `step`, each with whether it is mirrored."""
        return [
            (self.items[index], self._is_flipped(index, step)) for batch in self.micro_batches(step) for index in batch
        ]

    def reached(self, step: int) -> list[Direction] | None:
        """The items that all processes train on from update `step` to the end; None if that is all of them."""
        return reached(self.items, self.config, self.plan, step, self.plan.max_train_steps)

    def is_cached(self, indices: Sequence[int], step: int) -> bool:
        """Whether the latents of these items are in the cache; True without one."""
        cache = self.latents
        return cache is None or all(cache.has(self.items[index], self._is_flipped(index, step)) for index in indices)

    def load(self, indices: Sequence[int], step: int, generator: torch.Generator, objective: Objective) -> Batch:
        """One micro-batch, on the CPU.

        Args:
            generator: for the posterior's samples, then for the noise.

        Raises:
            DataError: an image or a cached file cannot be read.
        """
        return self.batch(self.inputs(indices, step), generator, objective)

    def inputs(self, indices: Sequence[int], step: int) -> Inputs:
        """Read what one micro-batch is made from; errors as of `load`."""
        seed, epoch = self.config.training.seed, self.epoch(step)
        items = tuple(self.items[index] for index in indices)
        augmented = [
            (item, self._is_flipped(index, step), derive(seed, "augment", epoch, index))
            for index, item in zip(indices, items, strict=True)
        ]
        moments, pixels, masks = self._decoded(augmented) if self.latents is None else self._cached(augmented)
        captions = [self.caption(index, step) for index in indices]
        cached = [self.caption(index, step, raw=True) for index in indices] if self.caches_raw_captions else captions
        weight = self.config.training.prior_loss_weight
        return Inputs(
            entries=augmented,
            moments=moments,
            pixels=pixels,
            masks=masks,
            captions=captions,
            tokens=self.model.tokens(captions, self.uncached_encoders) if self.uncached_encoders else {},
            text={} if self.texts is None else (self.kept_texts or self.texts).get(cached),
            weights=torch.tensor([weight if item.is_reg else 1.0 for item in items]),
            sizes=self._sizes(augmented),
        )

    def batch(self, inputs: Inputs, generator: torch.Generator, objective: Objective) -> Batch:
        """The batch from its inputs, on the CPU but for what comes from kept caches; arguments as of `load`."""
        moments, masks = inputs.moments, inputs.masks
        if moments is None:
            moments, masks = self._encoded(inputs)
        latents = self._sample_latents(inputs.entries, moments, generator)
        return Batch(
            latents=latents,
            noise=objective.sample_noise(latents, generator),
            captions=inputs.captions,
            tokens=inputs.tokens,
            text=inputs.text,
            weights=inputs.weights,
            mask=_stacked(masks, latents),
            sizes=inputs.sizes,
        )

    def cached_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The cached text-encoder outputs of the captions, on the training device."""
        outputs = {} if self.texts is None else self.texts.get(captions)
        return {name: tensor.to(self.device) for name, tensor in outputs.items()}

    def latents_of(self, item: Item) -> list[Tensor]:
        """The mean of an item's latents [C, h, w], without colour and crop augmentation; with `flip_aug` also that of
        the mirrored image."""
        latents = []
        for flip in (False, True) if self._table(item).flip_aug else (False,):
            if self.latents is not None:
                moments = self.latents.get(item, flip)[0]
            else:
                pixels, _ = load_pixels(item.image, item.placement, self._table(item), flip=flip)
                moments = self.model.encode_pixels(pixels[None].to(self.device))[0].cpu()
            latents.append(moments.chunk(2)[0])
        return latents

    def _sample_latents(self, entries: Sequence[Augmented], moments: Tensor, generator: torch.Generator) -> Tensor:
        """Sample latents from moments [B, 2C, h, w]: new ones in each step; with kohya_exact and a cache always the
        same ones for an image."""
        mean, deviation = moments.chunk(2, dim=1)
        training = self.config.training
        if not training.kohya_exact or self.latents is None:
            return mean + deviation * torch.randn(mean.shape, generator=generator).to(mean.device)
        names = [(item.dataset, item.subset_index, item.image.path.name, int(flip)) for item, flip, _ in entries]
        noise = [
            torch.randn(mean.shape[1:], generator=seeds.generator(training.seed, "latent", *name)) for name in names
        ]
        return mean + deviation * torch.stack(noise).to(mean.device)

    def _cached(self, entries: Sequence[Augmented]) -> tuple[Tensor, None, list[Tensor | None]]:
        cache = self.kept_latents or self.latents
        assert cache is not None
        cached = [cache.get(item, flip) for item, flip, _ in entries]
        return torch.stack([moments for moments, _ in cached]), None, [mask for _, mask in cached]

    def _decoded(self, entries: Sequence[Augmented]) -> tuple[None, Tensor, list[Tensor | None]]:
        """Decode the images: without a cache, or where augmentation changes the pixels in each step."""
        decoded = [
            load_pixels(item.image, item.placement, self._table(item), flip=flip, rng=random.Random(seed))
            for item, flip, seed in entries
        ]
        return None, torch.stack([image for image, _ in decoded]), [mask for _, mask in decoded]

    def _encoded(self, inputs: Inputs) -> tuple[Tensor, list[Tensor | None]]:
        """Moments of the pixels, from the device, and masks for them."""
        assert inputs.pixels is not None
        moments = self.model.encode_pixels(inputs.pixels.to(self.device)).cpu()
        size = (moments.shape[-2], moments.shape[-1])
        return moments, [None if mask is None else latent_mask(mask, size) for mask in inputs.masks]

    def _sizes(self, entries: Sequence[Augmented]) -> Tensor:
        """As `sizes_of`; what is cropped around a face counts as an image of that size, as in Kohya."""
        sizes = sizes_of([(item, flip) for item, flip, _ in entries])
        for row, (item, _, _) in enumerate(entries):
            if self.latents is None and face_of(item.image.path, self._table(item)) is not None:
                width, height = item.placement.bucket
                sizes[row] = torch.tensor([height, width, 0, 0, height, width])
        return sizes

    def _is_flipped(self, index: int, step: int) -> bool:
        flips = self._table(self.items[index]).flip_aug
        return flips and is_flipped(self.config.training.seed, self.epoch(step), index)

    def _table(self, item: Item) -> DatasetTable:
        return item.table or self.config.dataset


def _stacked(masks: Sequence[Tensor | None], latents: Tensor) -> Tensor | None:
    """[B, 1, h, w], with ones for an image without a mask; None if none has one."""
    if all(mask is None for mask in masks):
        return None
    ones = torch.ones(latents.shape[-2:], device=latents.device)
    return torch.stack([ones if mask is None else mask for mask in masks])[:, None]


def sizes_of(entries: Sequence[tuple[Item, bool]]) -> Tensor:
    """Size conditioning [B, 6] float32 of items, each with whether it is mirrored."""
    rows = [
        size_conditioning((item.image.width, item.image.height), item.placement, flip=flip) for item, flip in entries
    ]
    return torch.tensor(rows, dtype=torch.float32)
