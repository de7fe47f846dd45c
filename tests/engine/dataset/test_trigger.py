"""The trigger word: suggested from a name, and seen through the tokenizers that ship."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from engine.dataset.trigger import CLIP, suggest, tokenize_trigger, tokenizer_folder
from engine.paths import ASSETS
from tests.refusals import refused

DEMO = ASSETS / "demo_base"


@pytest.mark.parametrize(
    ("name", "word"),
    [("anna", "4nn4"), ("Anna Smith", "4nn4sm1th"), ("sky", "5ky"), ("Zoë", "z03"), ("fwx", "fwx"), ("", "")],
)
def test_suggests_letters_to_digits(name: str, word: str) -> None:
    assert suggest(name) == word


def test_a_common_word_is_one_token_and_known() -> None:
    verdict = tokenize_trigger("woman")
    assert (verdict.tokens, verdict.split, verdict.pieces, verdict.common_words) == (1, False, ("woman",), ("woman",))


def test_digits_split_a_word_so_that_none_is_known() -> None:
    verdict = tokenize_trigger("4nn4")
    assert (verdict.tokens, verdict.pieces, verdict.common_words) == (3, ("4", "nn", "4"), ())


@pytest.mark.parametrize(
    ("word", "common_words"), [("red-fox", ("red", "fox")), ("redfox", ()), ("Red fox", ("Red", "fox"))]
)
def test_common_words_inside_are_listed(word: str, common_words: tuple[str, ...]) -> None:
    assert tokenize_trigger(word).common_words == common_words


def test_a_character_of_several_tokens_is_one_piece() -> None:
    verdict = tokenize_trigger("东京")
    assert (verdict.tokens, verdict.pieces) == (4, ("东", "京"))


def test_the_model_s_own_tokenizer_is_used() -> None:
    assert tokenizer_folder(DEMO) == DEMO / "tokenizer"
    assert tokenize_trigger("smithy", DEMO).tokens == 4
    assert tokenize_trigger("smithy").tokens == 2


@pytest.mark.parametrize("folder", [CLIP, DEMO / "tokenizer"])
@pytest.mark.parametrize("word", ["4nn4", "müller", "it's-a 东京", "Anna_Smith", "x" * 300, "a\ufffdb", "I'LL"])
def test_counts_as_the_trainer_does(folder: Path, word: str) -> None:
    expected = CLIPTokenizer.from_pretrained(folder, local_files_only=True).tokenize(word)
    assert tokenize_trigger(word, folder.parent if folder != CLIP else "").tokens == len(expected)


def test_a_broken_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "tokenizer").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "tokenizer" / name).write_text("nothing of the kind")
    with refused("tokenizer-unreadable", tmp_path):
        tokenize_trigger("anna", tmp_path)


def test_loads_no_transformers() -> None:
    code = (
        "import sys; from engine.dataset.trigger import tokenize_trigger; assert tokenize_trigger('4nn4').tokens == 3\n"
        "assert not {'transformers', 'torch', 'numpy'} & {name.partition('.')[0] for name in sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
