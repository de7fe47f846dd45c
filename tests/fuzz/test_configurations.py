"""Configurations of any text: each is read, or refused with a sentence of ours."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from engine.config import RunConfig, load_config
from engine.config.kohya.convert import conversion_of
from engine.config.kohya.dataset_file import frozen_text, read_dataset_config
from engine.config.kohya.rules import SCRIPT_ARGUMENTS
from engine.config.load import conversion_notes
from engine.config.problems import keys as settings
from engine.config.prompts import read_prompts
from engine.dataset.configured import configured_sources
from engine.errors import LoraSmithError
from tests.fuzz.search import DEEP, VALUES, examples, search

KOHYA = sorted(SCRIPT_ARGUMENTS)
OURS = {table: sorted(keys) for table, keys in settings().items()}
KEYS = sorted(set().union(*OURS.values()))
DATASET = (
    "general", "datasets", "subsets", "image_dir", "metadata_file", "resolution", "batch_size", "num_repeats",
    "caption_extension", "keep_tokens", "shuffle_caption", "enable_bucket", "is_reg", "class_tokens",
)  # fmt: skip
PROMPT = ("prompt", "width", "height", "seed", "scale", "sample_steps", "sample_sampler")
WORDS = st.text(max_size=10) | st.sampled_from([
    "true", "1e-4", "nan", "inf", "-1", "9" * 5000, '"x"', "[1, 2]", "{a = 1}", "'", '"', "\\", "^", "%A%", "$A",
    "$(x)", "`x`", "&&", "|", ";", "#", "\n", "=", "--",
])  # fmt: skip


def toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


KOHYA_TABLES = st.dictionaries(st.sampled_from(KOHYA) | st.text(max_size=6), VALUES, min_size=1, max_size=12)
GUI_TABLES = KOHYA_TABLES.map(lambda table: {**table, "LoRA_type": "Standard", "train_batch_size": 1, "network_dim": 8})
OWN_TABLES = st.dictionaries(
    st.sampled_from(sorted(OURS)), st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), max_size=5
)
JSON = (KOHYA_TABLES | GUI_TABLES | OWN_TABLES | VALUES).map(json.dumps)
TOML_LINES = st.tuples(st.sampled_from(KOHYA), WORDS | VALUES.map(toml)).map(lambda pair: f"{pair[0]} = {pair[1]}")
OWN_LINES = st.sampled_from([f"[{table}]" for table in OURS]) | st.tuples(
    st.sampled_from(KEYS), WORDS | VALUES.map(toml)
).map(lambda pair: f"{pair[0]} = {pair[1]}")
TOML = st.lists(TOML_LINES | OWN_LINES | st.text(max_size=10), max_size=12).map("\n".join)
ARGUMENTS = st.lists(
    st.tuples(st.sampled_from(KOHYA), WORDS).map(lambda pair: f"--{pair[0]}={pair[1]}") | WORDS, max_size=12
)
SHELL = st.tuples(st.lists(WORDS, max_size=4), ARGUMENTS).map(
    lambda pair: "\n".join(pair[0]) + "\naccelerate launch train_network.py " + " ".join(pair[1])
)
TEXTS = JSON | TOML | SHELL | st.text(max_size=200) | DEEP | DEEP.map(lambda text: f"a = {text}")
ODD = st.integers(2, 200_000).map(lambda count: "a" + ".a" * count + " = 1")


@pytest.mark.parametrize("suffix", ["toml", "json", "sh", "bat"])
@examples()
def test_files_of_kohya_and_presets(tmp_path: Path, examples: int, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(LoraSmithError):
            if (conversion := conversion_of(path, text)) is not None:
                conversion.notes()
        with suppress(LoraSmithError):
            load_config(path).model_dump_json()
        with suppress(LoraSmithError):
            conversion_notes(path)

    search(TEXTS | ODD, check, examples)


TREES = st.fixed_dictionaries(
    {"datasets": st.lists(st.fixed_dictionaries(
        {"subsets": st.lists(st.dictionaries(st.sampled_from(DATASET), VALUES, max_size=4), max_size=2) | VALUES},
        optional=dict.fromkeys(DATASET[5:8], VALUES)), max_size=2) | VALUES},
    optional={"general": st.dictionaries(st.sampled_from(DATASET), VALUES, max_size=3) | VALUES},
)  # fmt: skip


@examples()
def test_dataset_configurations(tmp_path: Path, examples: int) -> None:
    path = tmp_path / "d.json"

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for read in (lambda: read_dataset_config(path, RunConfig()), lambda: configured_sources(path, RunConfig()),
                     lambda: frozen_text(path)):  # fmt: skip
            with suppress(LoraSmithError):
                read()

    search(TREES.map(json.dumps) | TEXTS, check, examples)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@examples()
def test_metadata_of_images(tmp_path: Path, examples: int, suffix: str) -> None:
    path = tmp_path / f"m.{suffix}"
    config = tmp_path / "d.toml"
    config.write_text(f"[[datasets]]\n[[datasets.subsets]]\nmetadata_file = {str(path)!r}\n")
    entry = st.dictionaries(st.sampled_from(["caption", "tags", "image_path"]), VALUES, max_size=3) | VALUES
    tables = st.dictionaries(
        st.text(max_size=8) | st.sampled_from(["", "/", "..", "~x/y", "x" * 5000]), entry, max_size=4
    )

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(LoraSmithError):
            configured_sources(config, RunConfig())

    search((tables | entry).map(json.dumps) | st.text(max_size=50) | DEEP, check, examples)


@pytest.mark.parametrize("suffix", ["json", "toml", "txt"])
@examples()
def test_prompt_files(tmp_path: Path, examples: int, suffix: str) -> None:
    path = tmp_path / f"p.{suffix}"
    config = RunConfig().changed(sampling={"sample_prompts": str(path)})
    entry = st.dictionaries(st.sampled_from(PROMPT), VALUES, max_size=5)
    lines = st.lists(st.tuples(st.text(max_size=5), st.sampled_from("nwhdslg"), WORDS), max_size=4).map(
        lambda parts: "\n".join(f"{prompt} --{flag} {value}" for prompt, flag, value in parts)
    )
    tables = st.lists(st.tuples(st.sampled_from(["[prompt]", "[[prompt.subset]]", ""]), TOML_LINES), max_size=5).map(
        lambda pairs: "\n".join("\n".join(pair) for pair in pairs)
    )

    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with suppress(LoraSmithError):
            for prompt in read_prompts(config, lambda _: None):
                prompt.as_line()

    search(st.lists(entry | VALUES, max_size=3).map(json.dumps) | lines | tables | TEXTS, check, examples)
