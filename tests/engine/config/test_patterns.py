"""Patterns on names of layers mean what Python's do, and none of them hangs."""

from __future__ import annotations

import random
import re

import pytest

from engine.config.patterns import LONGEST, compiled

ATOMS = ["a", "b", "_", "1", ".", "[ab]", "[^a]", "[]a]", r"\d", r"\w", r"\.", "^", "$", r"\b", "(a|b)", "(?:ab|_)",
         "(a|)", "(a*)"]  # fmt: skip
ENDS = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "{2,}", "*?", "+?", "{", "{}"]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("attn2", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q", True),
        ("attn2.to_k", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q", False),
        (r"input_blocks_[45]_.*attn1.*to_(q|k)$", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_k", True),
        (r"^lora_te", "lora_unet_lora_te", False),
        (r"blocks_1(\D|$)", "double_blocks_12_img", False),
        ("", "x", True),
    ],
)
def test_a_pattern_is_searched_in_a_name(pattern: str, name: str, matches: bool) -> None:
    assert compiled(pattern).is_in(name) is matches is bool(re.search(pattern, name))


def test_it_means_what_it_means_in_python() -> None:
    rng, compared = random.Random(1), 0
    while compared < 3000:
        pattern = "".join(rng.choice(ATOMS) + rng.choice(ENDS) for _ in range(rng.randint(1, 5)))
        pattern += rng.choice(["", "", "|b", f"|({pattern})+"])
        try:
            expected = re.compile(pattern)
        except re.error:
            continue
        for _ in range(3):
            name = "".join(rng.choice("ab_1.") for _ in range(rng.randint(0, 8)))
            assert compiled(pattern).is_in(name) is bool(expected.search(name)), (pattern, name)
            compared += 1


@pytest.mark.parametrize("pattern", ["(a+)+$", r"(\w+\w+)+!", "(.*)*(.*)*(.*)*!", "(a|aa)+$"])
def test_no_pattern_hangs(pattern: str) -> None:
    assert not compiled(pattern).is_in("a" * 200 + "-")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "is none"),
        ("(?=a)", "look-around"),
        ("(?i)a", "look-around, flags"),
        (r"(a)\1", r"without \1"),
        (r"\Ba", r"without \B"),
        ("a++", "possessive"),
        ("((a{99}){99}){99}", "fewer repetitions"),
        ("a" * (LONGEST + 1), f"up to {LONGEST} characters"),
    ],
)
def test_what_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        compiled(pattern)
