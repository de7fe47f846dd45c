"""Other trainers' files in general: which are recognised, which are refused by name, and that no key is dropped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, load_config
from engine.config.foreign import conversion_of
from engine.config.kohya.dataset_file import read_dataset_config
from engine.config.load import conversion_notes
from engine.config.others import ai_toolkit_keys, lora_easy, lora_scripts, onetrainer_keys, registry
from engine.config.others.table import KINDS, Key
from engine.config.presets import find_preset, list_presets
from engine.config.problems import keys as settings
from engine.errors import LoraSmithError, UsageError
from tests.engine.config.other_trainers import (
    AI_TOOLKIT,
    LORA_EASY,
    LORA_SCRIPTS,
    ONETRAINER,
    changed,
    conversion,
    written,
)

FIXTURES = Path(__file__).parent / "fixtures"
TABLES: dict[str, Mapping[str, Key]] = {
    "ai-toolkit": ai_toolkit_keys.KEYS,
    "ai-toolkit's datasets": ai_toolkit_keys.DATASET_KEYS,
    "OneTrainer": onetrainer_keys.KEYS,
    "OneTrainer's concepts": onetrainer_keys.CONCEPT,
    "LoRA_Easy": {**lora_easy.OWN_KEYS, **lora_easy.GENERAL},
    "LoRA_Easy's subsets": lora_easy.SUBSET,
    "lora-scripts": lora_scripts.OWN_KEYS,
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_target_that_exists_or_a_reason(name: str) -> None:
    tables = settings()
    for key, row in TABLES[name].items():
        table, _, target = row.target.partition(".")
        assert not table or (table in tables and (not target or target in tables[table])), f"{key}: {row.target}"
        assert row.text or row.status == "honoured", f"{key}: no reason"
        assert row.target or row.text or row.choices, f"{key}: it says nothing"
        assert row.kind in KINDS, key


def test_the_page_of_the_documentation_is_fresh() -> None:
    code = "import sys; sys.path.insert(0, 'tools'); import other_trainers_table as made; print(made.page())"
    root = FIXTURES.parents[3]
    made = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    fresh = (root / "docs" / "other-trainers.md").read_text().rstrip()
    assert made.stdout.rstrip() == fresh, "run tools/other_trainers_table.py"


SIMPLE_TUNER = {
    "--model_family": "flux",
    "--lora_type": "standard",
    "--data_backend_config": "c.json",
    "--hub_token": "hf",
}
BACKEND = [
    {"id": "a", "type": "local", "instance_data_dir": "d", "caption_strategy": "filename", "crop_style": "random"}
]
PIPE = 'micro_batch_size_per_gpu = 1\npipeline_stages = 1\n[model]\ntype = "flux"\n[adapter]\ntype = "lora"\nrank = 8\n'
PIPE_DATA = 'resolutions = [512]\nenable_ar_bucket = true\n[[directory]]\npath = "x"\nnum_repeats = 1\n'
MUSUBI = '[general]\nresolution = [960, 544]\n[[datasets]]\nimage_directory = "x"\ncache_directory = "c"\n'
REFUSED = [
    ("config.json", json.dumps(SIMPLE_TUNER), "SimpleTuner"),
    ("config.json", json.dumps({key.removeprefix("--"): value for key, value in SIMPLE_TUNER.items()}), "SimpleTuner"),
    ("config.json", json.dumps(SIMPLE_TUNER)[:-1] + ",\n}", "SimpleTuner"),
    ("config.env", "export MODEL_TYPE='lora'\nexport TRACKER_RUN_NAME=x\nTRAINER_EXTRA_ARGS=x\n", "SimpleTuner"),
    ("multidatabackend.json", json.dumps(BACKEND), "SimpleTuner"),
    ("multidatabackend.json", json.dumps(BACKEND, indent=1)[:-1] + ",]", "SimpleTuner"),
    ("flux.toml", PIPE, "diffusion-pipe"),
    ("dataset.toml", PIPE_DATA, "diffusion-pipe"),
    ("dataset.toml", MUSUBI, "musubi-tuner"),
    ("dataset.json", json.dumps({"datasets": [{"video_directory": "v", "target_frames": [1, 25]}]}), "musubi-tuner"),
    ("wan.toml", 'network_module = "networks.lora_wan"\nnetwork_dim = 32\ndit = "x"\n', "musubi-tuner"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "program"), REFUSED)
def test_what_is_not_converted_is_refused_by_its_name(tmp_path: Path, name: str, text: str, program: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    for read in (load_config, conversion_notes, lambda path: read_dataset_config(path, RunConfig())):
        with pytest.raises(UsageError) as caught:
            read(path)
        assert caught.value.code == "other-trainer-not-converted"
        assert str(caught.value).startswith(str(path)) and program in str(caught.value) and caught.value.hint


OTHER_FILES = [
    ("a.yaml", "services:\n  web:\n    image: x\n", "yaml-of-no-trainer"),
    ("a.yml", "", "yaml-of-no-trainer"),
    ("a.yaml", "a: [1,\n", "config-invalid"),
    ("a.txt", 'job: extension\nconfig:\n  name: "C:\\Users"\n', "config-invalid"),
    ("a.txt", "job: extension\nconfig:\n  process:\n  - type: generate\n", "other-trainer-no-lora"),
    ("a.yaml", "a: &x 1\nb: *x\n", "config-invalid"),
    ("a.yaml", "a: !!python/object:os.system x\n", "config-invalid"),
    ("a.yaml", "job: train\n---\njob: train\n", "config-invalid"),
]


@pytest.mark.parametrize(("name", "text", "code"), OTHER_FILES)
def test_yaml_that_is_no_job(tmp_path: Path, name: str, text: str, code: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LoraSmithError) as caught:
        load_config(path)
    assert caught.value.code == code and len(str(caught.value).splitlines()) == 1


def test_files_of_kohya_and_our_own_are_not_taken_for_other_trainers(tmp_path: Path) -> None:
    files = [path for path in FIXTURES.iterdir() if path.suffix in (".json", ".toml", ".sh", ".bat")]
    assert files
    for path in [*files, *(find_preset(preset.name) for preset in list_presets())]:
        assert registry.conversion_of(path, path.read_text()) is None, path
    for text in ("", "[training]\nmax_train_steps = 5\n", "{}", "[]", "network_dim = 4\nunet_lr = 1e-4\n", "\x00"):
        assert registry.conversion_of(tmp_path / "x.toml", text) is None, text


VALUES = {"number": 0.5, "integer": 2, "flag": True, "text": "word", "path": "a/b", "texts": ["x"], "list": [], "": 3,
          "table": {"some": 1}, "optional text": "x"}  # fmt: skip


def value_of(row: Key) -> Any:
    return next(iter(row.choices)) if row.choices else VALUES[row.kind]


def everything(table: Mapping[str, Key], keep: Mapping[str, Any]) -> dict[str, Any]:
    """A key of every row with a value of its kind; `keep` has others."""
    rows = {key: value_of(row) for key, row in table.items() if not key.endswith("*")}
    flat = {key: value for key, value in rows.items() if not any(other.startswith(f"{key}.") for other in table)}
    return changed({}, {**flat, **{f"{key[:-1]}of_it": 7 for key in table if key.endswith(".*")}, **keep})


def leaves(content: Any, within: str = "") -> Iterator[str]:
    for key, value in content.items():
        if isinstance(value, dict) and value != VALUES["table"]:
            yield from leaves(value, f"{within}{key}.")
        else:
            yield f"{within}{key}"


FAMILIES = {"sd1": "STABLE_DIFFUSION_15", "sdxl": "STABLE_DIFFUSION_XL_10_BASE", "flux": "FLUX_DEV_1"}
OFF = {f"model.{switch}": False for switch in ai_toolkit_keys.OTHER_SWITCHES}


def reported(path: Path) -> set[str]:
    result = conversion(path)
    lines = [*(entry.key for entry in result.entries), *result.unset, *(problem.key for problem in result.problems)]
    return set(lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_is_dropped(tmp_path: Path, family: str) -> None:
    dataset = everything(ai_toolkit_keys.DATASET_KEYS, {"unknown": 1})
    keep = {**OFF, "model.arch": family, "type": "sd_trainer", "datasets": [], "unknown": 1, "train.unknown": {"a": 1}}
    process = {**everything(ai_toolkit_keys.KEYS, keep), "datasets": [dataset]}
    path = written(tmp_path, "a.yaml", changed(AI_TOOLKIT, {"config.process": [process]}))
    wanted = {*leaves(process), *(f"datasets[0].{key}" for key in leaves(dataset))} - {"train.unknown.a"}
    assert wanted - reported(path) == set()
    concept = everything(onetrainer_keys.CONCEPT, {"unknown": 1, "enabled": True})
    keep = {"training_method": "LORA", "model_type": FAMILIES[family], "concepts": [concept], "unknown": {"a": 1}}
    content = everything(onetrainer_keys.KEYS, keep)
    path = written(tmp_path, "a.json", content)
    wanted = {*leaves(content), *(f"concepts[0].{key}" for key in leaves(concept))} - {"unknown.a"}
    assert wanted - reported(path) == set()


def test_no_key_is_dropped_by_front_ends_of_kohya(tmp_path: Path) -> None:
    scripts = {**LORA_SCRIPTS, **{key: value_of(row) for key, row in lora_scripts.OWN_KEYS.items()},
               "model_train_type": "sd-lora", "ui_custom_params": "", "unknown": 1}  # fmt: skip
    path = written(tmp_path, "a.toml", scripts)
    made_of = {"network_args_custom", *lora_scripts.LYCORIS, *lora_scripts.BLOCKS}
    assert set(scripts) - reported(path) - made_of == set()
    subset = {**{key: value_of(row) for key, row in lora_easy.SUBSET.items()}, "unknown": 1}
    content = changed(LORA_EASY, {
        "subsets": [subset], "general_args.args.unknown": 1, "extra_args": {"args": {"unknown_too": 1}, "beside": 1},
        "network_args.args.fa": True, "saving_args.args.save_toml": True, "bucket_args.dataset_args.unknown_size": 3,
    })  # fmt: skip
    path = written(tmp_path, "b.toml", content)
    wanted = {f"subsets[0].{key}" for key in subset} | {
        key for tab in content.values() if isinstance(tab, dict) for part in tab.values() if isinstance(part, dict)
        for key in part
    } | {"extra_args.beside"}  # fmt: skip
    assert wanted - reported(path) == {"optimizer_args"} - reported(path)


SECRETS = [
    ("a.yaml", changed(AI_TOOLKIT, {"config.process.0.hf_token": "S3CRET", "meta.api_key": [1, "S3CRET"]})),
    ("a.json", {**ONETRAINER, "secrets": {"huggingface_token": "S3CRET"}, "cloud": {"run_pod_api_key": "S3CRET"}}),
    ("a.toml", {**LORA_SCRIPTS, "wandb_api_key": "S3CRET", "huggingface_token": "S3CRET"}),
    ("b.toml", changed(LORA_EASY, {"logging_args.args.wandb_api_key": "S3CRET"})),
    ("c.json", {**SIMPLE_TUNER, "--hub_token": "S3CRET"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content"), SECRETS)
def test_secrets_are_not_shown(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    path = written(tmp_path, name, content)
    try:
        result = conversion_of(path, path.read_text())
        assert result is not None
        shown = [str(result.entries), str(result.problems), str(result.values), str(result.notes())]
    except UsageError as error:
        shown = [str(error), error.hint or ""]
    assert "S3CRET" not in "".join(shown)


@pytest.mark.parametrize(
    ("content", "path", "near"),
    [
        (changed(AI_TOOLKIT, {"config.process.0.train.stepps": 1}), "a.yaml", "train.steps"),
        (changed(AI_TOOLKIT, {"config.process.0.steps": 1}), "a.yaml", "train.steps"),
        (changed(AI_TOOLKIT, {"config.process.0.datasets.0.caption_extt": 1}), "a.yaml", "datasets[0].caption_ext"),
        ({**ONETRAINER, "learning_rat": 1}, "a.json", "learning_rate"),
        (changed(LORA_EASY, {"subsets.0.num_repeat": 1}), "a.toml", "subsets[0].num_repeats"),
        ({**LORA_SCRIPTS, "network_dims": 1}, "a.toml", "network_dim"),
    ],
)
def test_the_nearest_known_key_is_named(tmp_path: Path, content: dict[str, Any], path: str, near: str) -> None:
    notes = conversion_notes(written(tmp_path, path, content))
    assert any(f"did you mean {near}?" in note for note in notes)


def test_a_file_without_images_is_no_dataset_configuration(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", changed(AI_TOOLKIT, {"config.process.0.datasets": []}))
    with pytest.raises(UsageError) as caught:
        read_dataset_config(path, RunConfig())
    assert caught.value.code == "no-dataset-config"
    path = written(tmp_path, "b.yaml", changed(AI_TOOLKIT, {"config.process.0.datasets": [{"resolution": 512}]}))
    with pytest.raises(ConfigError):
        read_dataset_config(path, RunConfig())
