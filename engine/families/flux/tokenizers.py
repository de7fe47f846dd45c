"""The tokenizers of FLUX's two text encoders; CLIP's comes with the program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BatchEncoding, T5Tokenizer

from engine.config.flux import FluxTable
from engine.families.flux.t5_tokenizer import find_t5_tokenizer
from engine.families.unet.parts import load_tokenizer, unreadable_tokenizer
from engine.models.files import require_regular_files
from engine.models.spiece import read_spiece
from engine.types import Recognition


def load_tokenizers(table: FluxTable, recognition: Recognition) -> tuple[Any, Any]:
    """(CLIP's, T5's).

    Raises:
        ModelError: T5's is missing, or one is broken.
    """
    if recognition.layout == "configurations":
        return load_tokenizer(recognition), blank_tokens
    folder = find_t5_tokenizer(table, recognition)
    try:
        t5 = read_t5_tokenizer(folder)
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise unreadable_tokenizer(folder, error) from error
    return load_tokenizer(recognition), t5


def read_t5_tokenizer(folder: Path) -> Any:
    """T5's tokenizer from tokenizer.json, else from spiece.model."""
    if (folder / "tokenizer.json").is_file():
        require_regular_files(folder)
        return T5Tokenizer.from_pretrained(folder, local_files_only=True)
    pieces, table = read_spiece(folder / "spiece.model")
    return T5Tokenizer(vocab=pieces, _spm_precompiled_charsmap=table or None, extra_ids=0)


def blank_tokens(captions: Sequence[str], *, max_length: int, **_: object) -> BatchEncoding:
    """Instead of T5's tokenizer, which does not ship with the program: as many tokens, all padding; for plans."""
    ids = torch.zeros(len(captions), max_length, dtype=torch.int64)
    return BatchEncoding({"input_ids": ids, "attention_mask": torch.zeros_like(ids)})
