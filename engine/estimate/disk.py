"""Estimate of the disk space of a run, from the checkpoint's headers, before the start."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from engine.atomic import require_space
from engine.config.training_size import training_size
from engine.dataset.reach import most_latents
from engine.hardware.system import memory
from engine.paths import expanded
from engine.text import size_text

if TYPE_CHECKING:
    from engine.adapters.selection import Selector
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.families.resolved import ResolvedRun
    from engine.families.spec import LayerPatterns

_STATE_COPIES = 3
"""The adapter in fp32 and Adam's two moments."""
_STATES_KEPT = 3
"""Two, and the one being written."""
_BYTES_A_NUMBER = 2 * 4
"""Mean and deviation, fp32."""
MOST_OF_MEMORY = 0.25
"""Share of the host's memory that cached latents may take."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes that a run writes, by purpose."""

    loras: int
    states: int
    samples: int
    latents: int
    texts: int
    least: int
    """For the first state and one LoRA."""

    @property
    def total(self) -> int:
        """The sum."""
        return self.loras + self.states + self.samples + self.latents + self.texts

    def lines(self, directory: Path) -> list[str]:
        """The estimate in words, with the free space at `directory`, which need not exist yet."""
        purposes = {
            "LoRA files": self.loras,
            "states": self.states,
            "samples": self.samples,
            "latents": self.latents,
            "encoded captions": self.texts,
        }
        parts = [f"{name} {size_text(size)}" for name, size in purposes.items() if size]
        free = size_text(self.free(directory))
        return [f"Disk: about {size_text(self.total)} ({', '.join(parts)}); {free} are free."]

    @staticmethod
    def free(directory: Path) -> int:
        """Free bytes at `directory`, which need not exist yet."""
        return shutil.disk_usage(next(path for path in (directory, *directory.parents) if path.exists())).free

    def check(self, directory: Path) -> str | None:
        """A warning if the estimate does not fit at `directory`, else None.

        Raises:
            StorageError: not even the first state and one LoRA fit.
        """
        require_space(directory, self.least, "one state and one LoRA")
        free = shutil.disk_usage(directory).free
        if free >= self.total:
            return None
        total = size_text(self.total)
        return f"The disk may become full: about {total} will be written, {size_text(free)} are free in {directory}."


def estimate(run: ResolvedRun, plan: StepPlan, num_prompts: int) -> DiskNeed:
    """The disk space of a complete run, estimated on the safe side."""
    config, recognition, parameters = run.config, run.recognition, lora_parameters(run)
    lora = parameters * (4 if config.saving.save_precision == "float" else 2)
    if config.saving.key_format == "diffusers":
        lora += int(lora * run.family.spec.layers.repeated_share)
    sampling, size = config.sampling, training_size(config)
    interval = (sampling.sample_every_n_epochs or 0) * plan.updates_per_epoch or sampling.sample_every_n_steps
    rounds = plan.max_train_steps // interval + 2 if interval else 0
    images = sum(subset.images for subset in plan.subsets) * (2 if config.dataset.flip_aug else 1)
    return DiskNeed(
        least=lora + parameters * 4 * _STATE_COPIES,
        loras=lora * _files(config, plan),
        states=parameters * 4 * _STATE_COPIES * _STATES_KEPT,
        samples=rounds * num_prompts * size[0] * size[1] * 2,
        texts=_captions(config, plan, images) * recognition.caption_bytes
        if config.memory.cache_text_encoder_outputs_to_disk
        else 0,
        latents=latent_bytes(run, plan) if latents_on_disk(run, plan) else 0,
    )


def latent_bytes(run: ResolvedRun, plan: StepPlan) -> int:
    """What the cached latents of a run take: mean and deviation in float32, of every image at its usual size."""
    size, recognition = training_size(run.config), run.recognition
    cells = size[0] * size[1] // recognition.downscale**2
    return most_latents(run.config, plan) * cells * recognition.latent_channels * _BYTES_A_NUMBER


def latents_on_disk(run: ResolvedRun, plan: StepPlan) -> bool:
    """Whether latents are cached on disk: by the settings, or as they would take too much of the host's memory."""
    settings = run.config.memory
    if not settings.cache_latents:
        return False
    return settings.cache_latents_to_disk or latent_bytes(run, plan) > memory()[0] * MOST_OF_MEMORY


