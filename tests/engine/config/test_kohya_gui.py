"""Configurations of three versions of the kohya_ss GUI: what each key comes to, under its own name, and nothing unsaid.

The fixtures are configurations as the versions 21, 24 and 25 write them, with types as they occur there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, load_config
from engine.config.conversion import Conversion
from engine.config.kohya.gui import convert_gui

FIXTURES = Path(__file__).parent / "fixtures"
VERSIONS = ("v21", "v24", "v25")


def content(version: str, **changes: Any) -> dict[str, Any]:
    conversion: dict[str, Any] = json.loads((FIXTURES / f"kohya_gui_{version}.json").read_text())
    return conversion | changes


def results(conversion: Conversion) -> dict[str, tuple[str, str]]:
    return {entry.key: (entry.status, entry.text) for entry in conversion.entries}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_key_is_reported_under_its_own_name(version: str) -> None:
    gui_file = content(version)
    conversion = convert_gui(gui_file)
    keys = [entry.key for entry in conversion.entries]
    assert len(keys) == len(set(keys)), "once"
    assert set(keys) | set(conversion.unset) == set(gui_file)
    assert not conversion.problems and all(not gui_file[key] or gui_file[key] == "0" for key in conversion.unset)


def test_version_21() -> None:
    config = load_config(FIXTURES / "kohya_gui_v21.json")
    assert (config.dataset.size, config.training.train_batch_size, config.training.max_train_epochs) == (
        (512, 650),
        3,
        4,
    )
    assert (config.training.unet_lr, config.training.text_encoder_lr) == (1e-4, 5e-5)
    assert (config.network.network_dim, config.network.network_alpha, config.network.conv_dim) == (128, 128, None)
    assert (config.training.lr_scheduler, config.training.lr_warmup_steps) == ("constant", 0)
    assert (config.training.noise_offset, config.training.min_snr_gamma, config.model.clip_skip) == (0.05, 5, 2)
    assert (config.dataset.caption_dropout_rate, config.training.seed) == (0.1, 1234)
    assert (config.sampling.sample_every_n_epochs, config.network.scale_weight_norms) == (1, None)
    assert config.training.optimizer_args == ["weight_decay=0.1"] and config.memory.mixed_precision == "bf16"


def test_version_24() -> None:
    config = load_config(FIXTURES / "kohya_gui_v24.json")
    assert (config.model.family, config.dataset.size, config.model.no_half_vae) == ("sdxl", (1024, 1024), True)
    assert (config.network.conv_dim, config.network.conv_alpha, config.network.scale_weight_norms) == (8, 1, 1)
    assert config.training.max_grad_norm == 0, "additional_parameters have the last word, and are not dropped"
    assert (config.training.max_train_steps, config.training.lr_warmup_steps) == (1600, 0.1)
    assert (config.dataset.shuffle_caption, config.dataset.keep_tokens, config.model.max_token_length) == (True, 1, 225)
    assert (config.training.noise_offset, config.training.multires_noise_iterations) == (0.0357, None)
    assert config.sampling.sample_prompts == ["a castle --w 1024 --h 1024", "a dog in style --d 5"]
    assert results(convert_gui(content("v24")))["lr_warmup"] == ("honoured", "percent")


def test_version_25() -> None:
    config = load_config(FIXTURES / "kohya_gui_v25.json")
    assert (config.model.family, config.dataset.dataset_config) == ("flux", "/d/dataset.toml")
    assert config.flow.timestep_sampling == "sigmoid" and config.flow.weighting_scheme == "uniform"
    assert config.network.network_train_unet_only and config.memory.cache_text_encoder_outputs_to_disk
    assert config.model.no_half_vae is False, "sdxl_no_half_vae stands there, and sdxl is off"
    conversion = results(convert_gui(content("v25")))
    assert conversion["weighting_scheme"] == ("no effect", "the GUI passes it on for Stable Diffusion 3 only")
    assert conversion["ggpo_beta"] == ("no effect", "train_lora_ggpo is off")
    assert conversion["multires_noise_iterations"] == ("no effect", "noise_offset_type is Original")
    assert conversion["text_encoder_lr"] == ("honoured", "0: no text encoder is trained")
    assert conversion["train_double_block_indices"][0] == "honoured"


@pytest.mark.parametrize(
    ("version", "changes", "key", "hint"),
    [
        ("v25", {"train_lora_ggpo": True}, "train_lora_ggpo", "GGPO is not built in"),
        ("v24", {"train_inpainting": True}, "train_inpainting", "Inpainting models cannot be trained"),
        ("v24", {"sd3_checkbox": True}, "sd3_checkbox", "Only Stable Diffusion 1.5, SDXL and FLUX"),
    ],
)  # fmt: skip
def test_what_would_be_trained_otherwise_is_an_error(
    version: str, changes: dict[str, Any], key: str, hint: str
) -> None:
    (problem,) = convert_gui(content(version, **changes)).problems
    assert problem.key == key and problem.hint.startswith(hint)


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"prior_loss_weight": 0.0}, "prior_loss_weight", "the GUI drops a 0, so that 1 is used"),
        ({"network_alpha": "0"}, "network_alpha", "the GUI drops a 0, so that 1 is used"),
        ({"seed": 0}, "seed", "the GUI drops a 0, so that 42 is used"),
        ({"max_train_epochs": 3}, "max_train_steps", "max_train_epochs = 3 decides"),
        ({"max_train_epochs": 3}, "epoch", "max_train_epochs = 3 decides"),
        ({"lr_warmup_steps": 9}, "lr_warmup", "lr_warmup_steps decides"),
        ({"use_8bit_adam": True}, "use_8bit_adam", "optimizer decides"),
        ({"sdxl": False}, "sdxl_no_half_vae", "sdxl is off"),
        ({"LoRA_type": "Standard"}, "conv_dim", "the GUI does not pass it on for Standard"),
    ],
)  # fmt: skip
def test_nothing_is_dropped_in_silence(changes: dict[str, Any], key: str, text: str) -> None:
    assert results(convert_gui(content("v24", **changes)))[key] == ("no effect", text)


@pytest.mark.parametrize(
    ("changes", "warmup"),
    [
        ({"lr_warmup": 7, "lr_warmup_steps": 0, "max_train_steps": 333}, 23),
        ({"lr_warmup": 7, "lr_warmup_steps": 50, "max_train_steps": 333}, 50),
        ({"lr_warmup": 7, "lr_warmup_steps": 50, "max_train_steps": 0}, 0.07),
        ({"lr_warmup": 0, "lr_warmup_steps": 0, "max_train_steps": 333}, None),
    ],
)
def test_warm_up_with_a_dataset_configuration(changes: dict[str, Any], warmup: float | None) -> None:
    values = convert_gui(content("v24", dataset_config="/d.toml", **changes)).values["training"]
    assert values.get("lr_warmup_steps") == (None if warmup is None else pytest.approx(warmup))


@pytest.mark.parametrize(
    ("changes", "name"), [({}, "AdamW"), ({"use_8bit_adam": True}, "AdamW8bit"), ({"optimizer": "Lion"}, "Lion")]
)
def test_the_optimizer_of_old_files(changes: dict[str, Any], name: str) -> None:
    gui_file = {key: value for key, value in content("v21").items() if key not in ("optimizer", "use_8bit_adam")}
    assert (
        convert_gui({**gui_file, "max_train_steps": 9, **changes}, exact=True).values["training"]["optimizer_type"]
        == name
    )


def test_old_names_and_processes() -> None:
    gui_file = {key: value for key, value in content("v24").items() if key != "sdxl"}
    conversion = convert_gui({**gui_file, "sdxl_checkbox": True, "num_processes": "2"})
    assert conversion.values["model"]["family"] == "sdxl" and conversion.values["model"]["no_half_vae"] is True
    assert conversion.values["training"]["num_processes"] == 2


def test_secrets_are_not_shown() -> None:
    conversion = convert_gui(content("v24", wandb_api_key="abc", huggingface_token="def"))
    values = {entry.key: entry.value for entry in conversion.entries}
    assert (values["wandb_api_key"], values["huggingface_token"]) == ("(not shown)", "(not shown)")


DEFAULTS = [
    # key of the GUI, key here, absent: the GUI's, off: the scripts', a value of the file, what that is here
    ("enable_bucket", "dataset.enable_bucket", True, False, "True", True),
    ("bucket_no_upscale", "dataset.bucket_no_upscale", True, False, True, True),
    ("cache_latents", "memory.cache_latents", True, False, "true", True),
    ("network_dim", "network.network_dim", 8, 4, "32", 32),
    ("network_alpha", "network.network_alpha", 1, 1, "16", 16),
    ("caption_extension", "dataset.caption_extension", ".txt", ".caption", ".tags", ".tags"),
    ("max_bucket_reso", "dataset.max_bucket_reso", 2048, 1024, "1536", 1536),
    ("min_bucket_reso", "dataset.min_bucket_reso", 256, 256, 512, 512),
    ("bucket_reso_steps", "dataset.bucket_reso_steps", 64, 64, 32.0, 32),
    ("max_resolution", "dataset.size", (512, 512), (512, 512), "640,768", (640, 768)),
    ("mixed_precision", "memory.mixed_precision", "fp16", "no", "bf16", "bf16"),
    ("save_precision", "saving.save_precision", "fp16", "float", "bf16", "bf16"),
    ("lr_scheduler", "training.lr_scheduler", "cosine", "constant", "linear", "linear"),
    ("learning_rate", "training.learning_rate", 1e-4, 2e-6, "5e-4", 5e-4),
    ("optimizer", "training.optimizer_type", "AdamW", "AdamW", "Lion", "Lion"),
    ("sample_sampler", "sampling.sample_sampler", "euler_a", "ddim", "heun", "heun"),
    ("output_name", "saving.output_name", "last", "g", "x", "x"),
    ("lr_warmup", "training.lr_warmup_steps", 0.1, 0, "20", 0.2),
    ("max_train_steps", "training.max_train_steps", 1600, 1600, "100", 100),
    ("lr_scheduler_num_cycles", "training.lr_scheduler_num_cycles", 1, 1, "3", 1),
    ("prior_loss_weight", "training.prior_loss_weight", 1, 1, 0.5, 0.5),
    ("max_grad_norm", "training.max_grad_norm", 1, 1, 2, 2),
    ("max_token_length", "model.max_token_length", 75, 75, "150", 150),
    ("clip_skip", "model.clip_skip", None, None, "2", 2),
    ("train_batch_size", "training.train_batch_size", 1, 1, "4", 4),
    ("save_every_n_epochs", "saving.save_every_n_epochs", 0, 0, 2, 2),
    ("seed", "training.seed", 42, 42, "7", 7),
    ("loss_type", "training.loss_type", "l2", "l2", "huber", "huber"),
    ("huber_schedule", "training.huber_schedule", "snr", "snr", "constant", "constant"),
    ("vae_batch_size", "memory.vae_batch_size", 1, 1, 4, 4),
    ("flip_aug", "dataset.flip_aug", False, False, True, True),
]  # fmt: skip


@pytest.mark.parametrize("row", DEFAULTS, ids=[row[0] for row in DEFAULTS])
def test_a_key_that_is_off_is_the_scripts_default_and_an_absent_one_the_guis(
    tmp_path: Path, row: tuple[str, str, Any, Any, Any, Any]
) -> None:
    key, dotted, absent, empty, value, taken = row
    path = tmp_path / "g.json"

    def read(**changes: Any) -> Any:
        path.write_text(json.dumps({"LoRA_type": "Standard", "unet_lr": 1e-4, "text_encoder_lr": 1e-5} | changes))
        table, _, name = dotted.partition(".")
        return getattr(getattr(load_config(path), table), name)

    assert read() == absent
    offs = [False, "False", 0, None, ""] if isinstance(absent, bool) else [0, "0", "", None, 0.0] if not isinstance(
        absent, str | tuple
    ) else ["", None]  # fmt: skip
    for off in offs:
        assert read(**{key: off}) == empty, off
    assert read(**{key: value}) == taken


def test_a_default_from_an_empty_key_is_reported() -> None:
    conversion = convert_gui(
        {"LoRA_type": "Standard", "unet_lr": 1, "caption_extension": "", "network_dim": 0, "flip_aug": False}
    )
    assert results(conversion)["caption_extension"] == (
        "no effect",
        "the GUI drops an empty value, so that .caption is used",
    )
    assert results(conversion)["network_dim"] == ("no effect", "the GUI drops a 0, so that 4 is used")
    assert conversion.unset == ["flip_aug"]


@pytest.mark.parametrize(
    ("changes", "rates", "only"),
    [
        ({}, (1e-4, 1e-4), ""),
        ({"learning_rate": 3e-5}, (1e-4, 1e-4), ""),
        ({"learning_rate": 3e-5, "unet_lr": 0, "text_encoder_lr": 0}, (3e-5, 3e-5), ""),
        ({"unet_lr": "", "text_encoder_lr": "0"}, (1e-4, 1e-4), ""),
        ({"learning_rate": 3e-5, "unet_lr": 2e-4, "text_encoder_lr": 0}, (2e-4, 3e-5), "network_train_unet_only"),
        (
            {"learning_rate": 3e-5, "unet_lr": 0, "text_encoder_lr": 2e-5},
            (3e-5, 2e-5),
            "network_train_text_encoder_only",
        ),
        ({"learning_rate": 0, "unet_lr": 1e-3, "text_encoder_lr": 2e-5}, (1e-3, 2e-5), ""),
        ({"text_encoder_lr": 0}, (1e-4, 1e-4), "network_train_unet_only"),
        ({"unet_lr": 0}, (1e-4, 1e-4), "network_train_text_encoder_only"),
        ({"learning_rate": 0, "unet_lr": 0, "text_encoder_lr": 0}, (0, 0), ""),  # the GUI refuses it, and a run here
        ({"flux1_checkbox": True, "unet_lr": 2e-4}, (2e-4, 1e-4), "network_train_unet_only"),
        ({"flux1_checkbox": True, "learning_rate": 3e-5, "unet_lr": 0, "text_encoder_lr": 0}, (3e-5, 3e-5), ""),
    ],
)
def test_rates_of_0(changes: dict[str, Any], rates: tuple[float, float], only: str) -> None:
    conversion = convert_gui({"LoRA_type": "Standard", "network_dim": 4, "lr_warmup": 0, **changes})
    config = RunConfig.model_validate(conversion.values)
    assert not conversion.problems and config.training.rates == rates
    network = config.network
    flags = ("network_train_unet_only", "network_train_text_encoder_only")
    assert [name for name in flags if getattr(network, name)] == ([only] if only else [])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_value_that_cannot_be_is_one_problem_with_the_line_of_its_key(tmp_path: Path, version: str) -> None:
    path = tmp_path / "g.json"
    gui_file = content(version)
    for key in gui_file:
        for value in ("x", "1e999", -1, 1.5, [[1]]):
            path.write_text(json.dumps({**gui_file, key: value}, indent=1))
            line = list(gui_file).index(key) + 2
            try:
                load_config(path)
            except ConfigError as error:
                if key in ("additional_parameters", "LoRA_type"):
                    continue  # several words, or all keys of another type
                (problem,) = error.problems
                assert problem.where.startswith(f"{path}, line {line}"), (key, value, problem)
