"""Captions, left and right, regularization: findings that need no picture to be looked at closely."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.dataset.report import texts
from engine.dataset.report.checking import check
from engine.dataset.report.findings import Finding, Report
from engine.dataset.report.shelf import Shelf
from tests.drawn_pictures import save, scene
from tests.engine.dataset.report.conftest import Checked, codes, found

SIZE = (96, 96)


def drawn(folder: Path, captions: list[str | None], first: int = 0) -> Path:
    for number, words in enumerate(captions, first):
        save(folder, f"{number}.png", scene(number, SIZE), words)
    return folder


def finding(report: Report, code: str) -> Finding:
    return next(one for one in report.findings if one.kind.code == code)


def test_tokens_are_counted_with_the_real_tokenizer(tmp_path: Path, checked: Checked) -> None:
    """ "a fox" is two tokens; 38 times and the start apart are 76, one more than are used."""
    folder = drawn(tmp_path / "p", ["a fox " * 37 + "a", "a fox " * 38])
    assert [case.said for case in finding(checked(folder), "caption-long").cases] == ["76 tokens, 75 are used"]
    assert found(checked(folder), "caption-long") == {"1.png"}


def test_prefix_and_suffix_count_as_tokens(tmp_path: Path, checked: Checked) -> None:
    folder = drawn(tmp_path / "p", ["a fox " * 37 + "a", "a fox"])
    assert found(checked(folder, caption_suffix="b"), "caption-long") == {"0.png"}


def test_flux_without_its_tokenizer_says_that_nothing_was_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    values = {"dataset": {"train_data_dir": str(drawn(tmp_path / "p", ["a fox " * 400]))}, "model": {"family": "flux"}}
    report = check(RunConfig.model_validate(values), shelf=Shelf(tmp_path / "shelf"))[0]
    assert "tokens-unknown" in codes(report)
    assert "caption-long" not in codes(report)


def test_no_caption_at_all_is_a_note(tmp_path: Path, checked: Checked) -> None:
    report = checked(drawn(tmp_path / "p", [None, None]))
    assert "no-captions" in codes(report)
    assert "caption-missing" not in codes(report)


def test_tags_in_every_caption(tmp_path: Path, checked: Checked) -> None:
    captions = [f"f0x, 1girl, Red Hat, tag {number}" for number in range(5)]
    folder = drawn(tmp_path / "p", captions)
    assert finding(checked(folder, class_tokens="f0x"), "tag-everywhere").said == "In all 5 captions: 1girl, red hat."
    assert "--trigger" in finding(checked(folder), "tag-everywhere").said


def test_nearly_equal_captions_are_found_without_comparing_all() -> None:
    long = ["a", "red", "fox", "in", "deep", "snow", "behind", "an", "old", "barn", "with", "one", "lamp", "lit"]
    sets = [
        frozenset(long),
        frozenset([*long[:-1], "out"]),  # 12 of 14 words
        frozenset([*long, "tonight"]),  # 13 of 14 words
        frozenset(["short", "one"]),
        frozenset(["short", "one"]),
    ]
    assert [(one, other) for one, other, _ in texts.alike_sets(sets)] == [(0, 2)]
    assert texts.alike_sets(sets)[0][2] == pytest.approx(len(sets[0]) / len(sets[2]))


def test_what_captions_say_about_left_and_right(tmp_path: Path, checked: Checked) -> None:
    captions = ["a fox facing left", "fox, looking to the right", "fox, profile", "a fox", "left-facing fox"]
    said = finding(checked(drawn(tmp_path / "p", captions)), "facing").said
    by_captions = "By their captions 2 to the left, 1 to the right, 1 from a side that is not named."
    assert said == f"{by_captions} Of 1 picture it is not known."


def test_nothing_is_claimed_where_nothing_is_known(tmp_path: Path, checked: Checked) -> None:
    assert "not known" in finding(checked(drawn(tmp_path / "p", ["a fox"])), "facing").said


@pytest.mark.parametrize(("repeats", "expected"), [(1, True), (4, False), (7, True)])
def test_regularization_that_is_out_of_balance(tmp_path: Path, checked: Checked, repeats: int, expected: bool) -> None:
    """Four training items; regularization is in balance from two to six."""
    drawn(tmp_path / "train" / "4_f0x fox", ["f0x, a"])
    drawn(tmp_path / "reg" / f"{repeats}_fox", ["a f0x"], first=50)
    report = checked(tmp_path / "train", reg_data_dir=str(tmp_path / "reg"), class_tokens="f0x")
    assert ("reg-balance" in codes(report)) == expected
    assert found(report, "reg-trigger") == {"50.png"}


def test_a_picture_in_two_roles(tmp_path: Path, checked: Checked) -> None:
    drawn(tmp_path / "train", ["a", "b"])
    drawn(tmp_path / "held", ["a"])
    report = checked(tmp_path / "train", validation_data_dir=str(tmp_path / "held"))
    assert finding(report, "in-two-roles").cases[0].said == "trained on and held out"
