"""Any image-to-text model of transformers, loaded by its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from typing_extensions import override

from engine.captioning.captioner import Answer, Subject
from engine.captioning.local_model import LocalModel, texts_of
from engine.captioning.model_options import ImageTextOptions
from engine.errors import ModelError
from engine.out_of_memory import is_out_of_memory
from engine.text import printable
from engine.types import Log


class ImageText(LocalModel):
    """A model with a chat template gets the prompt as a chat message; others get it as text, or none."""

    name: ClassVar[str] = "transformers"

    @override
    def load(self, options: ImageTextOptions, log: Log) -> None:
        self.options = options
        self.prepare(options, "", "The model", AutoModelForImageTextToText, AutoProcessor, log)
        if not hasattr(self.processor, "tokenizer"):  # an encoder-decoder pair without its own processor
            self.tokenizer = self.load_part(AutoTokenizer)
            self.processor = self.load_part(AutoImageProcessor)
        else:
            self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # the answer begins directly after the prompt

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        options = self.options
        try:
            tokens = self.generate(
                self._prompt_inputs(subjects),
                do_sample=False,
                num_beams=options.num_beams,
                max_new_tokens=options.max_new_tokens,
            )
        except Exception as error:  # any library, an untested model
            if is_out_of_memory(error):
                raise
            reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
            raise ModelError(
                f"The model does not accept this prompt: {reason}",
                "Try another prompt, or none.",
                code="prompt-refused",
            ) from error
        return texts_of(self.tokenizer, tokens)

    def _prompt_inputs(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        prompt = self.options.prompt.strip()
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            chat = [{"role": "user", "content": content if prompt else content[:1]}]
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            images: list[Any] = [[subject.image] for subject in subjects]
            return self.inputs(images, text=[text] * len(subjects), padding=True)
        images = [subject.image for subject in subjects]
        return self.inputs(images, text=[prompt] * len(subjects), padding=True) if prompt else self.inputs(images)
