"""Captions, left and right, regularization: findings that need no image to be looked at closely."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from engine.config import RunConfig
from engine.dataset.report import texts
from engine.dataset.report.checking import check
from engine.dataset.report.findings import Finding, Report
from engine.dataset.report.measure_cache import MeasureCache
from engine.dataset.scan import scan
from tests.drawn_images import save, scene
from tests.engine.dataset.report.conftest import Checked, codes, image_names

SIZE = (96, 96)


def captioned_set(folder: Path, captions: list[str | None], first: int = 0) -> Path:
    for number, words in enumerate(captions, first):
        save(folder, f"{number}.png", scene(number, SIZE), words)
    return folder


def finding(report: Report, code: str) -> Finding:
    return next(entry for entry in report.findings if entry.kind.code == code)


def test_tokens_are_counted_with_the_real_tokenizer(tmp_path: Path, checked: Checked) -> None:
    """ "a fox" is two tokens; 38 times, without the start token, are 76, one more than are used."""
    folder = captioned_set(tmp_path / "p", ["a fox " * 37 + "a", "a fox " * 38])
    assert [case.text for case in finding(checked(folder), "caption-long").cases] == ["76 tokens, 75 are used"]
    assert image_names(checked(folder), "caption-long") == {"1.png"}


def test_prefix_and_suffix_count_as_tokens(tmp_path: Path, checked: Checked) -> None:
    folder = captioned_set(tmp_path / "p", ["a fox " * 37 + "a", "a fox"])
    assert image_names(checked(folder, caption_suffix="b"), "caption-long") == {"0.png"}


def test_flux_without_its_tokenizer_reports_that_tokens_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    values = {
        "dataset": {"train_data_dir": str(captioned_set(tmp_path / "p", ["a fox " * 400]))},
        "model": {"family": "flux"},
    }
    report = check(RunConfig.model_validate(values), cache=MeasureCache(tmp_path / "cache"))[0]
    assert "tokens-unknown" in codes(report)
    assert "caption-long" not in codes(report)


def test_no_caption_at_all_is_a_note(tmp_path: Path, checked: Checked) -> None:
    report = checked(captioned_set(tmp_path / "p", [None, None]))
    assert "no-captions" in codes(report)
    assert "caption-missing" not in codes(report)


def test_tags_in_every_caption(tmp_path: Path, checked: Checked) -> None:
    captions = [f"f0x, 1girl, Red Hat, tag {number}" for number in range(5)]
    folder = captioned_set(tmp_path / "p", captions)
    assert finding(checked(folder, class_tokens="f0x"), "tag-everywhere").text == "In all 5 captions: 1girl, red hat."
    assert "--trigger" in finding(checked(folder), "tag-everywhere").text


def test_nearly_equal_captions_are_found_without_comparing_all() -> None:
    long = ["a", "red", "fox", "in", "deep", "snow", "behind", "an", "old", "barn", "with", "one", "lamp", "lit"]
    sets = [
        frozenset(long),
        frozenset([*long[:-1], "out"]),  # 12 of 14 words
        frozenset([*long, "tonight"]),  # 13 of 14 words
        frozenset(["short", "one"]),
        frozenset(["short", "one"]),
    ]
    assert [(first, second) for first, second, _ in texts.similar_sets(sets)] == [(0, 2)]
    assert texts.similar_sets(sets)[0][2] == pytest.approx(len(sets[0]) / len(sets[2]))


def test_captions_of_few_words_are_compared_with_a_limited_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten words and a number of a dozen: every caption shares its rarest words with a twelfth of the others."""
    compared, share = 0, texts._share

    def counted(first: frozenset[str], second: frozenset[str]) -> float:
        nonlocal compared
        compared += 1
        return share(first, second)

    monkeypatch.setattr(texts, "_share", counted)
    words = [f"word{number}" for number in range(9)]
    sets = [frozenset([*words, f"n{number % 12}", f"m{number % 11}"]) for number in range(2000)]
    assert len(texts.similar_sets(sets)) > 1800
    assert compared <= 2 * texts.MOST_WITH_WORD * len(sets)


def test_left_and_right_in_captions(tmp_path: Path, checked: Checked) -> None:
    captions = ["a fox facing left", "fox, looking to the right", "fox, profile", "a fox", "left-facing fox"]
    text = finding(checked(captioned_set(tmp_path / "p", captions)), "facing").text
    by_captions = "According to captions: 2 to the left, 1 to the right, 1 from an unnamed side."
    assert text == f"{by_captions} Unknown for 1 image."


def test_an_unknown_direction_is_reported_as_unknown(tmp_path: Path, checked: Checked) -> None:
    assert "Unknown" in finding(checked(captioned_set(tmp_path / "p", ["a fox"])), "facing").text


