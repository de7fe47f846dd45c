"""What the captions alone show before a start: counted from a scan, without decoding an image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from engine.config import RunConfig
from engine.dataset.caption_check import CaptionCheck, check_captions
from engine.dataset.scan import scan
from engine.dataset.trigger import kept_trigger

LONG = "fox, " + "red " * 90


def checked(folder: Path, captions: dict[str, str | None], name: str = "fox", **dataset: Any) -> CaptionCheck:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, caption in captions.items():
        Image.new("RGB", (64, 64), "red").save(folder / f"{stem}.png")
        if caption is not None:
            (folder / f"{stem}.txt").write_text(caption)
    config = configured(folder, name, **dataset)
    return check_captions(config, scan(config), None)


def configured(folder: Path, name: str, **dataset: Any) -> RunConfig:
    return RunConfig().changed(dataset={"train_data_dir": str(folder), **dataset}, saving={"output_name": name})


def many(caption: str | None, count: int = 12) -> dict[str, str | None]:
    return {f"{number:02}": caption for number in range(count)}


@pytest.mark.parametrize(
    ("captions", "dataset", "sentences"),
    [
        (many("a fox, red"), {}, []),
        (many("a FOX."), {}, []),
        (many("foxes"), {}, ["12 of 12 captions do not have the trigger word “fox”"]),
        ({**many("fox"), "x": "cat"}, {}, ["1 of 13 captions does not have the trigger word “fox”"]),
        (many("cat"), {"class_tokens": "cat"}, []),
        (many("fox"), {"class_tokens": "my cat"}, ["do not have the trigger word “my cat”"]),
        (many("red"), {"caption_prefix": "fox,"}, []),
        (many("red"), {"caption_suffix": ", a fox"}, []),
        ({**many("fox"), "x": LONG}, {}, ["1 of 13 captions is longer than 75 tokens (up to 92): the end is cut off."]),
        (many(LONG), {}, ["12 of 12 captions are longer than 75 tokens (up to 92)"]),
        ({**many("fox"), "x": None}, {}, ["1 image without a caption: “fox” is used instead."]),
        ({**many("fox"), "x": " \n"}, {}, ["1 image with an empty caption: “fox” is used instead."]),
        (
            {**many("fox"), "x": "", "y": None, "z": None},
            {"class_tokens": "fox"},
            ["2 images without a caption, 1 image with an empty caption: “fox” is used instead."],
        ),
        (many(None), {}, ["12 images without a caption"]),
        (many("fox", 6), {}, ["Only 6 images to train on; 10 or more are advised."]),
        (many("fox", 1), {}, ["Only 1 image to train on"]),
        (
            {"a": "cat", "b": LONG, "c": ""},
            {},
            ["1 of 2 captions does not have", "longer than 75 tokens", "empty caption", "Only 3 images"],
        ),
    ],
)
def test_what_is_wrong_is_counted(
    tmp_path: Path, captions: dict[str, str | None], dataset: dict[str, Any], sentences: list[str]
) -> None:
    messages = [sentence for sentence, _step in checked(tmp_path / "photos", captions, **dataset).warnings()]
    assert len(messages) == len(sentences), messages
    assert all(part in sentence for part, sentence in zip(sentences, messages, strict=True)), messages


def test_each_is_fixed_in_a_step(tmp_path: Path) -> None:
    steps = [step for _sentence, step in checked(tmp_path / "photos", {"a": "cat", "b": LONG, "c": None}).warnings()]
    assert steps == ["captions", "captions", "captions", "folders"]


def test_no_trigger_is_expected_where_none_is_meant(tmp_path: Path) -> None:
    """A style, whose prompts do not call it by a word."""
    folder = tmp_path / "photos"
    checked(folder, many("a house"))
    config = configured(folder, "style").changed(sampling={"sample_prompts": ["a house on a hill"]})
    assert list(check_captions(config, scan(config), None).warnings()) == []


def test_a_name_that_no_caption_has_is_no_trigger(tmp_path: Path) -> None:
    """As in a file of Kohya's scripts, which names the output only."""
    checked(tmp_path / "photos", many("a cat"))
    config = configured(tmp_path / "photos", "fox").changed(sampling={"sample_prompts": []})
    ((warning, step),) = check_captions(config, scan(config), None).warnings()
    assert "No caption has the trigger word “fox”, which is the run's name" in warning and step == "folders"


@pytest.mark.parametrize(
    ("captions", "dataset", "line"),
    [
        (many("fox"), {}, "Trigger word: fox (the run's name), in 12 of 12 captions"),
        (many("cat"), {"class_tokens": "cat"}, "Trigger word: cat, in 12 of 12 captions"),
        (many("cat", 1), {}, "Trigger word: fox (the run's name), in 0 of 1 caption"),
        (many(None), {}, "Trigger word: fox (the run's name)"),
    ],
)
def test_the_trigger_word_is_named(
    tmp_path: Path, captions: dict[str, str | None], dataset: dict[str, Any], line: str
) -> None:
    assert checked(tmp_path / "photos", captions, **dataset).trigger_line() == line


def test_it_is_cheap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No image is decoded, and ten thousand different captions take seconds at most."""
    folder = tmp_path / "photos"
    checked(folder, many("fox, red sky"))
    config = configured(folder, "fox")
    dataset = scan(config)
    subset = dataset.subsets[0]
    image = subset.images[0]
    from dataclasses import replace

    images = tuple(replace(image, caption=f"fox, red sky, number {number}") for number in range(10_000))
    wide = replace(dataset, subsets=(replace(subset, images=images),))

    def decoded(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    begun = time.process_time()
    assert check_captions(config, wide, None).without_trigger == 0
    assert time.process_time() - begun < 10


@pytest.mark.parametrize(
    ("folders", "dataset", "kept"),
    [
        ((), {}, {"dataset.class_tokens": "ann"}),
        (("67_ann",), {}, {"dataset.class_tokens": "ann"}),
        ((), {"class_tokens": "ohwx"}, {}),
        (("10_dog",), {"class_tokens": "ohwx"}, {}),
        (("10_dog",), {}, {"sampling.sample_prompts": ["photo of ann"]}),
        (("10_ann", "3_ann at work"), {}, {"sampling.sample_prompts": ["photo of ann"]}),
    ],
)
def test_a_copy_keeps_trigger_prompts_and_stand_ins(
    tmp_path: Path, folders: tuple[str, ...], dataset: dict[str, Any], kept: dict[str, Any]
) -> None:
    """Whatever the copy is called, its prompts and the captions that it trains on are the run's."""
    for folder in folders or (".",):
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), "red").save(tmp_path / folder / "a.png")
    config = configured(tmp_path, "ann", **dataset).changed(sampling={"sample_prompts": ["photo of {trigger}"]})
    assert kept_trigger(config) == kept
    copy = config.changed(saving={"output_name": "ann 2"})
    for dotted, value in kept.items():
        table, _, key = dotted.partition(".")
        copy = copy.changed(**{table: {key: value}})

    def prompts(config: RunConfig) -> list[str]:
        return [prompt.replace("{trigger}", config.trigger) for prompt in config.sampling.sample_prompts]

    def fallbacks(config: RunConfig) -> list[str]:
        return [subset.class_tokens for subset in scan(config).subsets]

    assert prompts(copy) == prompts(config)
    assert fallbacks(copy) == fallbacks(config)


def test_without_a_name_or_images_there_is_little_to_keep(tmp_path: Path) -> None:
    assert kept_trigger(RunConfig()) == {}
    assert kept_trigger(configured(tmp_path / "gone", "ann")) == {"dataset.class_tokens": "ann"}
