"""What a run will write, estimated from the checkpoint's headers before the start."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.atomic import require_space
from engine.config.training_size import training_size
from engine.text import size_text

if TYPE_CHECKING:
    from engine.config import RunConfig
    from engine.dataset.arithmetic import StepPlan
    from engine.models.base import Recognition

_ATTENTION = re.compile(r"transformer_blocks\.|\.proj_(in|out)\.|self_attn\.|\.mlp\.fc|(double|single)_blocks\.")
_RESNET = re.compile(
    r"resnets\.|samplers\.|(input_blocks|middle_block|output_blocks)\..*(layers\.|skip_connection|\.op\.|\.conv\.)"
)
_TEXT = re.compile(r"text_model\.|cond_stage_model\.")
_ELSEWHERE = re.compile(r"first_stage_model|vae|safety_checker")
_STATE_COPIES = 3
"""The adapter in fp32 and Adam's two moments."""
_STATES_KEPT = 3
"""Two, and the one being written."""
_BYTES_A_NUMBER = 2 * 4
"""Mean and deviation, fp32."""


@dataclass(frozen=True)
class DiskNeed:
    """Bytes, by purpose."""

    loras: int
    states: int
    samples: int
    latents: int
    texts: int
    least: int
    """Without this much not even the first state and one file could be saved."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.loras + self.states + self.samples + self.latents + self.texts

    def lines(self, directory: Path) -> list[str]:
        """The estimate in words, with what is free where `directory` is or will be."""
        purposes = {
            "LoRA files": self.loras,
            "states": self.states,
            "samples": self.samples,
            "latents": self.latents,
            "encoded captions": self.texts,
        }
        parts = [f"{name} {size_text(size)}" for name, size in purposes.items() if size]
        place = next(path for path in (directory, *directory.parents) if path.exists())
        free = size_text(shutil.disk_usage(place).free)
        return [f"Disk: about {size_text(self.total)} ({', '.join(parts)}); {free} are free."]

    def check(self, directory: Path) -> str | None:
        """A warning when the estimate does not fit where `directory` is, None when it does.

        Raises:
            StorageError: not even the first state and one file fit.
        """
        require_space(directory, self.least, "one state and one LoRA")
        free = shutil.disk_usage(directory).free
        if free >= self.total:
            return None
        total = size_text(self.total)
        return f"The disk may become full: about {total} will be written, {size_text(free)} are free in {directory}."


def estimate(config: RunConfig, recognition: Recognition, plan: StepPlan, num_prompts: int) -> DiskNeed:
    """The disk that a whole run needs, on the safe side."""
    parameters = lora_parameters(config, recognition)
    lora = parameters * (4 if config.saving.save_precision == "float" else 2)
    sampling, size = config.sampling, training_size(config)
    interval = (sampling.sample_every_n_epochs or 0) * plan.updates_per_epoch or sampling.sample_every_n_steps
    rounds = plan.max_train_steps // interval + 2 if interval else 0
    cells = size[0] * size[1] // recognition.downscale**2
    pictures = sum(subset.pictures for subset in plan.subsets) * (2 if config.dataset.flip_aug else 1)
    return DiskNeed(
        least=lora + parameters * 4 * _STATE_COPIES,
        loras=lora * _files(config, plan),
        states=parameters * 4 * _STATE_COPIES * _STATES_KEPT,
        samples=rounds * num_prompts * size[0] * size[1] * 2,
        texts=_captions(config, plan, pictures) * recognition.caption_bytes
        if config.memory.cache_text_encoder_outputs_to_disk
        else 0,
        latents=pictures * cells * recognition.latent_channels * _BYTES_A_NUMBER
        if config.memory.cache_latents_to_disk
        else 0,
    )


def _captions(config: RunConfig, plan: StepPlan, pictures: int) -> int:
    """Different captions that the run may use: one a picture, or where they are changed one a picture trained."""
    dataset, training = config.dataset, config.training
    changed = (
        dataset.shuffle_caption
        or dataset.enable_wildcard
        or dataset.caption_tag_dropout_rate > 0
        or dataset.token_warmup_step > 0
    )
    if not changed:
        return pictures + 1
    return plan.max_train_steps * training.train_batch_size * training.gradient_accumulation_steps


def _files(config: RunConfig, plan: StepPlan) -> int:
    """LoRA files that lie there at the end."""
    saving = config.saving
    by_epoch = plan.epochs // saving.save_every_n_epochs if saving.save_every_n_epochs else 0
    by_step = plan.max_train_steps // saving.save_every_n_steps if saving.save_every_n_steps else 0
    return 1 + min(by_epoch, saving.save_last_n_epochs or by_epoch) + by_step


def lora_parameters(config: RunConfig, recognition: Recognition) -> int:
    """Parameters of the LoRA, from the shapes of the layers that take one."""
    from engine.models.header import read_header

    path = recognition.path
    files = sorted(path.glob("*/*.safetensors")) if path.is_dir() else [path]
    network, (unet_rate, text_rate) = config.network, config.training.rates
    wants_unet = unet_rate > 0 and not network.network_train_text_encoder_only
    wants_text = text_rate > 0 and not network.network_train_unet_only
    total = 0
    for file in files:
        inside = f"{file.parent.name}." if path.is_dir() else ""
        for name, shape in read_header(file).shapes.items():
            text = inside == "text_encoder." or _TEXT.search(name) is not None
            if len(shape) < 2 or _ELSEWHERE.search(inside + name) or not (wants_text if text else wants_unet):
                continue
            total += _rank(name, shape, config) * (shape[0] + math.prod(shape[1:]))
    return total


def _rank(name: str, shape: tuple[int, ...], config: RunConfig) -> int:
    """Rank of a layer's LoRA; 0 for a layer that takes none."""
    network = config.network
    if _ATTENTION.search(name):
        return network.network_dim
    if network.conv_dim is None or not _RESNET.search(name):
        return 0
    return network.conv_dim if shape[2:] == (3, 3) else network.network_dim
