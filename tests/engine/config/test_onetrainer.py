"""OneTrainer's configurations: each key, its defaults, its concepts and samples, and what it has that is no LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig, load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.errors import LoraSmithError
from tests.engine.config.other_trainers import GONE, ONETRAINER, changed, conversion, differs, entries, written

SD15 = {"model_type": "STABLE_DIFFUSION_15"}
FLUX = {"model_type": "FLUX_DEV_1", "layer_filter_preset": "blocks", "text_encoder": {"train": False},
        "text_encoder_2": {"train": False}}  # fmt: skip
MINIMAL = {"training_method": "LORA", "text_encoder": {"train": False}, "text_encoder_2": {"train": False}}


def test_the_example(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "a.json", ONETRAINER))
    assert (config.model.family, config.saving.output_name, config.saving.output_dir) == ("sdxl", "ginkgo", "out")
    assert (config.network.network_dim, config.network.network_alpha, config.network.conv_dim) == (8, 4, None)
    assert (config.training.train_batch_size, config.training.max_train_epochs) == (2, 5)
    assert config.training.optimizer_args == ["weight_decay=0.1"]
    assert (config.training.lr_scheduler, config.training.lr_warmup_steps) == ("constant_with_warmup", 40)
    assert (config.dataset.train_data_dir, config.dataset.num_repeats, config.dataset.keep_tokens) == ("leaves", 3, 2)
    assert config.dataset.flip_aug and config.dataset.resolution == 768


def test_the_defaults_of_the_program(tmp_path: Path) -> None:
    result = conversion(written(tmp_path, "a.json", MINIMAL))
    assert not result.problems
    assert not differs(result, {
        "model.family": "sd15", "training.learning_rate": 3e-6, "training.max_train_epochs": 100,
        "training.lr_warmup_steps": 200, "network.network_dim": 16, "network.network_alpha": 1.0,
        "network.conv_dim": 16, "network.conv_alpha": 1.0, "memory.mixed_precision": "fp16",
        "saving.save_precision": "float", "memory.cache_latents_to_disk": True, "network.network_train_unet_only": True,
    })  # fmt: skip
    rows = entries(result)
    for key in (
        "learning_rate",
        "epochs",
        "learning_rate_warmup_steps",
        "lora_alpha",
        "output_dtype",
        "latent_caching",
    ):
        assert rows[key].status == "honoured" and rows[key].text.startswith("not in the file"), key
    assert rows["sample_after_unit"].status == "no effect"


CASES: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = [
    (SD15, {"model.family": "sd15"}, {"model_type": "honoured"}),
    ({**SD15, "text_encoder_layer_skip": 1}, {"model.clip_skip": 2}, {"text_encoder_layer_skip": "honoured"}),
    ({"text_encoder_layer_skip": 1}, {}, {"text_encoder_layer_skip": "not supported"}),
    ({"layer_filter_preset": "full"}, {"network.conv_dim": 8, "network.conv_alpha": 4.0}, {}),
    ({"layer_filter_preset": GONE}, {"network.conv_dim": 8}, {"layer_filter_preset": "honoured"}),
    ({"layer_filter_preset": "attn-only"}, {}, {"layer_filter_preset": "not supported"}),
    ({"layer_filter_preset": GONE, "lora_layer_preset": "attn-mlp"}, {"network.conv_dim": None},
     {"lora_layer_preset": "honoured"}),
    ({"peft_type": "LOKR", "layer_filter_preset": "full", "lokr_dim": 4, "lokr_decompose_factor": 8,
      "lokr_decompose_both": True, "lokr_use_tucker": True, "lokr_full_matrix": False, "lokr_vec_trick": True},
     {"network.algo": "lokr", "network.network_dim": 4, "network.network_alpha": 4.0, "network.conv_dim": 4,
      "network.factor": 8, "network.decompose_both": True, "network.use_tucker": True, "network.full_matrix": False},
     {"peft_type": "honoured", "lora_rank": "no effect", "lokr_vec_trick": "no effect"}),
    ({"peft_type": "LOKR", "lokr_full_matrix": True}, {"network.full_matrix": True, "network.network_dim": 16}, {}),
    ({"peft_type": "LOKR", "lokr_dim": 10000}, {"network.full_matrix": True, "network.network_dim": 1024},
     {"network_dim": "better"}),
    ({"peft_type": "LOKR", "lokr_decompose_factor": 32}, {}, {"lokr_decompose_factor": "not supported"}),
    ({"peft_type": "LOKR", "lokr_weight_decompose": True, "lokr_dora_on_output": True},
     {"network.algo": "lokr", "network.dora_wd": True, "network.wd_on_output": True},
     {"lokr_weight_decompose": "better", "lokr_dora_on_output": "honoured"}),
    ({"peft_type": "LOKR", "lokr_weight_decompose": False, "lora_decompose": True}, {"network.dora_wd": False},
     {"lokr_weight_decompose": "honoured", "lora_decompose": "no effect"}),
    ({"peft_type": "LORA", "lokr_weight_decompose": True, "lokr_dim": 4}, {"network.algo": "lora"},
     {"lokr_weight_decompose": "no effect", "lokr_dim": "no effect"}),
    ({"peft_type": "LOHA"}, {"network.algo": "loha", "network.network_dim": 8}, {"peft_type": "honoured"}),
    ({"peft_type": "LOHA", "dropout_probability": 0.1}, {}, {"dropout_probability": "not supported"}),
    ({"dropout_probability": 0.1}, {"network.network_dropout": 0.1}, {"dropout_probability": "honoured"}),
    ({"peft_type": "OFT_2"}, {}, {"peft_type": "not supported"}),
    ({**FLUX, "peft_type": "LOKR", "lokr_decompose_factor": 32}, {"network.factor": 32, "network.conv_dim": None}, {}),
    ({"tensorboard": True, "tensorboard_port": 6006}, {"logging.log_with": "tensorboard"},
     {"tensorboard": "honoured", "tensorboard_port": "no effect"}),
    ({"tensorboard": False}, {"logging.log_with": None}, {"tensorboard": "honoured"}),
    ({"lora_decompose": True}, {"network.dora_wd": True, "network.wd_on_output": False}, {"lora_decompose": "better"}),
    ({"lora_decompose": True, "lora_decompose_output_axis": True}, {"network.wd_on_output": True},
     {"lora_decompose_output_axis": "honoured"}),
    ({"lora_decompose": False, "lora_decompose_output_axis": True}, {"network.dora_wd": False},
     {"lora_decompose": "honoured", "lora_decompose_output_axis": "no effect"}),
    (FLUX, {"model.family": "flux", "network.network_train_unet_only": True, "flux.t5xxl_max_token_length": 77,
            "flow.timestep_sampling": "uniform"}, {"text_encoder_2.train": "honoured"}),
    ({**FLUX, "text_encoder_2": {"train": True}}, {}, {"text_encoder_2.train": "not supported"}),
    ({**FLUX, "text_encoder_2": GONE}, {}, {"text_encoder_2.train": "no effect"}),
    ({**FLUX, "timestep_distribution": "LOGIT_NORMAL", "noising_weight": 0.5},
     {"flow.timestep_sampling": "sigmoid", "flow.sigmoid_scale": 1.5}, {}),
    ({**FLUX, "timestep_distribution": "LOGIT_NORMAL", "timestep_shift": 3.0},
     {"flow.timestep_sampling": "shift", "flow.discrete_flow_shift": 3.0}, {}),
    ({**FLUX, "timestep_distribution": "LOGIT_NORMAL", "dynamic_timestep_shifting": True},
     {"flow.timestep_sampling": "flux_shift"}, {"dynamic_timestep_shifting": "honoured"}),
    ({**FLUX, "dynamic_timestep_shifting": True}, {}, {"dynamic_timestep_shifting": "not supported"}),
    ({**FLUX, "transformer": {"weight_dtype": "NFLOAT_4", "guidance_scale": 1.0}},
     {"memory.base_precision": "nf4", "flux.guidance_scale": 1.0}, {}),
    ({**FLUX, "prior": {"train": True, "weight_dtype": "FLOAT_8"}}, {"memory.base_precision": "fp8"}, {}),
    ({**FLUX, "prior": {"train": True, "weight_dtype": "FLOAT_W8A8"}}, {"memory.base_precision": "fp8_w8a8"}, {}),
    ({**FLUX, "prior": {"train": True, "weight_dtype": "INT_W8A8"}}, {"memory.base_precision": "int8_w8a8"}, {}),
    ({**FLUX, "offset_noise_weight": 0.1}, {}, {"offset_noise_weight": "not supported"}),
    ({"timestep_distribution": "SIGMOID"}, {}, {"timestep_distribution": "not supported"}),
    ({"timestep_distribution": "LOGIT_NORMAL"}, {}, {"timestep_distribution": "not supported"}),
    ({"offset_noise_weight": 0.05}, {"training.noise_offset": 0.05}, {}),
    ({"min_noising_strength": 0.1, "max_noising_strength": 0.9},
     {"training.min_timestep": 100, "training.max_timestep": 900}, {}),
    ({"unet": {"train": False}}, {"network.network_train_text_encoder_only": True}, {"unet.train": "honoured"}),
    ({"text_encoder": {"train": False}, "text_encoder_2": {"train": False}},
     {"network.network_train_unet_only": True}, {}),
    ({"text_encoder": {"train": True}, "text_encoder_2": {"train": False}},
     {"training.text_encoder_lr": [3e-4, 0.0], "network.network_train_unet_only": False},
     {"text_encoder_2.train": "honoured"}),
    ({"text_encoder": {"train": False, "learning_rate": 9.0}, "text_encoder_2": {"train": True, "learning_rate": 1e-5}},
     {"training.text_encoder_lr": [0.0, 1e-5]}, {"text_encoder.learning_rate": "no effect"}),
    ({"train_text_encoder": True, "text_encoder_learning_rate": 1e-5}, {"training.text_encoder_lr": [1e-5, 3e-4]}, {}),
    ({"train_text_encoder": False, "train_text_encoder_2": False}, {"network.network_train_unet_only": True}, {}),
    ({"unet": {"learning_rate": 1e-3}, "text_encoder": {"learning_rate": 1e-5},
      "text_encoder_2": {"learning_rate": 1e-5}},
     {"training.unet_lr": 1e-3, "training.text_encoder_lr": 1e-5}, {"text_encoder.learning_rate": "honoured"}),
    ({"text_encoder": {"learning_rate": 1e-5}, "text_encoder_2": {"learning_rate": 2e-5}},
     {"training.text_encoder_lr": [1e-5, 2e-5]}, {"text_encoder_2.learning_rate": "honoured"}),
    ({"unet_learning_rate": 1e-3}, {"training.unet_lr": 1e-3}, {}),
    ({"optimizer": {"optimizer": "ADAFACTOR"}}, {"training.optimizer_type": "Adafactor", "training.optimizer_args": [
        "scale_parameter=False", "relative_step=False", "warmup_init=False"]}, {}),
    ({"optimizer": {"optimizer": "ADAMW", "beta1": 0.8, "eps": 1e-7, "fused": True, "stochastic_rounding": None}},
     {"training.optimizer_args": ["eps=1e-07", "betas=0.8,0.999"]}, {"optimizer.fused": "no effect"}),
    ({"optimizer": "ADAM"}, {"training.optimizer_type": "Adam"}, {}),
    ({"optimizer": {"optimizer": "CAME", "eps": 1e-30, "eps2": 1e-15, "beta3": 0.999, "use_cautious": False}},
     {"training.optimizer_type": "pytorch_optimizer.CAME",
      "training.optimizer_args": ["eps1=1e-30", "eps2=1e-15", "betas=0.9,0.999,0.999"]},
     {"optimizer.optimizer": "honoured", "optimizer.use_cautious": "no effect"}),
    ({"optimizer": {"optimizer": "CAME", "use_cautious": True}}, {}, {"optimizer.use_cautious": "not supported"}),
    ({"optimizer": {"optimizer": "DADAPT_LION", "d0": 1e-5}},
     {"training.optimizer_type": "DAdaptLion", "training.optimizer_args": ["d0=1e-05", "betas=0.9,0.999"]}, {}),
    ({"optimizer": {"optimizer": "ADAM_8BIT"}}, {"training.optimizer_type": "Adam"}, {}),
    ({"optimizer": {"optimizer": "ADAMW_ADV"}}, {}, {"optimizer.optimizer": "not supported"}),
    ({"optimizer": {"optimizer": "MUON"}}, {}, {"optimizer.optimizer": "not supported"}),
    ({"learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 0.05},
     {"training.lr_scheduler": "cosine", "training.lr_warmup_steps": 0.05}, {}),
    ({"learning_rate_scheduler": "COSINE", "learning_rate_min_factor": 0.1},
     {"training.lr_scheduler": "cosine_with_min_lr", "training.lr_scheduler_min_lr_ratio": 0.1}, {}),
    ({"learning_rate_scheduler": "LINEAR", "learning_rate_min_factor": 0.1}, {},
     {"learning_rate_min_factor": "not supported"}),
    ({"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS", "learning_rate_cycles": 3.0},
     {"training.lr_scheduler": "cosine_with_restarts", "training.lr_scheduler_num_cycles": 3}, {}),
    ({"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS", "learning_rate_cycles": 1.5}, {},
     {"learning_rate_cycles": "not supported"}),
    ({"learning_rate_scheduler": "REX"}, {}, {"learning_rate_scheduler": "not supported"}),
    ({"learning_rate_warmup_steps": 0}, {"training.lr_scheduler": "constant"},
     {"learning_rate_warmup_steps": "honoured"}),
    ({"learning_rate_warmup_steps": 1}, {}, {"learning_rate_warmup_steps": "not supported"}),
    ({"gradient_accumulation_steps": 4},
     {"training.gradient_accumulation_steps": 4, "training.lr_warmup_steps": 10}, {}),
    ({"mse_strength": 0.0, "huber_strength": 1.0, "huber_delta": 0.3},
     {"training.loss_type": "huber", "training.huber_c": 0.3, "training.huber_schedule": "constant"}, {}),
    ({"mae_strength": 1.0}, {}, {"mae_strength": "not supported"}),
    ({"loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 5}, {"training.min_snr_gamma": 5.0}, {}),
    ({"loss_weight_fn": "DEBIASED_ESTIMATION"}, {"training.debiased_estimation_loss": True}, {}),
    ({"loss_weight_fn": "P2"}, {}, {"loss_weight_fn": "not supported"}),
    ({"force_v_prediction": True, "rescale_noise_scheduler_to_zero_terminal_snr": True},
     {"model.v_parameterization": True, "model.zero_terminal_snr": True}, {}),
    ({"latent_caching": False}, {"memory.cache_latents": False, "memory.cache_latents_to_disk": False}, {}),
    ({"gradient_checkpointing": "CPU_OFFLOADED"}, {"memory.gradient_checkpointing": True,
                                                   "memory.cpu_offload_checkpointing": True}, {}),
    ({"gradient_checkpointing": "OFF"}, {"memory.gradient_checkpointing": False}, {}),
    ({"unet": {"offload_fraction": 0.5}}, {"memory.split_mode": True}, {}),
    ({"save_every": 50, "save_every_unit": "STEP"},
     {"saving.save_every_n_steps": 50, "saving.save_every_n_epochs": 0}, {}),
    ({"save_every": GONE, "save_every_unit": GONE, "save_after": 2, "save_after_unit": "EPOCH"},
     {"saving.save_every_n_epochs": 2}, {}),
    ({"save_every_unit": "HOUR"}, {}, {"save_every_unit": "no effect", "save_every": "no effect"}),
    ({"sample_after": 3, "sample_after_unit": "EPOCH"}, {"sampling.sample_every_n_epochs": 3}, {}),
    ({"samples": [{"prompt": "a leaf", "negative_prompt": "blur", "seed": 3, "cfg_scale": 5.0,
      "noise_scheduler": "EULER"},
                  {"prompt": "off", "enabled": False}, {"prompt": ""}]},
     {"sampling.sample_prompts": ["a leaf --n blur --w 512 --h 512 --d 3 --s 20 --l 5 --ss euler"]},
     {"samples": "honoured"}),
    ({"concepts": [{"path": "a", "enabled": False}]}, {"dataset.train_data_dir": ""},
     {"concepts[0].path": "no effect"}),
    ({"concepts": [{"path": "a"}, {"path": "v", "type": "VALIDATION"}]},
     {"dataset.train_data_dir": "a", "dataset.validation_data_dir": "v"}, {}),
    ({"concepts": [{"path": "a", "type": "PRIOR_PREDICTION"}]}, {}, {"concepts[0].type": "not supported"}),
    ({"concepts": [{"path": "a", "include_subdirectories": True}]}, {},
     {"concepts[0].include_subdirectories": "not supported"}),
    ({"concepts": [{"path": "a", "balancing": 0.5}]}, {}, {"concepts[0].balancing": "not supported"}),
    ({"concepts": [{"path": "a", "balancing_strategy": "SAMPLES"}]}, {},
     {"concepts[0].balancing_strategy": "not supported"}),
    ({"concepts": [{"path": "a", "text": {"prompt_source": "filename"}}]}, {},
     {"concepts[0].text.prompt_source": "not supported"}),
    ({"concepts": [{"path": "a", "text": {"tag_dropout_enable": True, "tag_dropout_mode": "RANDOM",
                                          "tag_dropout_probability": 0.2, "enable_tag_shuffling": True}}]},
     {"dataset.caption_tag_dropout_rate": 0.2, "dataset.shuffle_caption": True}, {}),
    ({"concepts": [{"path": "a", "image": {"enable_random_flip": False, "enable_resolution_override": True,
                                           "resolution_override": "640x512"}}]},
     {"dataset.flip_aug": False, "dataset.resolution": [640, 512]}, {}),
    ({"concepts": [{"path": "a", "image": {"enable_random_hue": True}}]}, {},
     {"concepts[0].image.enable_random_hue": "not supported"}),
    ({"concept_file_name": "training_concepts/none.json", "concepts": GONE}, {}, {"concept_file_name": "no effect"}),
    ({"masked_training": True}, {}, {"masked_training": "not supported"}),
    ({"embedding": {"placeholder": "x"}, "ema": "GPU", "lerning_rate": 1}, {},
     {"embedding.placeholder": "no effect", "ema": "no effect", "lerning_rate": "no effect"}),
    ({"secrets": {"huggingface_token": "hf_abc"}, "cloud": {"enabled": False, "secrets": {"api_key": "sk"}}}, {},
     {"secrets.huggingface_token": "no effect"}),
    ({"resolution": "512,768"}, {}, {"resolution": "not supported"}),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "settings", "statuses"), CASES)
def test_a_key(tmp_path: Path, changes: dict[str, Any], settings: dict[str, Any], statuses: dict[str, str]) -> None:
    result = conversion(written(tmp_path, "a.json", changed(ONETRAINER, changes)))
    assert not differs(result, settings)
    assert {key: entries(result)[key].status for key in statuses} == statuses
    refused = {key for key, status in statuses.items() if status == "not supported"}
    assert {problem.key for problem in result.problems} == refused
    assert not any("hf_abc" in text or entry.value == "sk" for entry in result.entries for text in (entry.line(),))


WRONG = [
    ({"learning_rate": "fast"}, "learning_rate"),
    ({"epochs": 1.5}, "epochs"),
    ({"optimizer": 3}, "optimizer"),
    ({"optimizer": {"optimizer": "ADAMWW"}}, "optimizer.optimizer"),
    ({"optimizer": {"optimizer": "ADAMW", "eps": "small"}}, "optimizer.eps"),
    ({"unet": 3}, "unet"),
    ({"concepts": {"path": "x"}}, "concepts"),
    ({"concepts": [3]}, "concepts[0]"),
    ({"concepts": [{"name": "x"}]}, "concepts[0].path"),
    ({"samples": [3]}, "samples[0]"),
    ({"resolution": [512]}, "resolution"),
    ({"gradient_checkpointing": "SOME"}, "gradient_checkpointing"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "key"), WRONG)
def test_a_wrong_value_is_one_problem_with_its_line(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(changed(ONETRAINER, changes), indent=1))
    (problem,) = conversion(path).problems
    assert problem.key == key and problem.where.startswith(f"{path}, line ")


REFUSED = [
    ({"model_type": "STABLE_DIFFUSION_35"}, "other-trainer-model", "Stable Diffusion 3.5"),
    ({"model_type": "PIXART_SIGMA"}, "other-trainer-model", "PixArt Sigma"),
    ({"model_type": "WUERSTCHEN_2"}, "other-trainer-model", "Würstchen"),
    ({"model_type": "STABLE_DIFFUSION_15_INPAINTING"}, "other-trainer-model", "inpainting"),
    ({"model_type": "MODEL_OF_TOMORROW"}, "other-trainer-model", "MODEL_OF_TOMORROW"),
    ({"training_method": "FINE_TUNE"}, "other-trainer-no-lora", "full fine-tuning"),
    ({"training_method": GONE}, "other-trainer-no-lora", "full fine-tuning"),
    ({"training_method": "EMBEDDING"}, "other-trainer-no-lora", "textual inversion"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "code", "name"), REFUSED)
def test_what_is_no_lora_of_ours(tmp_path: Path, changes: dict[str, Any], code: str, name: str) -> None:
    with pytest.raises(LoraSmithError) as caught:
        load_config(written(tmp_path, "a.json", changed(ONETRAINER, changes)))
    assert caught.value.code == code and "OneTrainer" in str(caught.value) and name in str(caught.value)


def test_concepts_and_samples_in_files_of_their_own(tmp_path: Path) -> None:
    for folder in ("training_concepts", "training_samples", "training_presets"):
        (tmp_path / folder).mkdir()
    concepts = [
        {"path": "a", "balancing": 2.0, "image_variations": 1},
        {"path": "b", "image": {"enable_random_flip": False}},
    ]
    written(tmp_path / "training_concepts", "concepts.json", concepts)
    written(tmp_path / "training_samples", "samples.json", [{"prompt": "a leaf", "random_seed": True}])
    content = changed(ONETRAINER, {
        "concepts": GONE, "concept_file_name": "training_concepts/concepts.json",
        "sample_definition_file_name": "training_samples\\samples.json",
    })  # fmt: skip
    path = written(tmp_path / "training_presets", "a.json", content)
    config = load_config(path)
    assert config.sampling.sample_prompts == ["a leaf --w 512 --h 512 --s 20 --l 7 --ss ddim"]
    for file in (Path(str(config.dataset.dataset_config)), tmp_path / "training_concepts" / "concepts.json"):
        subsets = read_dataset_config(file, RunConfig())[0]
        assert [(item.image_dir, item.num_repeats, item.table.flip_aug) for item in subsets] == [
            ("a", 2, True),
            ("b", 1, False),
        ]


def test_a_list_alone_is_named(tmp_path: Path) -> None:
    concepts = written(tmp_path, "c.json", [{"path": "a", "balancing": 1.0, "image_variations": 1}])
    samples = written(tmp_path, "s.json", [{"prompt": "a", "cfg_scale": 7.0, "diffusion_steps": 20}])
    for path in (concepts, samples):
        with pytest.raises(LoraSmithError) as caught:
            load_config(path)
        assert caught.value.code == "other-trainer-not-converted" and "OneTrainer" in str(caught.value)