@pytest.mark.parametrize(("repeats", "expected"), [(1, True), (4, False), (7, True)])
def test_regularization_that_is_out_of_balance(tmp_path: Path, checked: Checked, repeats: int, expected: bool) -> None:
    """Four training items; regularization is in balance from two to six."""
    captioned_set(tmp_path / "train" / "4_f0x fox", ["f0x, a"])
    captioned_set(tmp_path / "reg" / f"{repeats}_fox", ["a f0x"], first=50)
    report = checked(tmp_path / "train", reg_data_dir=str(tmp_path / "reg"), class_tokens="f0x")
    assert ("reg-balance" in codes(report)) == expected
    assert image_names(report, "reg-trigger") == {"50.png"}


def test_a_image_in_two_roles(tmp_path: Path, checked: Checked) -> None:
    captioned_set(tmp_path / "train", ["a", "b"])
    captioned_set(tmp_path / "held", ["a"])
    report = checked(tmp_path / "train", validation_data_dir=str(tmp_path / "held"))
    assert finding(report, "in-two-roles").cases[0].text == "training and validation"


def test_captions_of_several_lines(tmp_path: Path, checked: Checked) -> None:
    for number, text in enumerate(("one line\n\n", "one\ntwo", "one\r\n\r\ntwo", "one\rtwo")):
        save(tmp_path / "p", f"{number}.png", scene(number, (128, 128)), text)
    assert image_names(checked(tmp_path / "p"), "caption-lines") == {"1.png", "2.png", "3.png"}
    assert "caption-lines" not in codes(checked(tmp_path / "p", enable_wildcard=True))


def test_captions_without_an_image(tmp_path: Path, checked: Checked) -> None:
    folder = tmp_path / "p"
    for name in ("foo.png", "smithy_1.png", "both.png", "Große.png", "face_1_2_3_4.png"):
        save(folder, name, scene(len(name), (128, 128)), None)
    for name in (
        "foo.png.txt", "smithy_2.txt", "both.txt", "both.caption", "Große.TXT", "face.txt", "SMITHY_1.caption",
        "README.txt", "notes.md", "x.npz",
    ):  # fmt: skip
        (folder / name).write_text("a caption")
    report = checked(folder)
    assert image_names(report, "caption-orphan") == {"foo.png.txt", "smithy_2.txt", "SMITHY_1.caption"}
    (finding,) = (entry for entry in report.findings if entry.kind.code == "caption-orphan")
    assert {case.images[0].name: case.text for case in finding.cases} == {
        "foo.png.txt": "for foo.png?", "smithy_2.txt": "", "SMITHY_1.caption": "for smithy_1.png?",
    }  # fmt: skip
    assert image_names(report, "caption-missing") == {"foo.png", "smithy_1.png"}


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
def test_a_name_that_went_through_macos_is_the_same(tmp_path: Path, checked: Checked, forms: tuple[str, str]) -> None:
    image, caption = (unicodedata.normalize(form, "Zoë naïve Ü") for form in forms)
    save(tmp_path / "p", f"{image}.png", scene(1, (128, 128)), None)
    (tmp_path / "p" / f"{caption}.txt").write_text("f0x")
    save(tmp_path / "p", "other.png", scene(2, (128, 128)), "f0x, another")
    report = checked(tmp_path / "p")
    assert not codes(report) & {"caption-missing", "caption-orphan"}
    exact = scan(RunConfig().changed(dataset={"train_data_dir": str(tmp_path / "p")}, training={"kohya_exact": True}))
    assert len(exact.missing_captions) == (forms[0] != forms[1]), "the scripts compare bytes"


def test_masks_that_leave_nothing(tmp_path: Path, checked: Checked) -> None:
    folder, masks = tmp_path / "p", tmp_path / "masks"
    for number in range(5):
        save(folder, f"{number}.png", scene(number, (128, 128)), f"number {number}")
    save(masks, "0.png", Image.new("RGB", (128, 128)), None)
    save(masks, "1.png", Image.new("RGB", (128, 128), (0, 255, 255)), None)
    save(masks, "2.png", Image.new("L", (64, 64), 1), None)
    (masks / "3.png").write_bytes(b"broken")
    report = checked(folder, masked_loss=True, conditioning_data_dir=str(masks))
    assert image_names(report, "mask-empty") == {"0.png", "1.png"}
    assert image_names(report, "mask-unreadable") == {"3.png"} and report.failed
    assert not codes(checked(folder)) & {"mask-empty", "mask-unreadable"}


def test_an_image_that_is_wholly_transparent(tmp_path: Path, checked: Checked) -> None:
    for number, alpha in enumerate((0, 1, 255)):
        image = scene(number, (128, 128))
        image.putalpha(alpha)
        save(tmp_path / "p", f"{number}.png", image, f"number {number}")
    assert image_names(checked(tmp_path / "p", alpha_mask=True), "mask-empty") == {"0.png"}
    assert "mask-empty" not in codes(checked(tmp_path / "p"))
