"""Any model of transformers that makes text from a picture, found by its configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from engine.captioning.captioner import Answer, Say, Subject
from engine.captioning.local_model import LocalModel, texts_of
from engine.captioning.model_options import ImageTextOptions
from engine.errors import ModelError
from engine.memory.classify import is_out_of_memory
from engine.text import printable


class ImageText(LocalModel):
    """A model with a chat template is asked as in a chat; another one gets the prompt as text, or none."""

    name: ClassVar[str] = "transformers"

    def load(self, options: ImageTextOptions, say: Say) -> None:
        """Load model and processor; see `Captioner.load`."""
        self.options = options
        self.prepare(options, "", "The model", AutoModelForImageTextToText, AutoProcessor, say)
        if not hasattr(self.processor, "tokenizer"):  # a pair of models, which has no processor of its own
            self.tokenizer = self.load_part(AutoTokenizer)
            self.processor = self.load_part(AutoImageProcessor)
        else:
            self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "left"  # what is said begins right behind the question

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """One caption for each picture; see `Captioner.describe`."""
        options = self.options
        try:
            tokens = self.generate(
                self._asked(pictures),
                do_sample=False,
                num_beams=options.num_beams,
                max_new_tokens=options.max_new_tokens,
            )
        except Exception as error:  # of any library, about a model that nobody has tried here
            if is_out_of_memory(error):
                raise
            reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
            raise ModelError(f"The model cannot be asked so: {reason}", "Try another prompt, or none.") from error
        return texts_of(self.tokenizer, tokens)

    def _asked(self, pictures: Sequence[Subject]) -> dict[str, Any]:
        prompt = self.options.prompt.strip()
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": prompt}]
            chat = [{"role": "user", "content": content if prompt else content[:1]}]
            text = self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
            images: list[Any] = [[picture.image] for picture in pictures]
            return self.inputs(images, text=[text] * len(pictures), padding=True)
        images = [picture.image for picture in pictures]
        return self.inputs(images, text=[prompt] * len(pictures), padding=True) if prompt else self.inputs(images)
