"""Whether a trigger word is a good one, in words."""

from __future__ import annotations

import pytest

from engine.dataset.trigger import suggest, tokenize_trigger
from tui.text.folders import verdict_text


@pytest.mark.parametrize(
    ("word", "sign", "part"),
    [
        ("smithy", "✓", "not a word the model knows (2 tokens)"),
        ("fox", "!", "a word that the model knows (1 token)"),
        ("zq", "!", "so short"),
        ("?", "!", ""),
        ("my smithy", "!", "several words"),
        ("zqx vkj", "!", "several words"),
        ("zqxvkjzqxvkjzqxvkjzqxvkj", "!", "A shorter one"),
        ("nguy3nth1m41", "✓", "not a word"),
    ],
)
def test_a_trigger_word(word: str, sign: str, part: str) -> None:
    text = verdict_text(tokenize_trigger(word), tokenize_trigger(suggest(word)))
    assert text.startswith(f"{sign} {word}: ") and part in text
