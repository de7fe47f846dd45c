"""BLIP of transformers, with the generation settings of Kohya's make_captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import BlipForConditionalGeneration, BlipProcessor
from typing_extensions import override

from engine.captioning.captioner import Answer, Subject
from engine.captioning.local_model import LocalModel, seed_everything, texts_of
from engine.captioning.model_options import BlipOptions
from engine.types import Log

_REPETITION = {True: 1.0, False: 1.1}
"""Penalty by beam_search, as BLIP's authors set it."""


class Blip(LocalModel):
    """Images are scaled to the input size of the model: 384 px for the published ones."""

    name: ClassVar[str] = "blip"

    @override
    def load(self, options: BlipOptions, log: Log) -> None:
        self.options = options
        self.prepare(options, "blip", "BLIP", BlipForConditionalGeneration, BlipProcessor, log)

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        options = self.options
        images = [subject.image for subject in subjects]
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        inputs = {"pixel_values": self.to_device(pixels)}
        prompt_inputs: dict[str, Any] = {}
        skipped = 1
        if prompt := options.prompt.strip():
            ids = self.processor.tokenizer([prompt] * len(subjects), return_tensors="pt")["input_ids"]
            prompt_inputs["input_ids"] = ids.to(self.device)
            skipped = ids.shape[1] - 1  # the end token of the prompt is not passed to the model
        sampling = {"num_beams": options.num_beams} if options.beam_search else {"top_p": options.top_p}
        seed_everything(options.seed, subjects)
        tokens = self.generate(
            inputs,
            do_sample=not options.beam_search,
            repetition_penalty=_REPETITION[options.beam_search],
            max_length=options.max_length,
            min_length=options.min_length,
            **prompt_inputs,
            **sampling,
        )
        return texts_of(self.processor.tokenizer, tokens[:, skipped:])
