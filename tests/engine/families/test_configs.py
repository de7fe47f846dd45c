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

MISSING = object()
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


def refused(folder: Path, target: Path, name: str, key: str, value: object) -> str:
    def change(config: dict[str, Any]) -> None:
        config.pop(key, None) if value is MISSING else config.__setitem__(key, value)

    with pytest.raises(ModelError) as error:
        recognise(changed(folder, target, name, change))
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "\n" not in error.value.message and len(error.value.message) < 600
    return error.value.message


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
        message = refused(folder, tmp_path, FILES[part], key, value)
        assert FILES[part] in message and (key in message or "cannot be read as JSON" in message), value


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        ("unet/config.json", "attention_head_dim", 7, "must divide every one of block_out_channels"),
        ("unet/config.json", "attention_head_dim", [8], "as many items as block_out_channels"),
        ("unet/config.json", "block_out_channels", [64, 64], r"is \[32, 64\] in the weights"),
        ("unet/config.json", "block_out_channels", MISSING, r"lacks block_out_channels, which is \[32, 64\]"),
        ("unet/config.json", "cross_attention_dim", MISSING, "lacks cross_attention_dim, which is 32"),
        ("unet/config.json", "layers_per_block", 2, "is 1 in the weights"),
        ("unet/config.json", "down_block_types", ["DownBlock2D"], "as many items"),
        ("unet/config.json", "down_block_types", [1, 2], "must be a list of texts"),
        ("unet/config.json", "down_block_types", "DownBlock2D", "must be a list of texts"),
        ("unet/config.json", "flip_sin_to_cos", "yes", "must be true or false"),
        ("unet/config.json", "norm_eps", 0, "must be a number"),
        ("unet/config.json", "sample_size", -1, "must be a whole number"),
        ("unet/config.json", "strange", [{"x": 1e200}], "must not be larger"),
        ("vae/config.json", "block_out_channels", MISSING, r"lacks block_out_channels"),
        ("vae/config.json", "use_quant_conv", False, "is True in the weights"),
        ("vae/config.json", "scaling_factor", "0.18", "must be a number"),
        ("vae/config.json", "norm_num_groups", 5, "must divide every one"),
        ("vae/config.json", "up_block_types", ["UpDecoderBlock2D"], "as many items"),
        ("text_encoder/config.json", "hidden_size", 64, "is 32 in the weights"),
        ("text_encoder/config.json", "hidden_size", MISSING, "lacks hidden_size, which is 32"),
        ("text_encoder/config.json", "num_attention_heads", 5, "must divide hidden_size 32"),
        ("text_encoder/config.json", "vocab_size", 10, "is 49408 in the weights"),
        ("text_encoder/config.json", "layer_norm_eps", -1e-5, "must be a number"),
        ("text_encoder/config.json", "eos_token_id", 1e9, "must be a whole number"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", 10, "from 1000"),
        ("scheduler/scheduler_config.json", "beta_start", 0.5, "must not be above beta_end"),
        ("scheduler/scheduler_config.json", "beta_end", 1.5, "must be a number"),
        ("scheduler/scheduler_config.json", "beta_schedule", "steep", "must be linear or scaled_linear"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, 0.2], "must have num_train_timesteps 1000 items"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, "x"], "must be a number"),
        ("scheduler/scheduler_config.json", "rescale_betas_zero_snr", "no", "must be true or false"),
        ("scheduler/scheduler_config.json", "prediction_type", "sample", "asks for prediction_type 'sample'"),
    ],
)
def test_values_that_contradict(folder: Path, tmp_path: Path, name: str, key: str, value: object, why: str) -> None:
    message = refused(folder, tmp_path, name, key, value)
    assert name.split("/")[1] in message
    with pytest.raises(ModelError, match=why):
        raise ModelError(message)


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        ("unet/config.json", "projection_class_embeddings_input_dim", 1, "in the weights"),
        ("unet/config.json", "addition_time_embed_dim", -8, "must be a whole number"),
        ("unet/config.json", "transformer_layers_per_block", [1, 1], "as many items"),
        ("unet/config.json", "transformer_layers_per_block", 10**9, "must be a whole number"),
        ("text_encoder_2/config.json", "projection_dim", 7, "in the weights"),
        ("text_encoder_2/config.json", "num_hidden_layers", 10**6, "must be a whole number"),
    ],
)
def test_sdxl(sdxl: Path, tmp_path: Path, name: str, key: str, value: object, why: str) -> None:
    assert why in refused(sdxl, tmp_path, name, key, value)


