"""The choice of the precision: each card, each requested value, each reason."""

from __future__ import annotations

import pytest

from engine.hardware.gpu import Gpu
from engine.hardware.precision import choose_precision
from tests.refusals import refused


def _card(capability):
    return Gpu(0, "The card", compute_capability=capability)


@pytest.mark.parametrize(
    ("requested", "capability", "value", "reason"),
    [
        ("auto", (8, 6), "bf16", "compute capability 8.6"),
        ("auto", (8, 0), "bf16", "compute capability 8.0"),
        ("auto", (12, 0), "bf16", "compute capability 12.0"),
        ("auto", (7, 5), "fp16", "compute capability 7.5, bf16 needs 8.0"),
        ("auto", (6, 1), "fp16", "compute capability 6.1, bf16 needs 8.0"),
        ("auto", (5, 2), "no", "fp32, compute capability 5.2, fp16 needs 5.3"),
        ("auto", None, "fp16", "compute capability unknown, and every GPU in use has fp16"),
        ("fp16", (8, 6), "fp16", "as configured"),
        ("no", (8, 6), "no", "fp32, as configured"),
        ("bf16", (9, 0), "bf16", "as configured"),
        ("bf16", None, "bf16", "as configured"),
    ],
)
def test_on_a_gpu(requested, capability, value, reason):
    choice = choose_precision(requested, _card(capability))
    assert (choice.value, choice.reason) == (value, reason)


@pytest.mark.parametrize(
    ("requested", "value", "reason"),
    [
        ("auto", "no", "fp32, bf16 has no benefit on a CPU"),
        ("no", "no", "fp32, as configured"),
        ("bf16", "bf16", "as configured"),
    ],
)
def test_on_the_cpu(requested, value, reason):
    choice = choose_precision(requested, None)
    assert (choice.value, choice.reason) == (value, reason)


@pytest.mark.parametrize(
    ("requested", "card", "parts", "hint"),
    [
        ("bf16", _card((7, 5)), ("The card", "compute capability 7.5", "8.0"), "fp16 or auto"),
        ("bf16", _card((5, 0)), ("compute capability 5.0", "8.0"), "to no or auto"),
        ("fp16", _card((5, 2)), ("compute capability 5.2", "5.3"), "to no or auto"),
        ("fp16", None, ("the CPU",), "to no or auto"),
    ],
)
def test_what_cannot_be_is_refused(requested, card, parts, hint):
    with refused("precision-not-possible", *parts) as caught:
        choose_precision(requested, card)
    assert hint in caught.value.hint
