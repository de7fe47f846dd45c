"""BLIP-2 of transformers, with the generation settings of the kohya_ss GUI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import Blip2ForConditionalGeneration, Blip2Processor
from typing_extensions import override

from engine.captioning.captioner import Answer, Subject
from engine.captioning.local_model import LocalModel, seed_everything, texts_of
from engine.captioning.model_options import Blip2Options
from engine.types import Log


class Blip2(LocalModel):
    """A frozen language model that gets an image as 32 tokens."""

    name: ClassVar[str] = "blip2"

    @override
    def load(self, options: Blip2Options, log: Log) -> None:
        self.options = options
        self.prepare(options, "blip-2", "BLIP-2", Blip2ForConditionalGeneration, Blip2Processor, log)

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        options = self.options
        prompt = options.prompt.strip()
        inputs = self.inputs(
            [subject.image for subject in subjects], **({"text": [prompt] * len(subjects)} if prompt else {})
        )
        sampling: dict[str, Any] = {"do_sample": True, "top_p": options.top_p, "temperature": 1.0}
        if options.beam_search:
            sampling = {"num_beams": options.num_beams, "length_penalty": options.length_penalty}
        seed_everything(options.seed, subjects)
        tokens = self.generate(
            inputs,
            repetition_penalty=options.repetition_penalty,
            min_new_tokens=options.min_new_tokens,
            max_new_tokens=options.max_new_tokens,
            **sampling,
        )
        return texts_of(self.processor.tokenizer, tokens)
