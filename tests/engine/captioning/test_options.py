"""The options of a captioner, and what it puts around a text."""

from __future__ import annotations

from typing import Any

import pytest

from engine.captioning.captioner import KINDS, kind_of
from engine.captioning.model_options import BlipOptions
from engine.captioning.options import read_options
from engine.config.form import facts_of
from engine.errors import UsageError


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
    ("values", "message"),
    [
        ({"batch_size": 0}, "Batch size: 0"),
        ({"max_length": 4}, "The shortest caption is longer than the longest"),
        ({"caption_extension": "png"}, "allowed is the extension of a text file"),
        ({"caption_extension": "../x"}, "letters and digits, like .txt"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"beams": 3}, "There is no option 'beams'. There are: existing,"),
    ],
)
def test_values_that_cannot_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        read_options(BlipOptions, values)


def test_captioners_by_name() -> None:
    assert kind_of("blip") is KINDS["blip"]
    with pytest.raises(UsageError, match="no captioner 'blob'"):
        kind_of("blob")
