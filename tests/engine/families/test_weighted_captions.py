"""`weighted_captions`: the syntax, and hidden states against a second computation, step by step as in sd-scripts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import RunConfig
from engine.config.caption_weights import weighted_parts
from engine.dataset.report.tokens import token_counter
from engine.dataset.text_cache import TextCache
from engine.families.registry import family_named, foreign_settings, recognise, specs
from engine.families.unet.model import SD15Model, UNetModel
from engine.families.unet.text import tokenise, tokenise_weighted, weighted
from tests.tiny_sdxl import tiny_sdxl

DOWN = 1 / 1.1
PARTS = {
    "plain, with commas": [("plain, with commas", 1.0)],
    "": [("", 1.0)],
    "an (important) word": [("an ", 1.0), ("important", 1.1), (" word", 1.0)],
    "(a:1.3)(b:.5)[c]": [("a", 1.3), ("b", 0.5), ("c", DOWN)],
    "(one)(two)": [("onetwo", 1.1)],
    "((deep:2) and) flat": [("deep", 2 * 1.1), (" and", 1.1), (" flat", 1.0)],
    "[(both)]": [("both", 1.1 * DOWN)],
    "(never closed": [("never closed", 1.1)],
    "[never (closed:2": [("never ", DOWN), ("closed:2", 1.1 * DOWN)],
    "closed only) :) 3:1]": [("closed only) :) 3:1]", 1.0)],
    r"\(a bracket\) \[and\] \\": [("(a bracket) [and] \\", 1.0)],
    r"lost \backslash": [("lost backslash", 1.0)],
    "(1.2.3 is no number:1.2.3)": [("1.2.3 is no number:1.2.3", 1.1)],
    "(minus:-1)(plus:+2.)": [("minus", -1.0), ("plus", 2.0)],
}
CAPTIONS = ["a (photo:1.4) of a [cat], ((very)) big", "no weights at all", "(dog:0.5) " + "cat " * 70 + "(bird:2)"]


@pytest.mark.parametrize(("text", "parts"), PARTS.items())
def test_the_syntax(text: str, parts: list[tuple[str, float]]) -> None:
    actual = weighted_parts(text)
    assert [part for part, _ in actual] == [part for part, _ in parts]
    assert [weight for _, weight in actual] == pytest.approx([weight for _, weight in parts])


@pytest.fixture(scope="module")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def load_any(folder: Path, sdxl_folder: Path) -> Callable[..., UNetModel]:
    def loader(family: str, **keys: Any) -> UNetModel:
        recognition = recognise({"sd15": folder, "sdxl": sdxl_folder}[family])
        config = RunConfig().changed(model=keys)
        model = family_named(family).load(config, recognition, "cpu", "fp32", lambda _: None)
        assert isinstance(model, UNetModel)
        for encoder in model.text_encoders.values():  # a new norm leaves a mean of rounding errors, which may be 0
            for name, module in encoder.named_modules():
                if name.endswith("final_layer_norm"):
                    torch.nn.init.constant_(module.bias, 0.25)
        return model

    return loader


def by_hand(model: UNetModel, caption: str, encoder: int, length: int) -> tuple[Tensor, list[float]]:
    """Hidden states without weights, [tokens, width], and the weight of each token: a caption's ids in one row, then in
    chunks of 75 between start and end, each encoded alone."""
    tokenizer, name = model.tokenizers[encoder], list(model.text_encoders)[encoder]
    ids, weights = [tokenizer.bos_token_id], [1.0]
    for part, weight in weighted_parts(caption):
        own = tokenizer(part).input_ids[1:-1]
        ids += own
        weights += [weight] * len(own)
    ids, weights = [*ids[: length + 1], tokenizer.eos_token_id], [*weights[: length + 1], 1.0]
    ids += [tokenizer.pad_token_id] * (length + 2 - len(ids))
    weights += [1.0] * (length + 2 - len(weights))
    pieces = []
    for first in range(1, length + 1, 75):
        chunk = [ids[0], *ids[first : first + 75], ids[-1]]
        if length > 75 and tokenizer.pad_token_id != tokenizer.eos_token_id:
            if chunk[-2] not in (tokenizer.eos_token_id, tokenizer.pad_token_id):
                chunk[-1] = tokenizer.eos_token_id
            if chunk[1] == tokenizer.pad_token_id:
                chunk[1] = tokenizer.eos_token_id
        output = model.text_encoders[name](torch.tensor([chunk]), output_hidden_states=True)
        sd15 = isinstance(model, SD15Model)
        pieces.append(output.last_hidden_state[0] if sd15 else output.hidden_states[-2][0])
    return torch.cat([pieces[0][:1], *(piece[1:-1] for piece in pieces), pieces[-1][-1:]]), weights


@pytest.mark.parametrize("length", [75, 150])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@torch.no_grad()
def test_hidden_states(load_any: Callable[..., UNetModel], family: str, length: int) -> None:
    model = load_any(family, weighted_captions=True, max_token_length=length)
    encoded, prompts = model.encode_text(CAPTIONS)["hidden_states"], model.texts_of(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        trained, sampled = [], []
        for encoder in range(len(model.text_encoders)):
            states, weights = by_hand(model, caption, encoder, length)
            trained.append(states * torch.tensor(weights)[:, None])
            sampled.append(trained[-1] * states.mean() / trained[-1].mean())
        torch.testing.assert_close(encoded[row], torch.cat(trained, -1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prompts[row]["hidden_states"][0], torch.cat(sampled, -1), rtol=1e-4, atol=1e-4)
    plain = load_any(family, max_token_length=length).encode_text(["no weights at all", r"a photo (of)"])
    assert torch.equal(plain["hidden_states"][0], encoded[1]), "a caption without brackets is the same"
    brackets = model.encode_text(["no weights at all", r"a photo \(of\)"])["hidden_states"]
    torch.testing.assert_close(brackets[1], plain["hidden_states"][1], rtol=1e-5, atol=1e-5)


def test_a_mean_of_zero_is_left_alone() -> None:
    states, weights = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]]), torch.tensor([[1.4, 1.0]])
    assert torch.equal(weighted(states, weights, keep_mean=True), weighted(states, weights, keep_mean=False))


@torch.no_grad()
def test_a_cache_is_not_shared(load_any: Callable[..., UNetModel], tmp_path: Path) -> None:
    """The key changes with the setting only: caches of earlier versions stay valid without it."""
    models = [load_any("sd15", weighted_captions=weighted) for weighted in (False, True, False)]
    reports = [TextCache(tmp_path, model.text_key).build(["(a:2)"], model.encode_text) for model in models]
    assert [report.encoded for report in reports] == [1, 1, 0]
    first = TextCache(tmp_path, models[1].text_key).get(["(a:2)"])["hidden_states"]
    assert torch.equal(first, models[1].encode_text(["(a:2)"])["hidden_states"])


def test_gradients_flow(load_any: Callable[..., UNetModel]) -> None:
    model = load_any("sd15", weighted_captions=True)
    encoder = model.text_encoders["text_encoder"]
    encoder.requires_grad_(True)
    model.encode_text(["(a:2) b"])["hidden_states"].sum().backward()
    assert all(weight.grad is not None for name, weight in encoder.named_parameters() if "layers.0" in name)


def test_a_row_is_cut_like_a_plain_one(load_any: Callable[..., UNetModel]) -> None:
    tokenizer = load_any("sd15").tokenizers[0]
    for text in ("cat " * 200, "cat", ""):
        assert torch.equal(tokenise_weighted(tokenizer, text, 77, 150).ids, tokenise(tokenizer, [text], 77, 150))
    weights = tokenise_weighted(tokenizer, "cat " * 149 + "(cat cat:3)", 77, 150).weights
    assert weights is not None and weights[0].tolist() == [1.0] * 150 + [3.0, 1.0]


def test_length_in_tokens_is_without_brackets() -> None:
    counts = [
        token_counter(RunConfig().changed(model={"weighted_captions": weighted}), None) for weighted in (False, True)
    ]
    assert [counter and counter.count("(cat:1.3)") for counter in counts] == [7, 1]


def test_families_without_weights_report_it() -> None:
    key = "model.weighted_captions"
    with_weights = {spec.name for spec in specs() if key in spec.own_settings}
    assert with_weights == {"sd15", "sdxl"}
    for spec in specs():
        assert (key in foreign_settings(spec)) is (spec.name not in with_weights)
