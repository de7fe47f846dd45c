"""Values in the configurations of a diffusers folder that cannot be: refused by file and key, before the start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelError
from engine.exit_codes import ExitCode
from engine.families.flux import configs as flux_configs
from engine.families.registry import recognise
from engine.families.unet import configs as unet_configs
from engine.families.unet.vae import check_vae
from engine.models import configs
from engine.models.configs import read_config
from engine.models.loading import PartSource, load_part
from engine.paths import ASSETS
from tests import tiny_flux, tiny_sdxl
from tests.refusals import refused, require

MISSING = object()
WRONG, INCOMPLETE = "model-config-wrong", "model-config-incomplete"
CONTRADICTS = "model-config-contradicts-weights"
ABSURD = [-1, 0, 10**9, 1e300, float("nan"), float("inf"), "many", "", [], {}, True, 10**30, [10**9], -0.5]
FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl.tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux.tiny_folder(tmp_path_factory.mktemp("flux"))


def changed(folder: Path, target: Path, name: str, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the folder with a changed configuration; its weights are links."""
    copy = target / "model"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, copy_function=lambda source, place: Path(place).symlink_to(source))
    config = json.loads((folder / name).read_text())
    change(config)
    (copy / name).unlink()
    (copy / name).write_text(json.dumps(config))
    return copy


def refusal(folder: Path, target: Path, name: str, key: str, value: object) -> ModelError:
    def change(config: dict[str, Any]) -> None:
        config.pop(key, None) if value is MISSING else config.__setitem__(key, value)

    with pytest.raises(ModelError) as error:
        recognise(changed(folder, target, name, change))
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "\n" not in error.value.message and len(error.value.message) < 600
    return error.value


SIZES = {
    "unet": ("block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim", "norm_num_groups"),
    "vae": ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups", "scaling_factor"),
    "text_encoder": (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ),
    "scheduler": ("num_train_timesteps", "beta_start", "beta_end"),
}


@pytest.mark.parametrize(("part", "key"), [(part, key) for part, keys in SIZES.items() for key in keys])
def test_absurd_values(folder: Path, tmp_path: Path, part: str, key: str) -> None:
    for value in ABSURD:
        error = refusal(folder, tmp_path, FILES[part], key, value)
        assert FILES[part] in error.message, value
        assert key in error.message or error.code == "model-json-unreadable", value


@pytest.mark.parametrize(
    ("name", "key", "value", "code", "part"),
    [
        ("unet/config.json", "attention_head_dim", 7, WRONG, "must divide every one"),
        ("unet/config.json", "attention_head_dim", [8], WRONG, "as many items"),
        ("unet/config.json", "block_out_channels", [64, 64], CONTRADICTS, "[32, 64] in the weights"),
        ("unet/config.json", "block_out_channels", MISSING, INCOMPLETE, "[32, 64]"),
        ("unet/config.json", "cross_attention_dim", MISSING, INCOMPLETE, "32"),
        ("unet/config.json", "layers_per_block", 2, CONTRADICTS, "1 in the weights"),
        ("unet/config.json", "down_block_types", ["DownBlock2D"], WRONG, "as many items"),
        ("unet/config.json", "down_block_types", [1, 2], WRONG, "must be a list of texts"),
        ("unet/config.json", "down_block_types", "DownBlock2D", WRONG, "must be a list of texts"),
        ("unet/config.json", "flip_sin_to_cos", "yes", WRONG, "must be true or false"),
        ("unet/config.json", "norm_eps", 0, WRONG, "must be a number"),
        ("unet/config.json", "sample_size", -1, WRONG, "must be a whole number"),
        ("unet/config.json", "strange", [{"x": 1e200}], WRONG, "must not be larger"),
        ("vae/config.json", "block_out_channels", MISSING, INCOMPLETE, "block_out_channels"),
        ("vae/config.json", "use_quant_conv", False, CONTRADICTS, "True in the weights"),
        ("vae/config.json", "scaling_factor", "0.18", WRONG, "must be a number"),
        ("vae/config.json", "norm_num_groups", 5, WRONG, "must divide every one"),
        ("vae/config.json", "up_block_types", ["UpDecoderBlock2D"], WRONG, "as many items"),
        ("text_encoder/config.json", "hidden_size", 64, CONTRADICTS, "32 in the weights"),
        ("text_encoder/config.json", "hidden_size", MISSING, INCOMPLETE, "32"),
        ("text_encoder/config.json", "num_attention_heads", 5, WRONG, "must divide hidden_size 32"),
        ("text_encoder/config.json", "vocab_size", 10, CONTRADICTS, "49408 in the weights"),
        ("text_encoder/config.json", "layer_norm_eps", -1e-5, WRONG, "must be a number"),
        ("text_encoder/config.json", "eos_token_id", 1e9, WRONG, "must be a whole number"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10, WRONG, "from 1000"),
        ("scheduler/scheduler_config.json", "beta_start", 0.5, WRONG, "must not be above beta_end"),
        ("scheduler/scheduler_config.json", "beta_end", 1.5, WRONG, "must be a number"),
        ("scheduler/scheduler_config.json", "beta_schedule", "steep", WRONG, "linear or scaled_linear"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, 0.2], WRONG, "num_train_timesteps 1000"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, "x"], WRONG, "must be a number"),
        ("scheduler/scheduler_config.json", "rescale_betas_zero_snr", "no", WRONG, "must be true or false"),
        ("scheduler/scheduler_config.json", "prediction_type", "sample", "prediction-type-not-supported", "'sample'"),
    ],
)
def test_values_that_contradict(
    folder: Path, tmp_path: Path, name: str, key: str, value: object, code: str, part: str
) -> None:
    require(refusal(folder, tmp_path, name, key, value), code, name.split("/")[1], part)


