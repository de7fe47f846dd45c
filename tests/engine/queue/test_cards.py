"""Which run gets which card."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.hardware import Gpu
from engine.queue.cards import Cards, Place
from engine.queue.entry import Entry

TWO = [Gpu(0, "a", uuid="GPU-a"), Gpu(1, "b", uuid="GPU-b")]


def entry(device: str = "auto", processes: int = 1, *cards: str) -> Entry:
    return Entry("0001", "a", "/a", 1.0, device=device, processes=processes, cards=cards)


def on(*cards: str) -> Place:
    return Place(cards, (("CUDA_VISIBLE_DEVICES", ",".join(cards)),))


@pytest.mark.parametrize(
    ("visible", "most", "new", "running", "place"),
    [
        ([], None, entry(), [], Place()),
        ([], None, entry(), [entry()], None),
        ([], None, entry("cpu", 2), [], Place()),
        ([], 2, entry(), [entry()], Place()),
        ([], 2, entry(), [entry(), entry()], None),
        (TWO, None, entry(), [], on("GPU-a")),
        (TWO, None, entry(), [entry("auto", 1, "GPU-a")], on("GPU-b")),
        (TWO, None, entry(), [entry("auto", 1, "GPU-b")], on("GPU-a")),
        (TWO, None, entry(), [entry("auto", 2, "GPU-a", "GPU-b")], None),
        (TWO, 1, entry(), [entry("auto", 1, "GPU-a")], None),
        (TWO, None, entry("auto", 2), [], on("GPU-a", "GPU-b")),
        (TWO, None, entry("auto", 2), [entry("auto", 1, "GPU-a")], None),
        (TWO, None, entry("cuda"), [entry("auto", 1, "GPU-a")], on("GPU-b")),
        (TWO, None, entry("cuda:1"), [], Place(("GPU-b",))),
        (TWO, None, entry("cuda:1"), [entry("auto", 1, "GPU-b")], None),
        (TWO, None, entry("cpu"), [entry("auto", 1, "GPU-a")], Place()),
        (TWO, None, entry("cpu"), [entry("cpu")], None),
        ([Gpu(3, "c")], None, entry(), [], on("3")),
    ],
)
def test_room(visible: list[Gpu], most: int | None, new: Entry, running: list[Entry], place: Place | None) -> None:
    cards = Cards(visible, most)
    assert cards.room(new, [replace(other, id=f"{n:04d}") for n, other in enumerate(running, 2)]) == place
    assert not cards.refusal(new)


@pytest.mark.parametrize(
    ("most", "new", "reason"),
    [(None, entry("auto", 3), "3 cards"), (1, entry("auto", 2), "2 cards"), (None, entry("cuda:2"), "cuda:2")],
)
def test_what_never_fits(most: int | None, new: Entry, reason: str) -> None:
    assert reason in Cards(TWO, most).refusal(new)
