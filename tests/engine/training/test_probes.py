"""The images and captions that a run is measured by."""

from __future__ import annotations

from pathlib import Path

from engine.dataset.buckets import Placement
from engine.dataset.captions import CaptionRules
from engine.dataset.images import ImageInfo
from engine.dataset.items import Item
from engine.training.probes import choose_probes


def item(name: str, text: str, *, is_reg: bool = False) -> Item:
    image = ImageInfo(Path(f"/p/{name}.png"), 64, 64, "PNG", caption=text)
    return Item(image, 0, Placement((64, 64), (64, 64), (0, 0)), is_reg, text)


def test_every_validation_image_and_four_spread_training_images() -> None:
    items = [item(f"{n:02}", f"zed, tag{n}") for n in range(10) for _ in range(3)]
    items += [item("reg", "dog", is_reg=True)] * 3
    validation = [item(f"v{n}", f"zed, new{n}") for n in range(5)]
    probes = choose_probes(CaptionRules(), validation, items)
    names = [probe.item.image.path.stem for probe in probes]
    assert names == ["v0", "v1", "v2", "v3", "v4", "00", "02", "05", "07"]
    assert [probe.number for probe in probes] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert [probe.is_validation for probe in probes] == [True] * 5 + [False] * 4
    assert (probes[0].caption, probes[0].other) == ("zed, new0", "zed, new1")
    assert probes[-1].captions == ["zed, tag7", "zed, new0"]


def test_captions_that_are_all_the_same_have_no_other() -> None:
    probes = choose_probes(CaptionRules(), [], [item("a", "zed"), item("b", "zed"), item("c", "zed")])
    assert [probe.other for probe in probes] == [None] * 3


def test_the_caption_is_the_one_without_chance() -> None:
    rules = CaptionRules(shuffle_caption=True, caption_dropout_rate=0.9, caption_prefix="art of")
    (probe,) = choose_probes(rules, [], [item("a", "zed, b, c, d, e")])
    assert probe.caption == "art of zed, b, c, d, e"