def _captions(config: RunConfig, plan: StepPlan, images: int) -> int:
    """Upper limit of the run's different captions: one per image, or, if they vary, one per image of every batch."""
    dataset, training = config.dataset, config.training
    changed = (
        dataset.shuffle_caption
        or dataset.enable_wildcard
        or dataset.caption_tag_dropout_rate > 0
        or dataset.token_warmup_step > 0
    )
    if not changed:
        return images + 1
    return plan.max_train_steps * training.train_batch_size * training.gradient_accumulation_steps


def _files(config: RunConfig, plan: StepPlan) -> int:
    """Number of LoRA files at the end."""
    saving = config.saving
    by_epoch = plan.epochs // saving.save_every_n_epochs if saving.save_every_n_epochs else 0
    by_step = plan.max_train_steps // saving.save_every_n_steps if saving.save_every_n_steps else 0
    return 1 + min(by_epoch, saving.save_last_n_epochs or by_epoch) + by_step


def lora_parameters(run: ResolvedRun) -> int:
    """Number of the adapters' parameters, from the shapes of the layers that get one, or with `dim_from_weights` from
    those of the file."""
    from engine.adapters.kinds.registry import trained_kind
    from engine.adapters.selection import Selector
    from engine.config.trained import why_untrained
    from engine.families.listing import listed_layers
    from engine.models.header import read_header

    config = run.config
    if config.network.dim_from_weights and config.network.network_weights:
        start = read_header(expanded(config.network.network_weights))
        return sum(prod(shape) for shape in start.shapes.values() if shape)
    selector, kind, network = Selector(config, run.family), trained_kind(config.network), config.network
    listed = listed_layers(run.family, run.recognition)
    if not any(layer.shape for layer in listed):
        return _by_patterns(run)
    layers, trained = {}, []
    for layer in listed:
        target = layer.target
        why = why_untrained(config, denoiser=target.is_denoiser, component=target.component)
        if layer.shape and why is None:
            layers[target.kohya_name] = layer
            trained.append(target)
    total = _chosen_norms(run, selector)
    for choice in selector.select(trained).choices:
        name, target, table = choice.target.kohya_name, choice.target, choice.table(network)
        layer = layers[name]
        total += kind.count(name, layer.shape, target.kind, table, bias=layer.bias)
        if target.is_split:
            total += (len(target.paths) - 1) * table.network_dim * layer.shape[1]
    return total


def _by_patterns(run: ResolvedRun) -> int:
    """The same by the names of the weights, for a family without a table of Kohya's names."""
    from engine.adapters.kinds.registry import trained_kind
    from engine.config.trained import is_trained
    from engine.models.header import read_header

    config, path, patterns = run.config, run.recognition.path, run.family.spec.patterns
    files = sorted(path.glob("*/*.safetensors")) if path.is_dir() else [path]
    wants_denoiser, wants_text = is_trained(config, denoiser=True), is_trained(config, denoiser=False)
    kind, network = trained_kind(config.network), config.network
    conv = kind.takes_convolutions(network) and bool(kind.size_of("conv3x3", network))
    total = 0
    for file in files:
        inside = f"{file.parent.name}." if path.is_dir() else ""
        shapes = read_header(file).shapes
        for name, shape in shapes.items():
            text = inside == "text_encoder." or re.search(patterns.text, name) is not None
            wanted = wants_text if text else wants_denoiser
            if not wanted or len(shape) < 2 or re.search(patterns.elsewhere, inside + name):
                continue
            if re.search(patterns.attention, name) or (conv and re.search(patterns.convolution, name)):
                layer, bias = name.removesuffix(".weight"), name.removesuffix("weight") + "bias" in shapes
                form = "conv3x3" if shape[2:] == (3, 3) else "linear"
                total += kind.count(layer.replace(".", "_"), shape, form, network, bias=bias)
    return total


def _chosen_norms(run: ResolvedRun, selector: Selector) -> int:
    """Weights and biases of the norm layers that are chosen."""
    from engine.config.trained import why_untrained

    if not run.config.network.train_norm:
        return 0
    patterns, conv = run.family.spec.patterns, selector.wants_convolutions
    channels = {
        target: count
        for target, count in run.family.norm_layers(run.recognition)
        if _is_norm(f"{target.path}.", patterns, conv)
        and why_untrained(run.config, denoiser=True, component=target.component) is None
    }
    return sum(2 * channels[choice.target] for choice in selector.select(list(channels)).choices)


def _is_norm(name: str, patterns: LayerPatterns, conv: bool) -> bool:
    """Whether it is the weight or the bias of a norm layer that is trained."""
    return bool(re.search(patterns.norms, name) or (conv and re.search(patterns.conv_norms, name)))