@pytest.mark.parametrize(
    ("name", "key", "value", "code", "part"),
    [
        ("unet/config.json", "projection_class_embeddings_input_dim", 1, CONTRADICTS, "in the weights"),
        ("unet/config.json", "addition_time_embed_dim", -8, WRONG, "must be a whole number"),
        ("unet/config.json", "transformer_layers_per_block", [1, 1], WRONG, "as many items"),
        ("unet/config.json", "transformer_layers_per_block", 10**9, WRONG, "must be a whole number"),
        ("text_encoder_2/config.json", "projection_dim", 7, CONTRADICTS, "in the weights"),
        ("text_encoder_2/config.json", "num_hidden_layers", 10**6, WRONG, "must be a whole number"),
    ],
)
def test_sdxl(sdxl: Path, tmp_path: Path, name: str, key: str, value: object, code: str, part: str) -> None:
    require(refusal(sdxl, tmp_path, name, key, value), code, name, key, part)


@pytest.mark.parametrize(
    ("name", "key", "value", "code", "part"),
    [
        ("transformer/config.json", "num_layers", 10**9, WRONG, "must be a whole number"),
        ("transformer/config.json", "num_layers", 2, CONTRADICTS, "1 in the weights"),
        ("transformer/config.json", "num_single_layers", -1, WRONG, "must be a whole number"),
        ("transformer/config.json", "attention_head_dim", 10**9, WRONG, "must be a whole number"),
        ("transformer/config.json", "axes_dims_rope", [16, 56, 56], WRONG, "add up to attention_head_dim"),
        ("transformer/config.json", "axes_dims_rope", "x", WRONG, "must be a whole number"),
        ("transformer/config.json", "guidance_embeds", "yes", WRONG, "must be true or false"),
        ("transformer/config.json", "joint_attention_dim", 4096, CONTRADICTS, "24 in the weights"),
        ("text_encoder_2/config.json", "d_kv", 9, CONTRADICTS, "8 in the weights"),
        ("text_encoder_2/config.json", "d_model", MISSING, INCOMPLETE, "24"),
        ("text_encoder_2/config.json", "num_layers", "two", WRONG, "must be a whole number"),
        ("text_encoder/config.json", "num_hidden_layers", -2, WRONG, "must be a whole number"),
        ("vae/config.json", "latent_channels", 10**9, WRONG, "must be a whole number"),
        ("vae/config.json", "shift_factor", "x", WRONG, "must be a number"),
        ("scheduler/scheduler_config.json", "shift", 0, WRONG, "must be a number"),
        ("scheduler/scheduler_config.json", "max_image_seq_len", -4096, WRONG, "must be a whole number"),
    ],
)
def test_flux(flux: Path, tmp_path: Path, name: str, key: str, value: object, code: str, part: str) -> None:
    if not (flux / name).exists():
        (flux / name).parent.mkdir(exist_ok=True)
        shutil.copy(ASSETS / "flux" / name, flux / name)
    require(refusal(flux, tmp_path, name, key, value), code, name, key, part)


def test_sound_folders_are_taken(folder: Path, sdxl: Path, flux: Path) -> None:
    assert [recognise(path).family for path in (folder, sdxl, flux)] == ["sd15", "sdxl", "flux"]
    assert recognise(ASSETS / "demo_base").family == "sd15"


