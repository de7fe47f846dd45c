"""What each card computes: the table, and what is refused."""

from __future__ import annotations

import pytest

from engine.hardware.abilities import CPU, FIRST, abilities, require_products
from tests.refusals import refused

PRECISIONS = ("auto", "int8", "fp8", "nf4", "int8_w8a8", "fp8_w8a8")
TABLE = {
    (6, 1): ({"fp16"}, {"int8_w8a8", "fp8_w8a8"}, "memory-efficient"),
    (7, 0): ({"fp16", "triton"}, {"int8_w8a8", "fp8_w8a8"}, "memory-efficient"),
    (7, 5): ({"fp16", "triton", "int8"}, {"fp8_w8a8"}, "memory-efficient"),
    (8, 0): ({"fp16", "triton", "int8", "bf16", "flash", "cudnn"}, {"fp8_w8a8"}, "flash"),
    (8, 6): ({"fp16", "triton", "int8", "bf16", "flash", "cudnn"}, {"fp8_w8a8"}, "flash"),
    (8, 9): (set(FIRST), set(), "flash"),
    (9, 0): (set(FIRST), set(), "flash"),
    (12, 0): (set(FIRST), set(), "flash"),
    None: (set(FIRST), set(), "flash"),
}
"""Compute capability, unknown at the end: what it computes, the base_precisions that are refused, and the attention in
half precision without a mask. 7.5: RTX 2060 and 2080. 8.0: A100. 8.6: RTX 30. 8.9: RTX 40. 9.0: H200. 12.0: RTX 50."""


@pytest.mark.parametrize("capability", TABLE)
def test_the_table(capability: tuple[int, int] | None) -> None:
    has, refuses, attention = TABLE[capability]
    able = abilities(capability)
    assert {name for name in FIRST if getattr(able, name)} == has
    assert able.attention(half=True, masked=False) == attention
    assert able.attention(half=False, masked=False) == able.attention(half=True, masked=True) == "memory-efficient"
    for precision in PRECISIONS:
        if precision not in refuses:
            require_products(precision, "The card", capability)
            continue
        kind = precision.partition("_")[0]
        with refused("products-not-possible", precision, f"no products in {kind}", "The card") as caught:
            require_products(precision, "The card", capability)
        assert ("int8_w8a8, or" in str(caught.value)) == (capability in ((7, 5), (8, 0), (8, 6)))


def test_the_cpu_multiplies_in_8_bits_and_has_neither_attention() -> None:
    assert CPU.int8 and CPU.fp8 and CPU.bf16 and not (CPU.fp16 or CPU.triton or CPU.flash or CPU.cudnn)
