"""BLIP by transformers, with the generation settings of Kohya's make_captions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import BlipForConditionalGeneration, BlipProcessor

from engine.captioning.captioner import Answer, Say, Subject
from engine.captioning.local_model import LocalModel, seed_everything, texts_of
from engine.captioning.model_options import BlipOptions

_REPETITION = {True: 1.0, False: 1.1}
"""Penalty by beam_search, as BLIP's authors set it."""


class Blip(LocalModel):
    """Pictures are scaled to the size that the model was made for: 384 px for the published ones."""

    name: ClassVar[str] = "blip"

    def load(self, options: BlipOptions, say: Say) -> None:
        """Load model and processor; see `Captioner.load`."""
        self.options = options
        self.prepare(options, "blip", "BLIP", BlipForConditionalGeneration, BlipProcessor, say)

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One caption for each picture; see `Captioner.describe`."""
        options = self.options
        images = [picture.image for picture in pictures]
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        inputs = {"pixel_values": self.placed(pixels)}
        begun: dict[str, Any] = {}
        skipped = 1
        if prompt := options.prompt.strip():
            ids = self.processor.tokenizer([prompt] * len(pictures), return_tensors="pt")["input_ids"]
            begun["input_ids"] = ids.to(self.device)
            skipped = ids.shape[1] - 1  # the end of the prompt is not given to the model
        how = {"num_beams": options.num_beams} if options.beam_search else {"top_p": options.top_p}
        seed_everything(options.seed, pictures)
        tokens = self.generate(
            inputs,
            do_sample=not options.beam_search,
            repetition_penalty=_REPETITION[options.beam_search],
            max_length=options.max_length,
            min_length=options.min_length,
            **begun,
            **how,
        )
        return texts_of(self.processor.tokenizer, tokens[:, skipped:])
