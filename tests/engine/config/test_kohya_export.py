"""What is exported for Kohya's scripts is read back as the same run, and its shell script is sound."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import RunConfig, load_config
from engine.config.dataset import DatasetTable
from engine.config.kohya.dataset_file import read_dataset_config
from engine.config.kohya.export_dataset import ExportedSubset
from engine.config.kohya.rules import SCRIPT_ARGUMENTS
from engine.config.presets import list_presets
from tests.engine.config.kohya_scripts import refusals, resolved_export

SUBSETS = [ExportedSubset("/p/10_zed", 10, "zed dog"), ExportedSubset("/r/1_dog", 1, "dog", True)]
PRESETS = [preset.name for preset in list_presets() if preset.name != "demo"]


def family(name: str) -> str:
    return "flux" if name.startswith("flux") else "sdxl" if name.startswith("sdxl") else "sd15"


def exported(tmp_path: Path, config: RunConfig, kind: str) -> RunConfig:
    for name, text in resolved_export(config, kind, SUBSETS, ["zed --w 64 --h 64"]).files.items():
        (tmp_path / name).write_text(text)
    return load_config(tmp_path / "training.toml")


def unsplit(table: DatasetTable) -> DatasetTable:
    """Unset and 0 are the same to a dataset configuration: nothing is set aside."""
    return table.model_copy(update={"validation_split": table.validation_split or 0.0})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back(tmp_path: Path, name: str) -> None:
    config = load_config(name, ["saving.output_name=zed", "model.pretrained_model_name_or_path=/m.safetensors"])
    imported = exported(tmp_path, config, family(name))
    assert imported.training == config.training.model_copy(
        update={"max_train_epochs": config.training.max_train_epochs,
                "text_encoder_lr": imported.training.text_encoder_lr,
                "train_batch_size": imported.training.train_batch_size}
    ), name  # fmt: skip
    if not config.network.network_train_unet_only:
        assert imported.training.rates == config.training.rates
    assert imported.network == config.network
    assert (
        imported.saving == config.saving.model_copy(update={"output_dir": "output"})
        and imported.model.vae == config.model.vae
    )
    assert imported.memory.gradient_checkpointing == config.memory.gradient_checkpointing
    chance = config.dataset.caption_dropout_rate or config.dataset.shuffle_caption  # which the scripts cannot cache
    assert imported.memory.cache_text_encoder_outputs == (config.memory.cache_text_encoder_outputs and not chance)
    assert imported.dataset.dataset_config == "dataset.toml"
    specs, _ = read_dataset_config(tmp_path / "dataset.toml", imported)
    assert [(spec.image_dir, spec.num_repeats, spec.class_tokens, spec.is_reg) for spec in specs] == [
        ("/p/10_zed", 10, "zed dog", False), ("/r/1_dog", 1, "dog", True),
    ]  # fmt: skip
    for spec in specs:
        assert spec.batch_size == config.training.train_batch_size
        same = spec.table.model_copy(
            update={key: getattr(config.dataset, key) for key in ("num_repeats", "class_tokens", "dataset_config")}
        )
        assert unsplit(same) == unsplit(config.dataset)


def test_conv_and_other_settings_come_back(tmp_path: Path) -> None:
    config = load_config("sdxl", [
        "saving.output_name=zed", "network.conv_dim=8", "network.conv_alpha=4", "network.rank_dropout=0.1",
        "training.optimizer_args=['weight_decay=0.1']", "dataset.masked_loss=true", "training.max_train_epochs=7",
        "dataset.conditioning_data_dir=/masks", "model.max_token_length=225", "memory.base_precision=fp8",
    ])  # fmt: skip
    imported = exported(tmp_path, config, "sdxl")
    assert imported.network == config.network and imported.training.optimizer_args == ["weight_decay=0.1"]
    assert imported.training.max_train_epochs == 7 and imported.model.max_token_length == 225
    assert imported.memory.base_precision == "fp8" and imported.dataset.masked_loss
    specs, _ = read_dataset_config(tmp_path / "dataset.toml", imported)
    assert [spec.conditioning_data_dir for spec in specs] == ["/masks"]


@pytest.mark.parametrize(("precision", "kept"), [("fp8_w8a8", "fp8"), ("int8_w8a8", "auto")])
def test_products_in_8_bits_are_not_written(tmp_path: Path, precision: str, kept: str) -> None:
    config = load_config("sdxl", ["saving.output_name=zed", f"memory.base_precision={precision}"])
    notes = resolved_export(config, "sdxl", SUBSETS, []).notes
    assert sum(f"memory.base_precision = {precision}" in note for note in notes) == 1
    assert exported(tmp_path, config, "sdxl").memory.base_precision == kept


def test_captions_of_a_file_and_merged_files_come_back(tmp_path: Path) -> None:
    config = load_config("sd15-anime", [
        "saving.output_name=zed", "dataset.train_data_dir=/p", "dataset.in_json=/m.json", "dataset.num_repeats=3",
        "model.base_weights=['/b.safetensors']", "model.base_weights_multiplier=[0.5]", "model.weighted_captions=true",
        "dataset.face_crop_aug_range=[2, 4]", "dataset.enable_bucket=false",
    ])  # fmt: skip
    subsets = [ExportedSubset("/p", 3, metadata_file="/m.json")]
    for name, text in resolved_export(config, "sd15", subsets, []).files.items():
        (tmp_path / name).write_text(text)
    imported = load_config(tmp_path / "training.toml")
    assert imported.model == config.model
    specs, _ = read_dataset_config(tmp_path / "dataset.toml", imported)
    assert [(spec.image_dir, spec.metadata_file, spec.num_repeats) for spec in specs] == [("/p", "/m.json", 3)]
    assert specs[0].table.face_crop_aug_range == [2.0, 4.0] and not imported.memory.cache_latents


def test_steps_of_warm_up_are_whole_numbers() -> None:
    for value, expected in (("30", 30), ("0.05", 0.05)):
        config = load_config("sdxl", [f"training.lr_warmup_steps={value}"])
        tables = tomllib.loads(resolved_export(config, "sdxl", SUBSETS, []).files["training.toml"])
        written = tables["training_arguments"]["lr_warmup_steps"]
        assert written == expected and type(written) is type(expected)


def test_only_arguments_of_kohya_are_written_and_each_is_explained(tmp_path: Path) -> None:
    for name in PRESETS:
        files = resolved_export(load_config(name), family(name), SUBSETS, []).files
        tables = tomllib.loads(files["training.toml"])
        written = [key for table in tables.values() for key in table]
        assert set(written) <= set(SCRIPT_ARGUMENTS) and len(written) == len(set(written)), name
        lines = [line for line in files["training.toml"].splitlines() if " = " in line]
        assert all("#" in line for line in lines), [line for line in lines if "#" not in line]


@pytest.mark.parametrize(
    ("settings", "rank", "conv"),
    [
        (["init_lora_weights=pissa", "tlora_min_rank=2", "tlora_alpha=2", "conv_dim=4"], 8, "conv_dim=4"),
        (["init_lora_weights=eva"], 8, None),
        (["init_lora_weights=pissa", "network_weights=/l.safetensors", "conv_dim=4", "conv_alpha=2"], 16, "conv_dim=8"),
        (["tlora_min_rank=2", "network_weights=/l.safetensors"], 8, None),
    ],
)
def test_first_values_and_masks_of_ranks_are_reported_as_lost(settings: list[str], rank: int, conv: str | None) -> None:
    keys = [f"network.{text}" for text in ("network_dim=8", *settings)]
    export = resolved_export(load_config("sdxl", keys), "sdxl", SUBSETS, [])
    notes = " ".join(export.notes)
    own = [text.partition("=")[0] for text in settings if text.startswith(("init", "tlora"))]
    assert all(notes.count(f"{key}") == 1 for key in own), notes
    table = tomllib.loads(export.files["training.toml"])["network_arguments"]
    assert table["network_dim"] == rank and (conv is None or conv in table["network_args"])
    assert not set(own) & table.keys()


def test_the_scripts_are_sound(tmp_path: Path) -> None:
    exported(tmp_path, load_config("sdxl"), "sdxl")
    assert subprocess.run(["bash", "-n", str(tmp_path / "train.sh")], check=False).returncode == 0
    if shutil.which("shellcheck"):
        assert subprocess.run(["shellcheck", str(tmp_path / "train.sh")], check=False).returncode == 0
    compile((tmp_path / "train.py").read_text(), "train.py", "exec")
    assert "sdxl_train_network.py" in (tmp_path / "train.sh").read_text()


def test_a_dataset_configuration_stays_what_it_is(tmp_path: Path) -> None:
    """Several datasets with settings of their own; what they leave open has the run's values."""
    source = tmp_path / "given.json"
    own = {"image_dir": "/p/a", "num_repeats": 3, "class_tokens": "zed", "keep_tokens_separator": None}
    datasets = [
        {"resolution": 768, "batch_size": 4, "subsets": [own, {"image_dir": "/p/b", "alpha_mask": False}]},
        {"subsets": [{"image_dir": "/r", "is_reg": True, "caption_extension": ".tags"}]},
    ]
    source.write_text(json.dumps({"general": {"shuffle_caption": True}, "datasets": datasets}))
    config = load_config("sd15-anime", [
        f"dataset.dataset_config={source}", "dataset.resolution=640", "dataset.alpha_mask=true",
        "dataset.num_repeats=5", "training.train_batch_size=2", "saving.output_name=zed",
    ])  # fmt: skip
    imported = exported(tmp_path, config, "sd15")
    before, _ = read_dataset_config(source, config)
    after, _ = read_dataset_config(tmp_path / "dataset.toml", imported)
    assert [replace(spec, table=unsplit(spec.table)) for spec in after] == [
        replace(spec, table=unsplit(spec.table)) for spec in before
    ]
    conversion = [(spec.table.size[0], spec.batch_size, spec.num_repeats, spec.table.alpha_mask) for spec in after]
    assert conversion == [(768, 4, 3, True), (768, 4, 5, False), (640, 2, 5, True)]


