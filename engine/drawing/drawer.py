"""Loads a model once, and generates images with LoRA files at any strengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from diffusers.utils import logging

from engine.adapters.applied import AppliedLoras
from engine.adapters.base_weights import load_base
from engine.atomic import replacing
from engine.families.registry import family_named
from engine.families.resolved import resolve_run
from engine.hardware import choose_precision, compute_dtype
from engine.lowmem.settings import apply_memory_settings
from engine.models.device import chosen_gpu
from engine.out_of_memory import is_out_of_memory
from engine.results.png_info import BaseModel, LoraUse, hash_of, png_info
from engine.training.exactness import set_determinism

if TYPE_CHECKING:
    from PIL.Image import Image

    from engine.config import RunConfig
    from engine.config.memory import MemoryTable
    from engine.families.base import Model
    from engine.results.try_request import TryRequest
    from engine.types import Log, SampleRequest
    from engine.worker import Reporter

_NO_MATTER = {"dataset", "network", "training", "sampling", "saving"}
"""Tables that do not change how a model is loaded."""


class ImageGenerator:
    """Generates the images of requests. The model stays loaded for the next request with the same settings.

    Args:
        report: gets the progress, an event `note` for each decision, and `prompt`, `column` and `path` of each image.
    """

    def __init__(self, report: Reporter) -> None:
        logging.set_verbosity_error()
        self._report = report
        self._loaded_for = ""
        self._model: Model | None = None
        self._base: BaseModel | None = None
        self._low_memory = False

    def generate(self, request: TryRequest) -> None:
        """Generate the columns one after the other, every prompt in each.

        Raises:
            LoraSmithError: an error that the user can fix.
        """
        model = self._load(request.config)
        family = family_named(model.recognition.family)
        applied = AppliedLoras(model, request.files, family.spec.lora_base, self._log)
        request.directory.mkdir(parents=True, exist_ok=True)
        total, done = len(request.columns) * len(request.prompts), 0
        try:
            for number, column in enumerate(request.columns):
                applied.set_strengths(column.strengths)
                pairs = zip(request.files, column.strengths, strict=True)
                uses = [LoraUse.of(file, strength) for file, strength in pairs if strength]
                for index, prompt in enumerate(request.prompts):
                    self._report("draw", done, total)
                    path = request.image_path(index, number)
                    self._write(self._image(model, prompt), prompt, uses, path)
                    done += 1
                    self._report.event(prompt=index, column=number, path=str(path))
        finally:
            applied.remove()

    def _log(self, text: str) -> None:
        self._report.event(note=text)

    def _load(self, config: RunConfig) -> Model:
        """The model for these settings, loaded if it is not yet."""
        tables = config.model_dump(mode="json", exclude=_NO_MATTER)
        settings_key = json.dumps(tables, sort_keys=True)
        if self._model is not None and settings_key == self._loaded_for:
            return self._model
        self._model = None  # free its memory for the next one
        run = resolve_run(config)
        memory = run.config.memory
        device, dtype = choose_device(memory, self._log)
        model = load_base(run.family, run.config, run.recognition, device, dtype, self._log)
        apply_memory_settings(model, memory.model_copy(update={"torch_compile": "off"}), self._log)
        self._base = BaseModel.of(model.recognition, hash_of(run.recognition.path), run.config)
        self._model, self._loaded_for = model, settings_key
        return model

    def _image(self, model: Model, request: SampleRequest) -> Image:
        """Generate one image; after an out-of-memory, this and all later ones in less memory."""
        if not self._low_memory:
            try:
                return model.generate(request)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._log("The memory ran out: from now on guidance takes two passes and the VAE works in tiles.")
                self._low_memory = True
        return model.generate(request, low_memory=True)

    def _write(self, image: Image, request: SampleRequest, uses: list[LoraUse], path: Path) -> None:
        assert self._base is not None
        with replacing(path) as temporary:
            image.save(temporary, format="PNG", pnginfo=png_info(request, image.size, self._base, uses))


def choose_device(memory: MemoryTable, log: Log) -> tuple[str, str]:
    """The device ("cpu", "cuda:0") and the compute dtype ("fp32", "fp16", "bf16"), by a run's rules; sets up torch.

    Raises:
        UsageError: a GPU is requested and there is none, or it does not support the requested number format.
    """
    if memory.num_cpu_threads_per_process:
        torch.set_num_threads(memory.num_cpu_threads_per_process)
    gpu = chosen_gpu(memory.device)
    if gpu is not None:
        set_determinism(memory.deterministic)
    choice = choose_precision(memory.mixed_precision, gpu)
    log(f"Precision: {choice.text}.")
    return (f"cuda:{gpu.index}" if gpu else "cpu"), compute_dtype(choice.value)