@pytest.mark.parametrize(
    ("name", "key", "value", "why"),
    [
        ("transformer/config.json", "num_layers", 10**9, "must be a whole number"),
        ("transformer/config.json", "num_layers", 2, "is 1 in the weights"),
        ("transformer/config.json", "num_single_layers", -1, "must be a whole number"),
        ("transformer/config.json", "attention_head_dim", 10**9, "must be a whole number"),
        ("transformer/config.json", "axes_dims_rope", [16, 56, 56], "add up to attention_head_dim"),
        ("transformer/config.json", "axes_dims_rope", "x", "must be a whole number"),
        ("transformer/config.json", "guidance_embeds", "yes", "must be true or false"),
        ("transformer/config.json", "joint_attention_dim", 4096, "is 24 in the weights"),
        ("text_encoder_2/config.json", "d_kv", 9, "is 8 in the weights"),
        ("text_encoder_2/config.json", "d_model", MISSING, "lacks d_model, which is 24"),
        ("text_encoder_2/config.json", "num_layers", "two", "must be a whole number"),
        ("text_encoder/config.json", "num_hidden_layers", -2, "must be a whole number"),
        ("vae/config.json", "latent_channels", 10**9, "must be a whole number"),
        ("vae/config.json", "shift_factor", "x", "must be a number"),
        ("scheduler/scheduler_config.json", "shift", 0, "must be a number"),
        ("scheduler/scheduler_config.json", "max_image_seq_len", -4096, "must be a whole number"),
    ],
)
def test_flux(flux: Path, tmp_path: Path, name: str, key: str, value: object, why: str) -> None:
    if not (flux / name).exists():
        (flux / name).parent.mkdir(exist_ok=True)
        shutil.copy(ASSETS / "flux" / name, flux / name)
    assert why in refused(flux, tmp_path, name, key, value)


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
        with pytest.raises(ModelError, match=r"vae/config.json: scaling_factor is -1"):
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
    with pytest.raises(ModelError, match=r"The vae cannot be built from .*config.json: unhashable\."):
        load_part("vae", source, None, print)  # type: ignore[arg-type]


def test_every_default_has_a_rule() -> None:
    for part in [*flux_configs.CONFIGS.values(), *unet_configs.CONFIGS.values(), configs.SCHEDULER]:
        assert part.usual.keys() <= part.rules.keys()
        assert all(part.rules[key].fault(value) is None for key, value in part.usual.items())


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("tokenizer_config.json", b"{", "tokenizer_config.json cannot be read as JSON"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json holds no table"),
        ("tokenizer_config.json", b"[" * 100_000, "cannot be read as JSON"),
        ("tokenizer_config.json", b"\xff\xfe", "cannot be read as JSON"),
        ("tokenizer_config.json", b'{"model_max_length": -5}', "model_max_length is -5"),
        ("tokenizer_config.json", b'{"model_max_length": 0}', "model_max_length is 0"),
        ("tokenizer_config.json", b'{"model_max_length": NaN}', "model_max_length is nan"),
        ("tokenizer_config.json", b'{"model_max_length": "many"}', "model_max_length is many"),
        ("tokenizer_config.json", b'{"model_max_length": null}', "model_max_length is None"),
        ("special_tokens_map.json", b"nothing", "special_tokens_map.json cannot be read as JSON"),
        ("vocab.json", b'{"a": 60000}', "has the token number 60000, and the text encoder knows 49408"),
        ("vocab.json", b'{"a": -1}', "is no table of tokens"),
        ("vocab.json", b'{"a": "b"}', "is no table of tokens"),
        ("vocab.json", b'["a"]', "holds no table"),
        ("added_tokens.json", b'{"x": 49408}', "has the token number 49408"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 99999}}}', "has the token number 99999"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1}}, "added_tokens": [{"id": 99999}]}', "number 99999"),
        ("tokenizer.json", b'{"model": {"vocab": {"a": 1}}, "added_tokens": ["x"]}', "is no list of tokens"),
        ("tokenizer.json", b'{"model": 5}', "is no table of tokens"),
        ("merges.txt", None, "has a vocab.json but no merges.txt"),
    ],
)
def test_tokenizers(folder: Path, tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    copy = changed(folder, tmp_path, "unet/config.json", lambda config: None)
    (copy / "tokenizer" / name).unlink(missing_ok=True)
    if content is not None:
        (copy / "tokenizer" / name).write_bytes(content)
    with pytest.raises(ModelError) as error:
        recognise(copy)
    assert why in error.value.message and "tokenizer" in error.value.message and error.value.hint


def test_a_tokenizer_without_a_limit_is_taken(folder: Path, tmp_path: Path) -> None:
    copy = changed(folder, tmp_path, "unet/config.json", lambda config: None)
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    (copy / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert recognise(copy).family == "sd15"
    shutil.rmtree(copy / "tokenizer")
    assert recognise(copy).family == "sd15"