def test_the_shell_script_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings are in the file behind --config_file, its folder in quotation marks with blanks."""
    config = load_config("sd15-anime", ["saving.output_name=zed", "network.network_dim=9"])
    direct = exported(tmp_path, config, "sd15")
    monkeypatch.chdir(tmp_path)
    imported = load_config(tmp_path / "train.sh")
    assert imported == direct and imported.network.network_dim == 9


@pytest.mark.parametrize(("device", "switch"), [("auto", "--multi_gpu"), ("cpu", "--cpu")])
def test_several_processes_are_started_by_the_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, switch: str
) -> None:
    overrides = ["saving.output_name=zed", "training.num_processes=2", f"memory.device={device}"]
    exported(tmp_path, load_config("sd15-anime", overrides), "sd15")
    monkeypatch.chdir(tmp_path)
    imported = load_config(tmp_path / "train.sh")
    assert (imported.training.num_processes, imported.memory.mixed_precision) == (
        2,
        "no" if device == "cpu" else "bf16",
    )
    assert imported.memory.device == device
    for name in ("train.sh", "train.py"):
        assert switch in (tmp_path / name).read_text()
    assert "num_processes" not in (tmp_path / "training.toml").read_text()
    compile((tmp_path / "train.py").read_text(), "train.py", "exec")


@pytest.mark.parametrize(
    ("logging", "expected", "note"),
    [
        ({"log_with": "trackio", "logging_dir": "/l"}, {"logging_dir": "/l"}, "log_with is left out"),
        ({"log_with": "tensorboard"}, {"log_with": "tensorboard", "logging_dir": "logs"}, "logging_dir is logs"),
        ({"log_with": "wandb", "log_config": True}, {"log_with": "wandb", "log_config": True}, ""),
    ],
)
def test_loggers_are_those_that_the_scripts_have(
    logging: dict[str, object], expected: dict[str, object], note: str
) -> None:
    config = RunConfig().changed(
        saving={"output_name": "zed"}, model={"pretrained_model_name_or_path": "/m"}, logging=logging
    )
    made = resolved_export(config, "sd15", SUBSETS, [])
    assert tomllib.loads(made.files["training.toml"])["logging_arguments"] == expected
    assert refusals(made.files, "sd15") == []
    assert [text for text in made.notes if "log" in text.split()[0]] == [
        text for text in made.notes if note and note in text
    ]
