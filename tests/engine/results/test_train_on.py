"""What a new run that begins with a LoRA takes over, and what a file says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.resolve import resolve
from engine.results.train_on import StartFile, find_file, trigger_of, values_of
from engine.runs import prepare_run
from engine.runs.history import SavedFile
from tests.refusals import refused


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ({}, ""),
        ({"modelspec.trigger_phrase": " ohwx man "}, "ohwx man"),
        ({"ss_tag_frequency": json.dumps({"10_ohwx man": {"hat": 3}})}, "ohwx man"),
        ({"ss_tag_frequency": json.dumps({"10_ohwx": {}, "3_ohwx": {}})}, "ohwx"),
        ({"ss_tag_frequency": json.dumps({"10_ohwx": {}, "1_man": {}})}, ""),
        ({"ss_tag_frequency": json.dumps({"images": {"hat": 3}})}, ""),
        ({"ss_tag_frequency": "no JSON"}, ""),
        ({"ss_tag_frequency": "[" * 10_000}, ""),
        ({"ss_tag_frequency": "[1]"}, ""),
    ],
)
def test_the_trigger_of_a_file(metadata: dict[str, str], word: str) -> None:
    assert trigger_of(metadata) == word


CHANGES = [
    "10: training.unet_lr=2e-4",
    "20: training.max_train_steps=90",
    '30: sampling.sample_prompts=["{trigger} at sea"]',
]


@pytest.mark.parametrize(
    ("step", "rate", "prompts"), [(5, None, ["{trigger}"]), (15, 2e-4, ["{trigger}"]), (40, 2e-4, ["{trigger} at sea"])]
)
def test_settings_are_those_at_the_files_step(step: int, rate: float | None, prompts: list[str]) -> None:
    config = RunConfig().changed(saving={"output_name": "ann"}, training={"changes": CHANGES})
    values = values_of(config, StartFile(Path("/x.safetensors"), SavedFile(Path("/x.safetensors"), 1, step, 1)))
    assert values.get("training.unet_lr") == rate
    assert values.get("sampling.sample_prompts", ["{trigger}"]) == prompts
    assert (values["training.changes"], values["training.max_train_epochs"]) == ([], 3)
    assert values["dataset.class_tokens"] == "ann" and "network.dim_from_weights" not in values


@pytest.mark.parametrize("length", [{"max_train_steps": 140}, {"max_train_epochs": 7}, {}])
def test_the_new_run_has_one_length(length: dict[str, int]) -> None:
    config = RunConfig().changed(saving={"output_name": "ann"}, training=length)
    values = values_of(config, StartFile(Path("/x.safetensors")))
    changed = config.changed(training={key[9:]: values[key] for key in values if key.startswith("training.")})
    assert [note for note in resolve(changed)[1] if "max_train_steps" in note] == []


def test_a_file_is_the_runs_own_by_its_name_else_a_path(tmp_path: Path) -> None:
    run = prepare_run(RunConfig().changed(saving={"output_name": "ann", "output_dir": str(tmp_path / "run")}))
    run.lora_path(epoch=1).write_bytes(b"x")
    other = tmp_path / "theirs.safetensors"
    other.write_bytes(b"x")
    own = find_file(run, "ann-000001.safetensors")
    assert own.path == run.lora_path(epoch=1) and own.saved is not None
    assert find_file(run, str(run.lora_path(epoch=1))).saved is not None
    assert find_file(run, str(other)) == StartFile(other)
    with refused("lora-file-missing", "ann-7", "ann-000001.safetensors"):
        find_file(run, "ann-7")
