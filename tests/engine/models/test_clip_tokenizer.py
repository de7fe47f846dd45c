"""The shipped tokenizer is CLIP's."""

from __future__ import annotations

import json

import pytest
from transformers import CLIPTokenizer

from engine.paths import ASSETS

FOLDER = ASSETS / "clip_tokenizer"


def test_sizes() -> None:
    assert len(json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))) == 49408
    assert len((FOLDER / "merges.txt").read_text(encoding="utf-8").splitlines()) == 49408 - 2 * 256 - 2 + 1


@pytest.mark.parametrize(
    ("caption", "ids"),
    [
        ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("A  photo of\na CAT", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("", [49406, 49407]),
    ],
)
def test_known_ids(caption: str, ids: list[int]) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER, local_files_only=True)
    assert tokenizer(caption).input_ids == ids
    assert (tokenizer.model_max_length, tokenizer.pad_token_id, tokenizer.eos_token_id) == (77, 49407, 49407)
