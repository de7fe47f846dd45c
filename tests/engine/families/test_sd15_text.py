"""Captions to hidden states: chunks of long captions and clip_skip, as Kohya has them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

from engine.families.unet.model import SD15Model
from engine.families.unet.parts import TOKENIZER
from engine.families.unet.text import context_length, tokenise

CAT = 2368
START, END = 49406, 49407


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return CLIPTokenizer.from_pretrained(TOKENIZER, local_files_only=True)


def test_one_pass(tokenizer: Any) -> None:
    ids = tokenise(tokenizer, ["cat", "cat " * 100], 77, 75)
    assert ids.shape == (2, 1, 77)
    assert ids[0, 0, :4].tolist() == [START, CAT, END, END]
    assert ids[1, 0].tolist() == [START, *[CAT] * 75, END]


@pytest.mark.parametrize(("length", "chunks"), [(150, 2), (225, 3)])
def test_long_captions_are_cut_in_chunks(tokenizer: Any, length: int, chunks: int) -> None:
    ids = tokenise(tokenizer, ["cat " * 80, "cat " * 400], 77, length)
    assert ids.shape == (2, chunks, 77)
    assert ids[0, 0].tolist() == [START, *[CAT] * 75, END]
    assert ids[0, 1].tolist() == [START, *[CAT] * 5, *[END] * 71]
    assert ids[1, -1].tolist() == [START, *[CAT] * 75, END]


def test_padding_other_than_the_end(tokenizer: Any) -> None:
    other = copy.deepcopy(tokenizer)
    other.pad_token = "!"
    pad = other.pad_token_id
    ids = tokenise(other, ["cat " * 75, "cat " * 10], 77, 225)
    assert ids[0, 0, -2:].tolist() == [CAT, END], "a full chunk ends in the end id"
    assert ids[0, 1, :3].tolist() == [START, END, pad], "the caption's own end falls into the second chunk"
    assert ids[0, 2, :3].tolist() == [START, END, pad], "an empty chunk begins with the end id"
    assert ids[1, 0, 10:13].tolist() == [CAT, END, pad]


def test_a_short_context(tokenizer: Any, model: SD15Model) -> None:
    short = copy.deepcopy(tokenizer)
    short.model_max_length = 32
    assert context_length(short, model.text_encoders["text_encoder"]) == 32
    short.model_max_length = int(1e30)
    assert context_length(short, model.text_encoders["text_encoder"]) == 77
    assert tokenise(short, ["cat " * 40], 32, 150)[0, 1].tolist() == [START, *[CAT] * 10, *[END] * 21]


def test_chunks_are_encoded_alone_and_joined(folder: Path, load: Any) -> None:
    model = load(folder, max_token_length=150)
    ids = tokenise(model.tokenizers[0], ["cat " * 80, "a dog"], 77, 150)
    with torch.no_grad():
        states = model.encode_text(["cat " * 80, "a dog"])["hidden_states"]
        alone = [model.text_encoders["text_encoder"](ids[:, n]).last_hidden_state for n in range(2)]
    assert states.shape == (2, 152, 32)
    expected = torch.cat([alone[0][:, :1], alone[0][:, 1:76], alone[1][:, 1:76], alone[1][:, -1:]], 1)
    torch.testing.assert_close(states, expected, rtol=1e-5, atol=1e-6)


def test_clip_skip(folder: Path, load: Any) -> None:
    models = {skip: load(folder, clip_skip=skip) for skip in (None, 1, 2)}
    encoder = models[None].text_encoders["text_encoder"]
    ids = tokenise(models[None].tokenizers[0], ["a photo of a cat"], 77, 75)
    shorter = copy.deepcopy(encoder)
    shorter.encoder.layers = shorter.encoder.layers[:-1]
    with torch.no_grad():
        last = encoder(ids[:, 0]).last_hidden_state
        before = shorter(ids[:, 0]).last_hidden_state
        for skip, expected in ((None, last), (1, last), (2, before)):
            torch.testing.assert_close(models[skip].encode_text(["a photo of a cat"])["hidden_states"], expected)
    assert (before - last).abs().max() > 1e-3
