"""Florence-2 by transformers' own classes; the first publication's remote code is not needed, and never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from transformers import Florence2ForConditionalGeneration, Florence2Processor

from engine.captioning.captioner import Answer, Say, Subject
from engine.captioning.local_model import LocalModel, texts_of
from engine.captioning.model_options import Florence2Options


class Florence2(LocalModel):
    """The task's name is turned into the model's own question by its processor."""

    name: ClassVar[str] = "florence2"

    def load(self, options: Florence2Options, say: Say) -> None:
        """Load model and processor; see `Captioner.load`."""
        self.options = options
        self.prepare(options, "florence2", "Florence-2", Florence2ForConditionalGeneration, Florence2Processor, say)

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One caption for each picture; see `Captioner.describe`."""
        options = self.options
        inputs = self.inputs([picture.image for picture in pictures], text=[options.task] * len(pictures))
        tokens = self.generate(
            inputs, do_sample=False, num_beams=options.num_beams, max_new_tokens=options.max_new_tokens
        )
        return texts_of(self.processor.tokenizer, tokens)
