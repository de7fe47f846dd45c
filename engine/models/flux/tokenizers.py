"""The tokenizers of FLUX's two text encoders; CLIP's comes with the program."""

from __future__ import annotations

from typing import Any

from transformers import T5Tokenizer

from engine.config.schema import ModelTable
from engine.errors import ModelError
from engine.models.base import Recognition
from engine.models.flux.t5_tokenizer import find_t5_tokenizer
from engine.models.ldm.parts import load_tokenizer
from engine.text import printable


def load_tokenizers(table: ModelTable, recognition: Recognition) -> tuple[Any, Any]:
    """(CLIP's, T5's).

    Raises:
        ModelError: T5's is missing, or one is broken.
    """
    folder = find_t5_tokenizer(table, recognition)
    try:
        t5 = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise ModelError(
            f"The tokenizer in {printable(folder)} cannot be read: {error}.",
            "Fetch it again; spiece.model alone needs the package sentencepiece.",
        ) from error
    return load_tokenizer(recognition), t5
