"""Files of other trainers with any value at any key: each is converted, or refused with sentences of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import strategies as st

from engine.config import RunConfig, load_config
from engine.config.foreign import conversion_of
from engine.config.kohya.dataset_file import frozen_text, read_dataset_config
from engine.config.load import conversion_notes
from engine.config.others import ai_toolkit_keys, lora_easy, lora_scripts, onetrainer_keys
from engine.config.yaml_text import YamlError, read_yaml
from engine.errors import LoraSmithError
from tests.engine.config.other_trainers import AI_TOOLKIT, LORA_EASY, LORA_SCRIPTS, ONETRAINER, changed
from tests.fuzz.search import NO_HURRY, VALUES, examples, search

TABS = [f"{tab}.{part}" for tab in lora_easy.TABS for part in ("args", "dataset_args")]
DATASET = [f"datasets.0.{key}" for key in ai_toolkit_keys.DATASET_KEYS]
SAMPLE = [f"sample.prompts.0{key}" for key in ("", ".prompt", ".width", ".seed", ".neg")]
CONCEPT = [f"concepts.0.{key}" for key in onetrainer_keys.CONCEPT]
LEVELS = ["job", "config", "config.name", "config.process", "config.process.0"]
KEYS: dict[str, list[str]] = {
    "yaml": [*LEVELS, *(f"config.process.0.{key}" for key in [*ai_toolkit_keys.KEYS, *DATASET, *SAMPLE])],
    "json": [*onetrainer_keys.KEYS, *CONCEPT, "samples.0", "samples.0.prompt", "samples.0.seed", "concepts.0"],
    "toml": [*lora_scripts.OWN_KEYS, *lora_scripts.ARGUMENTS],
    "easy.toml": [
        *lora_easy.TABS, *TABS, "subsets", "subsets.0", "train_mode", *(f"subsets.0.{key}" for key in lora_easy.SUBSET),
        *(f"network_args.args.{key}" for key in [*lora_easy.OWN_KEYS, *lora_scripts.ARGUMENTS]),
        *(f"general_args.dataset_args.{key}" for key in lora_easy.GENERAL),
    ],
}  # fmt: skip
EXAMPLES: dict[str, dict[str, Any]] = {
    "yaml": changed(AI_TOOLKIT, {"config.process.0.sample.prompts": [{"prompt": "x"}]}),
    "json": {**ONETRAINER, "samples": [{"prompt": "x"}]},
    "toml": LORA_SCRIPTS,
    "easy.toml": LORA_EASY,
}


ODD: list[Any] = [None, "", "x\x1b[2J", -1, 1e300, True, [], [{}], {"a": 1}, [[1]]]
FEW: list[Any] = ["x\x1b[2J", [{}]]


def put(example: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The example with these values, each where the ones before it leave a place for it."""
    content = dict(example)
    for key, value in values.items():
        with suppress(TypeError, IndexError, KeyError, ValueError, AttributeError):
            content = changed(content, {key: value})
    return content


def text_of(form: str, content: Any) -> str:
    if not form.endswith("toml"):
        return json.dumps(content)
    try:
        return tomlkit.dumps(content)
    except Exception:  # a value that TOML has no form for
        return ""


@pytest.mark.parametrize("form", KEYS)
@examples(quick=40, long=1500)
def test_any_value_at_any_key(tmp_path: Path, examples: int, form: str) -> None:
    path = tmp_path / f"x.{form}"
    values = st.dictionaries(st.sampled_from(KEYS[form]), VALUES, min_size=1, max_size=3)

    def check(changes: dict[str, Any]) -> None:
        text = text_of(form, put(EXAMPLES[form], changes))
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read_everything(path, text)

    search(values, check, examples)


@pytest.mark.parametrize("form", KEYS)
@pytest.mark.parametrize("odd", [FEW, pytest.param(ODD, marks=[pytest.mark.soak, NO_HURRY])], ids=len)
def test_a_wrong_value_at_each_key(tmp_path: Path, form: str, odd: list[Any]) -> None:
    path = tmp_path / f"x.{form}"
    for value in odd:
        for key in KEYS[form]:
            text = text_of(form, put(EXAMPLES[form], {key: value}))
            try:
                conversion = conversion_of(path, text)
            except LoraSmithError as error:
                assert_is_ours(error)
            else:
                for problem in conversion.problems if conversion is not None else ():
                    assert problem.message and "\n" not in f"{problem.message}{problem.hint}", (key, value)


def read_everything(path: Path, text: str) -> None:
    for read in (
        lambda: conversion_of(path, text), lambda: load_config(path).model_dump_json(), lambda: conversion_notes(path),
        lambda: read_dataset_config(path, RunConfig()), lambda: frozen_text(path),
    ):  # fmt: skip
        try:
            read()
        except LoraSmithError as error:
            assert_is_ours(error)


def assert_is_ours(error: LoraSmithError) -> None:
    assert error.code and str(error).strip()


YAML_LINES = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["a: ", "- ", "? ", "*x", "&x ", "!!t ", "'", '"', "{", "[", "|\n",
                                                  "# ", "---", "%Y", "\t", "<<: ", "]"]), st.text(max_size=8)),
    max_size=12,
).map(lambda parts: "\n".join(" " * depth + mark + text for depth, mark, text in parts))  # fmt: skip


@examples(quick=40)
def test_any_yaml(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "x.yaml"

    def check(text: str) -> None:
        with suppress(YamlError):
            read_yaml(text)
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        read_everything(path, text)

    search(YAML_LINES | st.text(max_size=80) | VALUES.map(json.dumps), check, examples)