def test_a_missing_key_whose_default_fits_is_no_fault(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, "unet/config.json", lambda config: config.pop("norm_num_groups"))
    assert recognise(copy).family == "sd15"
    copy = changed(folder, tmp_path, "vae/config.json", lambda config: config.pop("latent_channels"))
    assert recognise(copy).family == "sd15"


def test_another_vae(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, "vae/config.json", lambda config: config.update(scaling_factor=-1))
    for place in (copy, copy / "vae"):
        with refused(WRONG, copy / "vae/config.json", "scaling_factor is -1"):
            check_vae(place)


@pytest.mark.parametrize("part", ["sd15/unet", "sd15/vae", "sd15/text_encoder", "sdxl/unet", "sdxl/text_encoder_2",
                                  "flux/transformer", "flux/text_encoder_2", "flux/vae"])  # fmt: skip
def test_what_ships_is_taken(part: str) -> None:
    family, name = part.split("/")
    kinds = flux_configs.CONFIGS if family == "flux" else unet_configs.CONFIGS
    assert read_config(ASSETS / family / name / "config.json", kinds[name])
    assert read_config(ASSETS / family / "scheduler" / "scheduler_config.json", configs.SCHEDULER)


def test_what_only_the_libraries_know_is_a_sentence(tmp_path: Path) -> None:
    def build(config: object) -> object:
        raise TypeError("unhashable\nand more")

    (tmp_path / "config.json").write_text("{}")
    source = PartSource(build, {}, [tmp_path / "x.safetensors"], lambda _: {})
    with refused("component-not-buildable", "vae", tmp_path / "config.json", "unhashable.") as error:
        load_part("vae", source, None, print)  # type: ignore[arg-type]
    assert "and more" not in str(error.value)


def test_every_default_has_a_rule() -> None:
    for part in [*flux_configs.CONFIGS.values(), *unet_configs.CONFIGS.values(), configs.SCHEDULER]:
        assert part.usual.keys() <= part.rules.keys()
        assert all(part.rules[key].fault(value) is None for key, value in part.usual.items())


@pytest.mark.parametrize(
    ("name", "content", "code", "part"),
    [
        ("tokenizer_config.json", b"{", "unreadable", ""),
        ("tokenizer_config.json", b"[]", "wrong", ""),
        ("tokenizer_config.json", b"[" * 100_000, "unreadable", ""),
        ("tokenizer_config.json", b"\xff\xfe", "unreadable", ""),
        ("tokenizer_config.json", b'{"model_max_length": -5}', "max-length-wrong", "-5"),
        ("tokenizer_config.json", b'{"model_max_length": 0}', "max-length-wrong", " 0"),
        ("tokenizer_config.json", b'{"model_max_length": NaN}', "max-length-wrong", "nan"),
        ("tokenizer_config.json", b'{"model_max_length": "many"}', "max-length-wrong", "many"),
        ("tokenizer_config.json", b'{"model_max_length": null}', "max-length-wrong", "None"),
        ("special_tokens_map.json", b"nothing", "unreadable", ""),
        ("vocab.json", b'{"a": 60000}', "of-other-text-encoder", "60000"),
        ("vocab.json", b'{"a": -1}', "wrong", ""),
        ("vocab.json", b'{"a": "b"}', "wrong", ""),
        ("vocab.json", b'["a"]', "wrong", ""),
        ("added_tokens.json", b'{"x": 49408}', "of-other-text-encoder", "49408"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 99999}}}', "of-other-text-encoder", "99999"),
        (
            "tokenizer.json",
            b'{"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": 99999}]}',
            "of-other-text-encoder",
            "99999",
        ),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1}}, "added_tokens": ["x"]}', "wrong", "added_tokens"),
        ("tokenizer.json", b'{"model": 5}', "wrong", ""),
        ("merges.txt", None, "incomplete", "vocab.json"),
    ],
)
def test_tokenizers(folder: Path, tmp_path: Path, name: str, content: bytes | None, code: str, part: str) -> None:
    copy = changed(folder, tmp_path, "unet/config.json", lambda config: None)
    (copy / "tokenizer" / name).unlink(missing_ok=True)
    if content is not None:
        (copy / "tokenizer" / name).write_bytes(content)
    with refused(f"tokenizer-{code}", copy / "tokenizer", name, part) as error:
        recognise(copy)
    assert error.value.hint


def test_a_tokenizer_without_a_limit_is_taken(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, "unet/config.json", lambda config: None)
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    (copy / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert recognise(copy).family == "sd15"
    shutil.rmtree(copy / "tokenizer")
    assert recognise(copy).family == "sd15"
