"""Which trigger word a run's file has learned, by the captions that its metadata counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.config import RunConfig
from engine.results.of_run import learned_trigger, lora_of_run
from engine.results.what_now import in_short, uses
from engine.runs import prepare_run

TAGS = {"10_smithy": {"smithy on a pink background": 9, "smithy": 1}}
DATASETS = [{"tag_frequency": TAGS}]


def written(path: Path, metadata: dict[str, Any]) -> Path:
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    save_file({"x": torch.zeros(1)}, path, texts)
    return path


@pytest.mark.parametrize(
    ("name", "word", "metadata", "learned"),
    [
        ("foobar", "", {"ss_tag_frequency": TAGS}, ""),
        ("foobar", "", {"ss_datasets": DATASETS}, ""),
        ("smithy", "", {"ss_tag_frequency": TAGS}, "smithy"),
        ("Smithy", "", {"ss_datasets": DATASETS}, "Smithy"),
        ("foobar", "", {"ss_tag_frequency": {}}, "foobar"),
        ("foobar", "", {}, "foobar"),
        ("foobar", "smithy", {"ss_tag_frequency": TAGS}, "smithy"),
        ("foobar", "", {"ss_tag_frequency": [3]}, "foobar"),
        ("foobar", "", {"ss_datasets": 3}, "foobar"),
    ],
)
def test_the_name_counts_where_a_caption_has_it(
    name: str, word: str, metadata: dict[str, Any], learned: str, tmp_path: Path
) -> None:
    config = RunConfig().changed(saving={"output_name": name}, dataset={"class_tokens": word})
    assert learned_trigger(config, written(tmp_path / "a.safetensors", metadata)) == learned


def test_a_file_that_is_gone_keeps_the_name(tmp_path: Path) -> None:
    config = RunConfig().changed(saving={"output_name": "foobar"})
    assert learned_trigger(config, tmp_path / "gone.safetensors") == "foobar"


def test_what_now_proposes_a_caption_where_there_is_no_trigger_word(tmp_path: Path) -> None:
    run = prepare_run(RunConfig().changed(saving={"output_name": "foobar", "output_dir": str(tmp_path / "run")}))
    lora = lora_of_run(run, written(run.path / "foobar.safetensors", {"ss_tag_frequency": TAGS}))
    assert lora.trigger == "" and lora.prompt == "smithy on a pink background"
    assert "Trigger word: none; no caption had the run's name" in in_short(lora)[0]
    assert any("smithy on a pink background" in line for line in uses(lora)[0].lines)
