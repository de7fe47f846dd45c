"""The captioners by transformers' own classes with tiny random weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.captioning.blip2 import Blip2
from engine.captioning.captioner import Captioner, Subject, kind_of
from engine.captioning.florence2 import Florence2
from engine.captioning.image_text import ImageText
from engine.captioning.model_options import Blip2Options, Florence2Options, ImageTextOptions
from tests.refusals import refused
from tests.tiny_captioners import WORDS, tiny_blip2, tiny_florence2, tiny_llava

IMAGES = [
    Subject(Path("a.png"), Image.new("RGB", (50, 30), "red")),
    Subject(Path("b.png"), Image.effect_noise((30, 50), 90).convert("RGB")),
]
Make = Callable[[Path], Path]
_cache: dict[Make, Path] = {}


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Make], Path]:
    """model(tiny_blip2): its folder, made once."""

    def get(make: Make) -> Path:
        if make not in _cache:
            _cache[make] = make(tmp_path_factory.mktemp("model") / "tiny")
        return _cache[make]

    return get


Model = Callable[[Make], Path]


def loaded(name: str, folder: Path, **values: Any) -> Captioner:
    kind = kind_of(name)
    captioner = kind.create()
    captioner.load(kind.options.model_validate({"model": str(folder), "device": "cpu", **values}), print)
    return captioner


def words_of(answer: object) -> list[str]:
    assert isinstance(answer, str)
    words = answer.split()
    assert set(words) <= set(WORDS), "only the model's own words: no question, no image tokens, no special ones"
    return words


def test_blip2_keeps_to_its_lengths(model: Model) -> None:
    blip2 = loaded("blip2", model(tiny_blip2), num_beams=3, min_new_tokens=6, max_new_tokens=9)
    assert isinstance(blip2, Blip2)
    answers = blip2.describe(IMAGES)
    assert all(1 <= len(words_of(answer)) <= 9 for answer in answers)
    assert answers == [blip2.describe([image])[0] for image in IMAGES], "in a batch as alone"
    assert answers == blip2.describe(IMAGES)


def test_blip2_samples_by_the_seed_and_continues_a_prompt(model: Model) -> None:
    def generate(seed: int) -> list[Any]:
        values = {"beam_search": False, "min_new_tokens": 8, "max_new_tokens": 12, "prompt": "an image of"}
        return loaded("blip2", model(tiny_blip2), seed=seed, **values).describe(IMAGES)

    first = generate(1)
    assert first == generate(1) != generate(2)
    assert all(len(words_of(answer)) <= 12 for answer in first)


def test_kohyas_values_for_blip2() -> None:
    options = Blip2Options()
    assert (options.model, options.num_beams, options.min_new_tokens, options.max_new_tokens) == (
        "Salesforce/blip2-opt-2.7b", 16, 20, 40,
    )  # fmt: skip
    assert (options.length_penalty, options.repetition_penalty, options.top_p) == (1.0, 1.5, 0.9)


def test_florence2_gets_the_prompt_of_its_task(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    florence = loaded("florence2", model(tiny_florence2), num_beams=2, max_new_tokens=8)
    assert isinstance(florence, Florence2)
    requests: list[dict[str, Any]] = []
    real = florence.model.generate

    def generate(**inputs: Any) -> torch.Tensor:
        requests.append(inputs)
        answer: torch.Tensor = real(**inputs)
        return answer

    monkeypatch.setattr(florence.model, "generate", generate)
    answers = florence.describe(IMAGES)
    tokenizer = florence.processor.tokenizer
    question = florence.processor.task_prompts_without_inputs["<MORE_DETAILED_CAPTION>"]
    assert question == "Describe with a paragraph what is shown in the image."
    (inputs,) = requests
    own = tokenizer(question, add_special_tokens=False)["input_ids"]
    ids = inputs["input_ids"].tolist()
    assert len(ids) == 2 and all(row[-len(own) - 1 :] == [*own, tokenizer.eos_token_id] for row in ids)
    assert inputs["pixel_values"].shape == (2, 3, 64, 64) and inputs["num_beams"] == 2
    assert all(len(words_of(answer)) <= 8 for answer in answers)


def test_any_model_gets_its_chat_template(model: Model) -> None:
    llava = loaded("transformers", model(tiny_llava), prompt="the robot on grass", max_new_tokens=6)
    assert isinstance(llava, ImageText)
    inputs = llava._prompt_inputs(IMAGES)
    text = llava.tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("USER: <image>") and text.endswith("the robot on grass ASSISTANT:")
    assert all(1 <= len(words_of(answer)) <= 6 for answer in llava.describe(IMAGES))


def test_other_classes_are_found_by_their_configuration(model: Model) -> None:
    for make, prompt in ((tiny_florence2, "<CAPTION>"), (tiny_blip2, "")):
        captioner = loaded("transformers", model(make), prompt=prompt, max_new_tokens=5)
        answers = captioner.describe(IMAGES)
        assert len(answers) == len(IMAGES) and all(len(words_of(answer)) <= 5 for answer in answers)


def test_an_unusable_prompt_is_an_error_message(model: Model) -> None:
    llava = loaded("transformers", model(tiny_llava), prompt="a robot")
    assert isinstance(llava, ImageText)
    llava.processor.chat_template = None  # without it the position of the image is unknown
    with refused("prompt-refused"):
        llava.describe(IMAGES)


def test_code_of_a_model_is_never_run(model: Model, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model(tiny_llava), tmp_path / "copy"))
    ran = tmp_path / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    (folder / "config.json").write_text(
        '{"model_type": "new", "auto_map": {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}}'
    )
    with refused("captioner-needs-remote-code"):
        loaded("transformers", folder)
    assert not ran.exists()


def test_each_wants_its_own_kind_of_model(model: Model) -> None:
    with refused("captioner-of-other-kind"):
        loaded("florence2", model(tiny_blip2))


def test_defaults_are_for_the_published_models() -> None:
    assert Florence2Options().task == "<MORE_DETAILED_CAPTION>"
    assert ImageTextOptions(model="owner/name").num_beams == 1
