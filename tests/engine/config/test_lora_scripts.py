"""lora-scripts' TOML: the keys of its window, its templates, and what it has that is no LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import load_config
from engine.errors import LoraSmithError
from tests.engine.config.other_trainers import GONE, LORA_SCRIPTS, changed, conversion, differs, entries, written


def test_the_example(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "a.toml", LORA_SCRIPTS))
    assert (config.model.family, config.saving.output_name, config.saving.output_dir) == ("sdxl", "ginkgo", "out")
    assert (config.network.network_dim, config.network.network_alpha, config.training.train_batch_size) == (8, 4, 2)
    assert (config.training.max_train_epochs, config.training.learning_rate) == (3, 2e-4)
    assert (config.dataset.train_data_dir, config.dataset.resolution) == ("leaves", [768, 768])


PREVIEW = {"positive_prompts": "a leaf", "negative_prompts": "blur", "sample_width": 512, "sample_height": 768,
           "sample_cfg": 7, "sample_seed": 3, "sample_steps": 24}  # fmt: skip
CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    ({"model_train_type": "sd-lora", "clip_skip": 2}, {"model.clip_skip": 2}, {"model_train_type": "honoured"}),
    ({"clip_skip": 2}, {"model.clip_skip": None}, {"clip_skip": "no effect"}),
    ({"model_train_type": "flux-lora", "network_module": "networks.lora_flux", "guidance_scale": 1, "ae": "ae.sft"},
     {"model.family": "flux", "flux.ae": "ae.sft"}, {}),
    ({"model_train_type": GONE, "lora_type": "lora", "lr_restart_cycles": 3, "lr_scheduler": "cosine_with_restarts"},
     {"training.lr_scheduler_num_cycles": 3}, {"lr_restart_cycles": "honoured"}),
    ({"optimizer_args_custom": ["weight_decay=0.1"]}, {"training.optimizer_args": ["weight_decay=0.1"]},
     {"optimizer_args_custom": "honoured"}),
    ({"optimizer_type": "Prodigy", "prodigy_d_coef": "0.8", "prodigy_d0": "", "lr_warmup_steps": 10,
      "lr_scheduler": "cosine"},
     {"training.optimizer_args": ["decouple=True", "weight_decay=0.01", "use_bias_correction=True", "d_coef=0.8",
                                  "safeguard_warmup=True"]}, {"prodigy_d_coef": "honoured"}),
    ({"prodigy_d_coef": "0.8"}, {"training.optimizer_args": []}, {"prodigy_d_coef": "no effect"}),
    ({"enable_preview": True, **PREVIEW},
     {"sampling.sample_prompts": ["a leaf --n blur --w 512 --h 768 --d 3 --s 24 --l 7"]},
     {"positive_prompts": "honoured", "sample_steps": "honoured"}),
    ({"enable_preview": False, **PREVIEW}, {"sampling.sample_every_n_steps": 0}, {"positive_prompts": "no effect"}),
    ({"enable_preview": True, "prompt_file": "p.txt", **PREVIEW}, {"sampling.sample_prompts": "p.txt"},
     {"prompt_file": "honoured", "positive_prompts": "no effect"}),
    ({"network_args_custom": ["conv_dim=4", "conv_alpha=2"]}, {"network.conv_dim": 4, "network.conv_alpha": 2.0}, {}),
    ({"conv_dim": 4}, {"network.conv_dim": None}, {"conv_dim": "no effect"}),
    ({"down_lr_weight": "1,1", "enable_block_weights": False}, {}, {"down_lr_weight": "no effect"}),
    ({"base_weights": "a.safetensors\nb.safetensors", "enable_base_weight": False}, {}, {"base_weights": "no effect"}),
    ({"noise_offset": 0, "vae": "", "reg_data_dir": ""}, {"training.noise_offset": None, "model.vae": None}, {}),
    ({"ui_custom_params": "network_dim = 16\nseed = 3"}, {"network.network_dim": 16, "training.seed": 3},
     {"ui_custom_params": "honoured", "seed": "honoured"}),
    ({"train_t5xxl": False, "gpu_ids": ["0", "1"]}, {}, {"train_t5xxl": "honoured", "gpu_ids": "no effect"}),
    ({"train_t5xxl": True}, {}, {"train_t5xxl": "not supported"}),
    ({"dylora_unit": 4}, {}, {"dylora_unit": "not supported"}),
    ({"wandb_api_key": "abc123", "learning_rat": 1}, {}, {"wandb_api_key": "no effect", "learning_rat": "no effect"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "settings", "statuses"), CASES)
def test_a_key(tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], statuses: dict[str, str]) -> None:
    result = conversion(written(tmp_path, "a.toml", changed(LORA_SCRIPTS, changes)))
    assert result.program == "lora-scripts"
    assert not differs(result, settings)
    assert {key: entries(result)[key].status for key in statuses} == statuses
    refused = {key for key, status in statuses.items() if status == "not supported"}
    assert {problem.key for problem in result.problems} == refused
    assert not any("abc123" in entry.line() for entry in result.entries)


WRONG = [
    ({"network_dim": "big"}, "network_dim"),
    ({"optimizer_args_custom": [["x"]]}, "optimizer_args_custom"),
    ({"ui_custom_params": "network_dim = ="}, "ui_custom_params"),
    ({"resolution": "large"}, "resolution"),
]


@pytest.mark.parametrize(("changes", "key"), WRONG)
def test_a_wrong_value_is_one_problem_with_its_line(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = written(tmp_path, "a.toml", changed(LORA_SCRIPTS, changes))
    (problem,) = conversion(path).problems
    assert problem.key == key and problem.where.startswith(f"{path}, line ")


REFUSED = [
    ("sd3-lora", "other-trainer-model", "Stable Diffusion 3"),
    ("lumina-lora", "other-trainer-model", "Lumina"),
    ("sd-dreambooth", "other-trainer-no-lora", "DreamBooth"),
    ("sdxl-finetune", "other-trainer-no-lora", "full fine-tuning"),
    ("tea", "other-trainer-no-lora", "tea"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "code", "name"), REFUSED)
def test_what_is_no_lora_of_ours(tmp_path: Path, kind: str, code: str, name: str) -> None:
    with pytest.raises(LoraSmithError) as caught:
        load_config(written(tmp_path, "a.toml", changed(LORA_SCRIPTS, {"model_train_type": kind})))
    assert caught.value.code == code and "lora-scripts" in str(caught.value) and name in str(caught.value)


def test_a_template_has_what_was_changed_in_the_window(tmp_path: Path) -> None:
    content = {"metadata": {"name": "soft", "author": "me", "train_type": "lora-basic"}, "data": {"network_dim": 64}}
    result = conversion(written(tmp_path, "a.toml", content))
    assert not result.problems and result.kind == "template"
    assert not differs(
        result, {"network.network_dim": 64, "network.network_alpha": 32.0, "training.learning_rate": 1e-4}
    )
    assert entries(result)["network_alpha"].text.startswith("not in the file")
