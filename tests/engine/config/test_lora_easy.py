"""LoRA_Easy_Training_Scripts' TOML: its tabs, its subsets, what it drops, and what it has that is no LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.errors import LoraSmithError
from tests.engine.config.other_trainers import GONE, LORA_EASY, changed, conversion, differs, entries, written

OPTIMIZER, NETWORK, GENERAL = "optimizer_args.args.", "network_args.args.", "general_args.args."


def test_the_example(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "a.toml", LORA_EASY))
    assert (config.model.family, config.saving.output_name, config.saving.output_dir) == ("sdxl", "ginkgo", "out")
    assert (config.network.network_dim, config.network.network_alpha, config.training.train_batch_size) == (8, 4, 2)
    assert (config.training.max_train_steps, config.training.learning_rate) == (300, 2e-4)
    assert config.training.optimizer_args == ["weight_decay=0.1"]
    assert (config.dataset.train_data_dir, config.dataset.num_repeats, config.dataset.resolution) == ("leaves", 3, 768)
    assert config.dataset.shuffle_caption and config.dataset.enable_bucket
    assert not config.memory.cache_latents, "as Kohya's scripts where the file says nothing"


CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    ({f"{GENERAL}sdxl": GONE}, {"model.family": "auto"}, {}),
    ({f"{GENERAL}sdxl": GONE, "flux_args.args": {"ae": "ae.safetensors", "guidance_scale": 1.0}},
     {"model.family": "flux", "flux.ae": "ae.safetensors"}, {}),
    ({f"{OPTIMIZER}warmup_ratio": 0.1}, {"training.lr_warmup_steps": 0.1}, {"warmup_ratio": "honoured"}),
    ({f"{OPTIMIZER}warmup_ratio": 0.1, f"{OPTIMIZER}lr_scheduler": "constant"}, {}, {"warmup_ratio": "no effect"}),
    ({f"{OPTIMIZER}lr_scheduler_type": "LoraEasyCustomOptimizer.CustomOptimizers.Rex"}, {},
     {"lr_scheduler": "no effect", "lr_scheduler_type": "not supported"}),
    ({f"{NETWORK}network_dropout": 0.1}, {"network.network_dropout": 0.1}, {}),
    ({f"{NETWORK}network_args": {"conv_dim": 4, "conv_alpha": 2}},
     {"network.conv_dim": 4, "network.conv_alpha": 2.0}, {}),
    ({f"{NETWORK}network_args": {"rank_dropout": 0.2}}, {"network.rank_dropout": 0.2}, {}),
    ({f"{NETWORK}fa": False}, {}, {}),
    ({f"{NETWORK}fa": True}, {}, {"fa": "not supported"}),
    ({"noise_args.args": {"noise_offset": 0.05}}, {"training.noise_offset": 0.05}, {"noise_offset": "honoured"}),
    ({"sample_args.args": {"sample_prompts": "p.txt", "sample_every_n_epochs": 2}},
     {"sampling.sample_every_n_epochs": 2, "sampling.sample_prompts": "p.txt"}, {}),
    ({"logging_args.args": {"log_with": "wandb", "wandb_api_key": "abc123"}}, {}, {"wandb_api_key": "no effect"}),
    ({"saving_args.args.save_toml": True, "saving_args.args.tag_file_location": "C:\\t"}, {},
     {"save_toml": "no effect"}),
    ({"extra_args.args": {"min_snr_gama": 5}}, {}, {"min_snr_gama": "no effect"}),
    ({"bucket_arg": {"args": {"x": 1}}}, {}, {"bucket_arg": "no effect"}),
    ({"textual_inversion_args": {"args": {"token_string": "x"}}}, {}, {"token_string": "no effect"}),
    ({"train_mode": {"train_mode": "lora"}}, {}, {"train_mode": "honoured"}),
    ({"extra_args": {"args": {"seed": 6}}}, {"training.seed": 6}, {"seed": "honoured"}),
    ({"subsets.0.keep_tokens": 2, "subsets.0.caption_dropout_rate": 0.1, "subsets.0.random_crop": True},
     {"dataset.keep_tokens": 2, "dataset.caption_dropout_rate": 0.1, "dataset.random_crop": True}, {}),
    ({"subsets.0.name": "leaves", "subsets.0.shuffle_captions": True}, {},
     {"subsets[0].name": "no effect", "subsets[0].shuffle_captions": "no effect"}),
    ({"subsets.0.masks_dir": "m"}, {}, {"subsets[0].masks_dir": "not supported"}),
    ({"general_args.dataset_args.resolution": [640, 512]}, {"dataset.resolution": [640, 512]},
     {"resolution": "honoured"}),
    ({"subsets": []}, {"dataset.resolution": 768, "training.train_batch_size": 2}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "settings", "statuses"), CASES)
def test_a_key(tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], statuses: dict[str, str]) -> None:
    result = conversion(written(tmp_path, "a.toml", changed(LORA_EASY, changes)))
    assert not differs(result, settings)
    assert {key: entries(result)[key].status for key in statuses} == statuses
    refused = {key for key, status in statuses.items() if status == "not supported"}
    assert {problem.key for problem in result.problems} == refused
    assert not any("abc123" in entry.line() for entry in result.entries)


WRONG = [
    ({f"{NETWORK}network_dim": "big"}, "network_dim"),
    ({f"{NETWORK}network_args": [1]}, "network_args"),
    ({f"{OPTIMIZER}optimizer_args": 3}, "optimizer_args"),
    ({f"{OPTIMIZER}warmup_ratio": 2.0}, "warmup_ratio"),
    ({"network_args.args": 5}, "network_args.args"),
    ({"general_args.dataset_args.resolution": "large"}, "resolution"),
    ({"general_args.dataset_args.batch_size": "two"}, "batch_size"),
    ({"subsets": {"image_dir": "x"}}, "subsets"),
    ({"subsets.0.image_dir": GONE}, "subsets[0].image_dir"),
    ({"subsets.0.num_repeats": "often"}, "subsets[0].num_repeats"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key"), WRONG)
def test_a_wrong_value_is_one_problem_with_its_line(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = written(tmp_path, "a.toml", changed(LORA_EASY, changes))
    (problem,) = conversion(path).problems
    assert problem.key == key and problem.where.startswith(f"{path}, line ")


REFUSED = [
    ({"train_mode": {"train_mode": "textual_inversion"}}, "other-trainer-no-lora", "textual inversion"),
    ({"sd3_args": {"args": {"clip_l": "x"}}}, "other-trainer-model", "Stable Diffusion 3"),
    ({"anima_args": {"args": {"qwen3": "x"}}}, "other-trainer-model", "Anima"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code", "name"), REFUSED)
def test_what_is_no_lora_of_ours(tmp_path: Path, changes: dict[str, Any], code: str, name: str) -> None:
    with pytest.raises(LoraSmithError) as caught:
        load_config(written(tmp_path, "a.toml", changed(LORA_EASY, changes)))
    assert caught.value.code == code and name in str(caught.value)
    assert "LoRA_Easy_Training_Scripts" in str(caught.value)


def test_several_subsets_are_a_dataset_configuration(tmp_path: Path) -> None:
    subsets = [{"image_dir": "a", "num_repeats": 2}, {"image_dir": "b", "is_reg": True}]
    path = written(tmp_path, "a.toml", changed(LORA_EASY, {"subsets": subsets}))
    assert str(load_config(path).dataset.dataset_config) == str(path)
    got = read_dataset_config(path, RunConfig())[0]
    assert [(item.image_dir, item.num_repeats, item.is_reg, item.batch_size) for item in got] == [
        ("a", 2, False, 2), ("b", 1, True, 2),
    ]  # fmt: skip
    assert all(item.table.resolution == 768 for item in got)


def test_a_file_of_windows_with_a_mark_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(
        b"\xef\xbb\xbf# my file\r\n[[subsets]]\r\nimage_dir = 'F:\\data\\10_gnk' # here\r\nnum_repeats = 10\r\n"
        b"[general_args.args]\r\npretrained_model_name_or_path = 'F:/m.safetensors'\r\nmax_train_steps = 5\r\n"
    )
    result = conversion(path)
    assert not result.problems and result.values["dataset"]["train_data_dir"] == r"F:\data\10_gnk"
    assert result.places["training.max_train_steps"] == f"{path}, line 7"
    assert "Windows" in entries(result)["subsets[0].image_dir"].text
