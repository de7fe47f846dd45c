"""BLIP-2 by transformers, with the generation settings of the kohya_ss GUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import Blip2ForConditionalGeneration, Blip2Processor

from engine.captioning.captioner import Answer, Say, Subject
from engine.captioning.local_model import LocalModel, seed_everything, texts_of
from engine.captioning.model_options import Blip2Options


class Blip2(LocalModel):
    """A frozen language model that reads a picture through 32 tokens."""

    name: ClassVar[str] = "blip2"

    def load(self, options: Blip2Options, say: Say) -> None:
        """Load model and processor; see `Captioner.load`."""
        self.options = options
        self.prepare(options, "blip-2", "BLIP-2", Blip2ForConditionalGeneration, Blip2Processor, say)

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One caption for each picture; see `Captioner.describe`."""
        options = self.options
        prompt = options.prompt.strip()
        inputs = self.inputs(
            [picture.image for picture in pictures], **({"text": [prompt] * len(pictures)} if prompt else {})
        )
        how: dict[str, Any] = {"do_sample": True, "top_p": options.top_p, "temperature": 1.0}
        if options.beam_search:
            how = {"num_beams": options.num_beams, "length_penalty": options.length_penalty}
        seed_everything(options.seed, pictures)
        tokens = self.generate(
            inputs,
            repetition_penalty=options.repetition_penalty,
            min_new_tokens=options.min_new_tokens,
            max_new_tokens=options.max_new_tokens,
            **how,
        )
        return texts_of(self.processor.tokenizer, tokens)
