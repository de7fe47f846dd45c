"""The options of a captioner, and what it puts around a text."""

from __future__ import annotations

from typing import Any

import pytest

from engine.captioning.captioner import KINDS, kind_of
from engine.captioning.model_options import BlipOptions
from engine.captioning.options import read_options
from engine.config.form import facts_of
from tests.refusals import refused


def test_the_defaults_are_those_of_kohyas_gui() -> None:
    options = BlipOptions()
    assert options.model == "Salesforce/blip-image-captioning-large"
    assert (options.caption_extension, options.batch_size, options.beam_search, options.num_beams) == (
        ".txt",
        1,
        True,
        1,
    )
    assert (options.top_p, options.max_length, options.min_length, options.seed) == (0.9, 75, 5, 42)
    assert (options.prefix, options.postfix, options.existing, options.allow_download) == ("", "", "keep", False)


@pytest.mark.parametrize(
    ("around", "text", "caption"),
    [
        ({}, "a  red\nrobot ", "a red robot"),
        ({"prefix": "photo of", "postfix": "at noon"}, "a robot", "photo of a robot at noon"),
        ({"trigger_word": "smithy"}, "a robot on grass", "smithy, a robot on grass"),
        ({"trigger_word": "smithy"}, "Smithy on grass", "Smithy on grass"),
        ({"trigger_word": "smithy", "prefix": "smithy, photo"}, "a robot", "smithy, photo a robot"),
        ({"trigger_word": "robot"}, "robots on grass, robot, a robot", "robot, robots on grass, a robot"),
    ],
)
def test_what_is_put_around_a_text(around: dict[str, Any], text: str, caption: str) -> None:
    assert BlipOptions(**around).compose(text) == caption


def test_a_form_can_be_generated_from_them() -> None:
    facts = {fact.key: fact for fact in facts_of(BlipOptions)}
    assert list(facts) == list(BlipOptions.model_fields)
    assert facts["existing"].choices == ("keep", "append", "prepend", "replace")
    assert facts["max_length"].unit == "tokens" and facts["max_length"].limits == "from 1 to 512"


@pytest.mark.parametrize(
    ("values", "code", "part"),
    [
        ({"batch_size": 0}, "not-possible", "Batch size: 0"),
        ({"max_length": 4}, "not-possible", "shortest caption"),
        ({"caption_extension": "png"}, "not-possible", "'png'"),
        ({"caption_extension": "../x"}, "not-possible", "'../x'"),
        ({"device": "tpu"}, "not-possible", "auto, cpu, cuda"),
        ({"beams": 3}, "unknown", "'beams'"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], code: str, part: str) -> None:
    with refused(f"caption-option-{code}", part):
        read_options(BlipOptions, values)


def test_captioners_by_name() -> None:
    assert kind_of("blip") is KINDS["blip"]
    with refused("captioner-unknown", "'blob'"):
        kind_of("blob")
