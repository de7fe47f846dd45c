"""Florence-2 with transformers' own classes; the original remote code is not needed and never run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from transformers import Florence2ForConditionalGeneration, Florence2Processor
from typing_extensions import override

from engine.captioning.captioner import Answer, Subject
from engine.captioning.local_model import LocalModel, texts_of
from engine.captioning.model_options import Florence2Options
from engine.types import Log


class Florence2(LocalModel):
    """The processor turns the task name into the model's prompt."""

    name: ClassVar[str] = "florence2"

    @override
    def load(self, options: Florence2Options, log: Log) -> None:
        self.options = options
        self.prepare(options, "florence2", "Florence-2", Florence2ForConditionalGeneration, Florence2Processor, log)

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        options = self.options
        inputs = self.inputs([subject.image for subject in subjects], text=[options.task] * len(subjects))
        tokens = self.generate(
            inputs, do_sample=False, num_beams=options.num_beams, max_new_tokens=options.max_new_tokens
        )
        return texts_of(self.processor.tokenizer, tokens)
