from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.dataset.text_cache import TextCache
from tests.packed import as_files, flip_a_bit, only_pack, records
from tests.refusals import refused

CAPTIONS = ["a fox", "", "лиса", "a fox", "a dog"]


class Encoder:
    """Outputs that depend on the caption alone; records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def __call__(self, captions: list[str]) -> dict[str, torch.Tensor]:
        self.batches.append(captions)
        rows = [[float(len(caption)), float(sum(map(ord, caption)))] for caption in captions]
        return {"hidden": torch.tensor(rows)[:, None].expand(-1, 4, -1), "pooled": torch.tensor(rows).half()}


@pytest.mark.parametrize("on_disk", [True, False])
def test_each_caption_is_encoded_once(tmp_path: Path, on_disk: bool) -> None:
    encoder, calls = Encoder(), []
    cache = TextCache(tmp_path / "cache" if on_disk else None, "clip")
    report = cache.build(CAPTIONS, encoder, 3, lambda done, total: calls.append((done, total)))
    assert (report.encoded, report.reused, report.stopped) == (4, 0, False)
    assert encoder.batches == [["a fox", "", "лиса"], ["a dog"]] and calls == [(3, 4), (4, 4)]
    outputs = cache.get(["a dog", "a fox", "a dog"])
    expected = Encoder()(["a dog", "a fox", "a dog"])
    assert outputs.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(outputs[name], tensor) and outputs[name].dtype == tensor.dtype
    report = cache.build([*CAPTIONS, "new"], encoder, 3)
    assert (report.encoded, report.reused) == (1, 4) and encoder.batches[-1] == ["a dog", "new"]


def test_another_encoder_is_another_cache(tmp_path: Path) -> None:
    TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    assert TextCache(tmp_path, "clip").build(CAPTIONS, Encoder()).reused == 4
    assert TextCache(tmp_path, "clip skip 2").build(CAPTIONS, Encoder()).encoded == 4


def test_stopping_and_going_on(tmp_path: Path) -> None:
    encoder = Encoder()
    report = TextCache(tmp_path, "clip").build(CAPTIONS, encoder, should_stop=lambda: len(encoder.batches) == 2)
    assert report.stopped and report.encoded == 2
    report = TextCache(tmp_path, "clip").build(CAPTIONS, encoder)
    assert (report.encoded, report.reused) == (2, 2)


def test_a_damaged_record_is_replaced_and_reported(tmp_path: Path) -> None:
    TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    victim = only_pack(tmp_path)
    flip_a_bit(victim, records(victim)[2].offset + 3)
    report = TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    assert (report.encoded, report.reused) == (1, 3) and victim.name in report.notes[0]


@pytest.mark.parametrize("keyed", [True, False])
def test_files_of_earlier_versions_are_used(tmp_path: Path, keyed: bool) -> None:
    """The digest of the first ones leaves the key out."""
    TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    as_files(tmp_path, keyed=keyed)
    assert TextCache(tmp_path, "clip").build(CAPTIONS, Encoder()).reused == 4
    assert not list(tmp_path.glob("*.pack"))


def test_a_file_of_another_caption_is_not_used(tmp_path: Path) -> None:
    """Two files of an earlier version that were exchanged, and one that was copied over another."""
    TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    as_files(tmp_path)
    first, second, third, *_ = sorted(tmp_path.iterdir())
    first_bytes, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(first_bytes)
    third.write_bytes(first_bytes)
    with refused("cached-text-missing"):
        TextCache(tmp_path, "clip").get(CAPTIONS)
    report = TextCache(tmp_path, "clip").build(CAPTIONS, Encoder())
    assert (report.encoded, report.reused, len(report.notes)) == (3, 1, 3)
    assert all("renamed" in note for note in report.notes)


def test_outputs_that_are_not_finite_name_the_caption(tmp_path: Path) -> None:
    def broken(captions: list[str]) -> dict[str, torch.Tensor]:
        return {"hidden": torch.tensor([[float("nan") if caption == "лиса" else 0.0] for caption in captions])}

    with refused("text-output-not-finite"):
        TextCache(tmp_path, "clip").build(CAPTIONS, broken, 4)


def test_a_caption_that_was_never_built(tmp_path: Path) -> None:
    cache = TextCache(tmp_path, "clip")
    cache.build(["a"], Encoder())
    with refused("cached-text-missing", '"b"'):
        cache.get(["a", "b"])
