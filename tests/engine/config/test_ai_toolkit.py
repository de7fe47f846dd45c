"""ai-toolkit's configurations: each key, its defaults, its datasets, and what it has that is no LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.errors import LoraSmithError
from tests.engine.config.other_trainers import AI_TOOLKIT, GONE, changed, conversion, differs, entries, written

PROCESS = "config.process.0."
FLUX = {"model.arch": "flux", "train.noise_scheduler": "flowmatch", "train.train_text_encoder": False}


def test_the_example(tmp_path: Path) -> None:
    path = written(tmp_path, "a.yaml", AI_TOOLKIT)
    config = load_config(path)
    assert (config.model.family, config.saving.output_name, config.saving.output_dir) == (
        "sdxl",
        "ginkgo",
        "out/ginkgo",
    )
    assert (config.network.network_dim, config.network.network_alpha) == (8, 4)
    assert (config.training.train_batch_size, config.training.max_train_steps, config.training.learning_rate) == (
        2,
        300,
        2e-4,
    )
    assert (config.saving.save_every_n_steps, config.saving.save_last_n_steps, config.saving.save_every_n_epochs) == (
        100,
        200,
        0,
    )
    assert str(config.dataset.train_data_dir) == "leaves" and config.dataset.bucket_no_upscale
    assert config.sampling.sample_prompts == [
        "a leaf --n blur --w 768 --h 512 --d 5 --s 12 --l 6",
        "a {trigger} tree --n blur --w 768 --h 512 --d 6 --s 12 --l 6",
    ]  # fmt: skip


CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    # changes, settings, statuses of keys
    ({"model.arch": GONE}, {"model.family": "sd15"}, {"model.arch": "honoured"}),
    ({"model.arch": GONE, "model.is_xl": True}, {"model.family": "sdxl"}, {"model.is_xl": "honoured"}),
    ({"model.arch": "SDXL:refined"}, {"model.family": "sdxl"}, {}),
    (FLUX, {"model.family": "flux", "network.network_alpha": 8.0, "flow.timestep_sampling": "sigmoid",
            "network.network_train_unet_only": True},
     {"network.linear_alpha": "no effect", "train.timestep_type": "honoured", "sample.neg": "no effect"}),
    ({**FLUX, "train.timestep_type": "linear"}, {"flow.timestep_sampling": "uniform"}, {}),
    ({**FLUX, "train.timestep_type": "weighted"}, {}, {"train.timestep_type": "not supported"}),
    ({**FLUX, "train.noise_scheduler": "ddpm"}, {}, {"train.noise_scheduler": "not supported"}),
    ({**FLUX, "train.train_text_encoder": True}, {}, {"train.train_text_encoder": "not supported"}),
    ({**FLUX, "model.quantize": True}, {"memory.base_precision": "fp8"}, {"model.qtype": "honoured"}),
    ({**FLUX, "model.quantize": True, "model.qtype": "uint4"}, {"memory.base_precision": "nf4"}, {}),
    ({**FLUX, "model.vae_path": "ae.safetensors"}, {"flux.ae": "ae.safetensors"}, {"model.vae_path": "honoured"}),
    ({"model.vae_path": "v.safetensors"}, {"model.vae": "v.safetensors"}, {}),
    ({"model.qtype": "int8"}, {}, {"model.qtype": "no effect"}),
    ({"model.is_v_pred": True}, {"model.v_parameterization": True}, {}),
    ({"network.linear": GONE, "network.rank": 6}, {"network.network_dim": 6}, {"network.rank": "honoured"}),
    ({"network.linear_alpha": GONE}, {"network.network_alpha": 1.0}, {}),
    ({"network.conv": 4}, {"network.conv_dim": 4, "network.conv_alpha": 4.0}, {}),
    ({"network.conv": 4, "network.conv_alpha": 2}, {"network.conv_alpha": 2.0}, {"network.conv_alpha": "honoured"}),
    ({"network.conv_alpha": 2}, {}, {"network.conv_alpha": "no effect"}),
    ({"network.type": "dora"}, {}, {"network.type": "not supported"}),
    ({"network.type": "lokr", "network.lokr_full_rank": True, "network.lokr_factor": 8, "network.conv": 4},
     {"network.algo": "lokr", "network.full_matrix": True, "network.factor": 8, "network.conv_dim": 16},
     {"network.linear": "no effect", "network.conv": "no effect", "network.lokr_full_rank": "honoured"}),
    ({**FLUX, "network.type": "lokr", "network.lokr_full_rank": True}, {"network.factor": -1, "network.conv_dim": None},
     {}),
    ({"network.type": "lokr", "network.lokr_full_rank": False, "network.conv": 4, "network.dropout": 0.1},
     {"network.algo": "lokr", "network.full_matrix": False, "network.network_dim": 8, "network.network_alpha": 4.0,
      "network.conv_dim": 4, "network.conv_alpha": 4.0}, {"network.dropout": "no effect"}),
    ({**FLUX, "network.type": "lokr", "network.lokr_full_rank": False}, {"network.network_alpha": 4.0},
     {"network.linear_alpha": "honoured"}),
    ({"network.type": "lokr", "network.lokr_full_rank": True, "network.lokr_factor": 32}, {},
     {"network.lokr_factor": "not supported"}),
    ({"network.lokr_full_rank": True, "network.lokr_factor": -1}, {"network.algo": "lora"},
     {"network.lokr_full_rank": "no effect", "network.lokr_factor": "no effect"}),
    ({"network.type": "loha"}, {}, {"network.type": "not supported"}),
    ({"log_dir": "tb"}, {"logging.logging_dir": "tb", "logging.log_with": None}, {"log_dir": "honoured"}),
    ({"logging": {"use_wandb": True, "run_name": "one", "log_every": 5}},
     {"logging.log_with": "wandb", "logging.log_tracker_name": "ai-toolkit", "logging.wandb_run_name": "one"},
     {"logging.use_wandb": "honoured", "logging.log_every": "no effect"}),
    ({"logging": {"use_wandb": False, "project_name": "p"}}, {"logging.log_with": None},
     {"logging.use_wandb": "honoured", "logging.project_name": "no effect"}),
    ({"train.optimizer": "dadaptation", "train.lr": 1e-4},
     {"training.optimizer_type": "DAdaptAdam", "training.learning_rate": 1.0,
      "training.optimizer_args": ["eps=1e-06"]}, {}),
    ({"train.optimizer": "prodigy8bit"}, {"training.optimizer_type": "Prodigy"}, {"train.optimizer": "better"}),
    ({"network.network_kwargs": {"only_if_contains": ["attn"]}}, {},
     {"network.network_kwargs.only_if_contains": "not supported"}),
    ({"train.lr": GONE}, {"training.learning_rate": 1e-6}, {"train.lr": "honoured"}),
    ({"train.steps": GONE}, {"training.max_train_steps": 1000}, {"train.steps": "honoured"}),
    ({"train.dtype": GONE}, {"memory.mixed_precision": "no"}, {"train.dtype": "honoured"}),
    ({"save.save_every": GONE}, {"saving.save_every_n_steps": 1000, "saving.save_last_n_steps": 2000}, {}),
    ({"save.max_step_saves_to_keep": 1}, {"saving.save_last_n_steps": 1}, {}),
    ({"train.gradient_accumulation": 4},
     {"training.gradient_accumulation_steps": 4, "training.max_train_steps": 300}, {}),
    ({"train.gradient_accumulation_steps": 4},
     {"training.gradient_accumulation_steps": 4, "training.max_train_steps": 75}, {}),
    ({"train.gradient_accumulation_steps": -1}, {}, {"train.gradient_accumulation_steps": "not supported"}),
    ({"train.optimizer": "prodigy"}, {"training.optimizer_type": "Prodigy", "training.learning_rate": 1.0}, {}),
    ({"train.optimizer": "adafactor"},
     {"training.optimizer_args": ["scale_parameter=False", "relative_step=False", "warmup_init=False"]}, {}),
    ({"train.optimizer_params": {"weight_decay": 0.1}},
     {"training.optimizer_args": ["weight_decay=0.1", "eps=1e-06"]}, {"train.optimizer_params": "honoured"}),
    ({"train.optimizer_params": {"eps": 1e-8}}, {"training.optimizer_args": ["eps=1e-08"]}, {}),
    ({"train.optimizer": "automagic"}, {}, {"train.optimizer": "not supported"}),
    ({"train.lr_scheduler": "constant_with_warmup"}, {"training.lr_warmup_steps": 1000}, {}),
    ({"train.lr_scheduler": "constant_with_warmup", "train.lr_scheduler_params": {"num_warmup_steps": 20}},
     {"training.lr_warmup_steps": 20}, {"train.lr_scheduler_params.num_warmup_steps": "honoured"}),
    ({"train.lr_scheduler": "cosine", "train.lr_scheduler_params": {"eta_min": 2e-5, "T_max": 9, "q": 1}},
     {"training.lr_scheduler": "cosine_with_min_lr", "training.lr_scheduler_min_lr_ratio": 0.1},
     {"train.lr_scheduler_params.T_max": "no effect", "train.lr_scheduler_params.q": "no effect"}),
    ({"train.lr_scheduler": "linear"}, {}, {"train.lr_scheduler": "not supported"}),
    ({"train.train_unet": False}, {"network.network_train_text_encoder_only": True}, {}),
    ({"train.train_text_encoder": GONE}, {"network.network_train_unet_only": True}, {}),
    ({"train.unet_lr": 1e-3, "train.text_encoder_lr": 1e-5},
     {"training.unet_lr": 1e-3, "training.text_encoder_lr": 1e-5}, {}),
    ({"train.noise_offset": 0.05}, {"training.noise_offset": 0.05}, {}),
    ({"train.noise_offset": 0.0}, {"training.noise_offset": None}, {"train.noise_offset": "honoured"}),
    ({"train.min_snr_gamma": 5}, {"training.min_snr_gamma": 5.0}, {}),
    ({**FLUX, "train.min_snr_gamma": 5}, {}, {"train.min_snr_gamma": "no effect"}),
    ({"train.loss_type": "mae"}, {"training.loss_type": "l1"}, {}),
    ({"train.loss_type": "wavelet"}, {}, {"train.loss_type": "not supported"}),
    ({"train.diff_output_preservation": True}, {}, {"train.diff_output_preservation": "not supported"}),
    ({"train.diff_output_preservation": False}, {}, {"train.diff_output_preservation": "honoured"}),
    ({"train.content_or_style": "style"}, {}, {"train.content_or_style": "not supported"}),
    ({"train.disable_sampling": True}, {"sampling.sample_every_n_steps": 0, "sampling.sample_at_first": False},
     {"sample.sample_every": "no effect"}),
    ({"train.skip_first_sample": True}, {"sampling.sample_at_first": False}, {}),
    ({"sample.sampler": "k_dpm_2"}, {"sampling.sample_sampler": "k_dpm_2"}, {}),
    ({"sample.walk_seed": False, "sample.prompts": ["x"]},
     {"sampling.sample_prompts": ["x --n blur --w 768 --h 512 --d 5 --s 12 --l 6"]}, {}),
    ({"sample.samples": [{"prompt": "x", "width": 512, "seed": 9, "neg": "", "ctrl_img": "c.png"}]},
     {"sampling.sample_prompts": ["x --w 512 --h 512 --d 9 --s 12 --l 6"]},
     {"sample.samples[0].ctrl_img": "no effect", "sample.prompts": "honoured"}),
    ({"trigger_word": "gnk"}, {"dataset.class_tokens": "gnk"}, {"trigger_word": "honoured"}),
    ({"datasets.0.caption_ext": GONE}, {"dataset.caption_extension": ".txt"}, {}),
    ({"datasets.0.caption_ext": ".caption"}, {"dataset.caption_extension": ".caption"}, {}),
    ({"datasets.0.resolution": GONE}, {"dataset.resolution": 512}, {}),
    ({"datasets.0.shuffle_tokens": True, "datasets.0.caption_dropout_rate": 0.1, "datasets.0.flip_x": True},
     {"dataset.shuffle_caption": True, "dataset.caption_dropout_rate": 0.1, "dataset.flip_aug": True}, {}),
    ({"datasets.0.cache_latents_to_disk": True}, {"memory.cache_latents_to_disk": True}, {}),
    ({"datasets.0.mask_path": "m"}, {}, {"datasets[0].mask_path": "not supported"}),
    ({"datasets.0.control_path": "m"}, {}, {"datasets[0].control_path": "not supported"}),
    ({"datasets.0.num_frames": 41}, {}, {"datasets[0].num_frames": "not supported"}),
    ({"datasets.0.folder_path": GONE, "datasets.0.dataset_path": "d"}, {"dataset.train_data_dir": "d"}, {}),
    ({"train.shedule": 1}, {}, {"train.shedule": "no effect"}),
    ({"save.hf_repo_id": "me/x", "save.push_to_hub": True}, {}, {"save.push_to_hub": "no effect"}),
    ({"sqlite_db_path": "x.db", "performance_log_every": 10}, {}, {"sqlite_db_path": "no effect"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "settings", "statuses"), CASES)
def test_a_key(tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], statuses: dict[str, str]) -> None:
    result = conversion(written(tmp_path, "a.yaml", changed(AI_TOOLKIT, changes, PROCESS)))
    assert not differs(result, settings)
    got = {key: entries(result)[key].status for key in statuses}
    assert got == statuses
    refused = {key for key, status in statuses.items() if status == "not supported"}
    assert {problem.key for problem in result.problems} == refused


WRONG = [
    ({"network.linear": GONE}, "network.linear"),
    ({"network.linear": "many"}, "network.linear"),
    ({"network.type": "lokr"}, "network.lokr_full_rank"),
    ({"train.lr": "1e-4x"}, "train.lr"),
    ({"train.optimizer": "adamv"}, "train.optimizer"),
    ({"train.optimizer_params": [1]}, "train.optimizer_params"),
    ({"train.lr_scheduler_params": {"num_warmup_steps": "x"}}, "train.lr_scheduler_params.num_warmup_steps"),
    ({"train": 3}, "train"),
    ({"datasets": {}}, "datasets"),
    ({"datasets": ["x"]}, "datasets[0]"),
    ({"datasets.0.folder_path": GONE}, "datasets[0].folder_path"),
    ({"datasets.0.resolution": []}, "datasets[0].resolution"),
    ({"datasets.0.resolution": [512, "big"]}, "datasets[0].resolution"),
    ({"datasets.0.folder_path": "a\tb"}, "datasets[0].folder_path"),
    ({"model.name_or_path": "${MODEL}/xl"}, "model.name_or_path"),
    ({"sample.prompts": [5]}, "sample.prompts[0]"),
    ({"sample.samples": [{"prompt": "x", "width": "wide"}]}, "sample.samples[0].width"),
    ({"sample.neg": ["x"]}, "sample.neg"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key"), WRONG)
def test_a_wrong_value_is_one_problem_with_its_line(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = written(tmp_path, "a.yaml", changed(AI_TOOLKIT, changes, PROCESS))
    (problem,) = conversion(path).problems
    assert problem.key == key and problem.where.startswith(str(path))


REFUSED = [
    ({"model.arch": "wan21"}, "other-trainer-model", "Wan"),
    ({"model.arch": "qwen_image"}, "other-trainer-model", "Qwen-Image"),
    ({"model.arch": "flux2_klein_4b"}, "other-trainer-model", "flux2_klein_4b"),
    ({"model.arch": GONE, "model.is_v3": True}, "other-trainer-model", "Stable Diffusion 3"),
    ({**FLUX, "model.name_or_path": "bfl/FLUX.1-Kontext-dev"}, "other-trainer-model", "Kontext"),
    ({"network": GONE}, "other-trainer-no-lora", "full fine-tuning"),
    ({"network": GONE, "embedding": {"tokens": 8}}, "other-trainer-no-lora", "textual inversion"),
    ({"network": GONE, "adapter": {"type": "ip"}}, "other-trainer-no-lora", "IP-Adapter"),
    ({"type": "slider"}, "other-trainer-no-lora", "slider"),
    ({"type": "my_own"}, "other-trainer-no-lora", "my_own"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code", "name"), REFUSED)
def test_what_is_no_lora_of_ours(tmp_path: Path, changes: dict[str, Any], code: str, name: str) -> None:
    path = written(tmp_path, "a.yaml", changed(AI_TOOLKIT, changes, PROCESS))
    with pytest.raises(LoraSmithError) as caught:
        load_config(path)
    assert caught.value.code == code and "ai-toolkit" in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("job", ["generate", "extract", "train"])
def test_jobs_without_a_training(tmp_path: Path, job: str) -> None:
    content = changed(AI_TOOLKIT, {"job": job, "config.process": []})
    with pytest.raises(LoraSmithError) as caught:
        load_config(written(tmp_path, "a.yaml", content))
    assert caught.value.code == "other-trainer-no-lora"


def test_only_the_first_of_several_trainings_is_converted(tmp_path: Path) -> None:
    process = AI_TOOLKIT["config"]["process"][0]
    content = changed(AI_TOOLKIT, {"config.process": [{"type": "generate"}, process, process]})
    result = conversion(written(tmp_path, "a.yaml", content))
    rows = entries(result)
    assert {key: rows[key].status for key in ("process[0]", "process[2]")} == dict.fromkeys(
        ("process[0]", "process[2]"), "no effect"
    )
    assert not result.problems and result.values["training"]["max_train_steps"] == 300


def test_several_resolutions_and_folders_are_a_dataset_configuration(tmp_path: Path) -> None:
    content = changed(AI_TOOLKIT, {
        "config.process.0.datasets": [
            {"folder_path": "a", "resolution": [512, 768]}, {"folder_path": "b", "resolution": 512, "num_repeats": 2},
            {"folder_path": "r", "is_reg": True, "resolution": [512]},
        ]})  # fmt: skip
    path = written(tmp_path, "a.yaml", content)
    config = load_config(path)
    assert str(config.dataset.dataset_config) == str(path) and not config.dataset.train_data_dir
    subsets = read_dataset_config(path, RunConfig())[0]
    got = [(item.image_dir, item.table.resolution, item.num_repeats, item.is_reg, item.dataset) for item in subsets]
    assert got == [("a", 512, 1, False, 0), ("b", 512, 2, False, 0), ("r", 512, 1, True, 0), ("a", 768, 1, False, 1)]
    assert all(item.batch_size == 2 and item.table.bucket_no_upscale for item in subsets)


def test_yaml_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "train.yml"
    path.write_bytes(
        b'\xef\xbb\xbf---\njob: extension  # a comment\nconfig:\n  name: "gnk_v1"\n  process:\n'
        b"    - type: 'sd_trainer'\n"
        b'      training_folder: "D:\\\\loras"\n'
        b"      network:\n        type: lora\n        linear: 4\n        linear_alpha: 4\n"
        b"      datasets:\n        - folder_path: C:\\images\\gnk\n          resolution: [ 512 ]\n"
        b"      train:\n        lr: 1e-4\n        steps: 10 # few\n        dtype: fp16\n"
        b"      model:\n        name_or_path: runwayml/sd15\nmeta:\n  name: \"[name]\"\n  version: '1.0'\n"
    )
    result = conversion(path)
    assert not result.problems and result.program == "ai-toolkit"
    assert result.values["dataset"]["train_data_dir"] == r"C:\images\gnk"
    assert result.places["training.learning_rate"] == f"{path}, line 16 (train.lr)"
    assert "Windows" in entries(result)["datasets[0].folder_path"].text
    assert result.values["saving"]["output_dir"] == "D:\\loras/gnk_v1"
