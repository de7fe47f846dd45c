"""Captions that are tokenised before a step: encoded, they are what the captions themselves are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import RunConfig
from engine.families.base import Model
from engine.families.registry import family_named, recognise
from tests.tiny_flux import tiny_folder
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

MAKERS: dict[str, Callable[[Path], Path]] = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "flux": tiny_folder}
CAPTIONS = ["a (photo:1.4) of a cat", "cat " * 100]


@pytest.fixture(scope="module", params=MAKERS)
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Model]:
    path = MAKERS[request.param](tmp_path_factory.mktemp("model"))

    def loaded(**keys: Any) -> Model:
        config = RunConfig().changed(model=keys)
        return family_named(request.param).load(config, recognise(path), "cpu", "fp32", lambda _: None)

    return loaded


@pytest.mark.parametrize("weighted", [False, True])
def test_tokens_are_encoded_like_their_captions(load: Callable[..., Model], weighted: bool) -> None:
    model = load(max_token_length=150, weighted_captions=weighted)
    encoders = [name for name in model.text_encoders if name not in model.cached_only_encoders]
    tokens, text = model.tokens(CAPTIONS, encoders), model.encode_text(CAPTIONS, encoders)
    assert {name.partition(".")[0] for name in tokens} == set(encoders)
    assert all(len(tensor) == len(CAPTIONS) for tensor in tokens.values())
    encoded = model.encode_tokens(tokens, encoders)
    assert encoded.keys() == text.keys() and all(torch.equal(encoded[name], text[name]) for name in text)


def test_a_tokenizer_serves_one_thread_at_a_time(load: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load()
    inside, most, lock = 0, 0, threading.Lock()

    def slow(*_: object) -> torch.Tensor:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return torch.zeros(1, 1, 77, dtype=torch.int64)

    monkeypatch.setattr(f"{type(model).__module__}.tokenise", slow)
    threads = [threading.Thread(target=model.tokens, args=([f"cat {n}"], ["text_encoder"])) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
