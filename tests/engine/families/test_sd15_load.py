"""Loading: both layouts, every number format, other VAEs, contradictions and broken files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from engine.families.registry import recognise
from engine.families.unet.clip import clip_sizes
from engine.families.unet.load import builders_of, file_names
from engine.families.unet.names import TEXT, fitted, unet_sizes, vae_sizes
from engine.families.unet.schedule import alphas_cumprod, scheduler_config
from engine.families.unet.spec import SD15_SPEC
from engine.models.loading import DTYPES, meta_module
from engine.paths import ASSETS
from tests.refusals import refused
from tests.tiny_models import LDM_CHANNELS, tiny_parts, tiny_sd15


def same(loaded: Any, expected: Any, dtype: torch.dtype = torch.float32) -> None:
    """Equal tensors, after a rounding to `dtype`."""
    state = expected.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.float(), state[key].to(dtype).float()), key


def part_of(model: Any, part: str) -> Any:
    return model.text_encoders[part] if part == "text_encoder" else getattr(model, part)


def test_a_folder_is_what_diffusers_loads(folder: Path, load: Any) -> None:
    model = load(folder)
    pipeline_class: Any = StableDiffusionPipeline
    pipeline = pipeline_class.from_pretrained(folder, local_files_only=True)
    same(model.unet, pipeline.unet)
    same(model.vae, pipeline.vae)
    same(model.text_encoders["text_encoder"], pipeline.text_encoder)
    assert not any(p.requires_grad for part in model.trainable.values() for p in part.parameters())
    assert model.text_encoders["text_encoder"].config._attn_implementation == "sdpa"
    assert list(model.trainable) == ["text_encoder", "unet"]


@pytest.mark.parametrize(("dtype", "ema", "ids"), [("fp32", True, True), ("fp16", False, True), ("bf16", True, False)])
def test_a_single_file_holds_the_same_model(tmp_path: Path, load: Any, dtype: str, ema: bool, ids: bool) -> None:
    messages: list[str] = []
    model = load(tiny_sd15(tmp_path, ldm=True, dtype=dtype, ema=ema, position_ids=ids), messages=messages)
    parts = tiny_parts(LDM_CHANNELS)
    for part in ("unet", "vae", "text_encoder"):
        same(part_of(model, part), parts[part], DTYPES[dtype])
    assert messages == []


def test_diffusers_own_converter_agrees(single_file: Path, load: Any, tmp_path: Path) -> None:
    """Its converter was written by others from the same architecture."""
    model = load(single_file)
    for part, class_ in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        config = {key: value for key, value in part_of(model, part).config.items() if not key.startswith("_")}
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config | {"_class_name": class_.__name__}))
        theirs = class_.from_single_file(
            str(single_file), config=str(tmp_path), subfolder=part, local_files_only=True, torch_dtype=torch.float32
        )
        same(part_of(model, part), theirs)


def test_names_of_the_real_size() -> None:
    names: list[str] = []
    sizes = {"text_encoder": lambda shapes: clip_sizes(shapes, TEXT), "unet": unet_sizes, "vae": vae_sizes}
    for part, build in builders_of(SD15_SPEC).items():
        config = json.loads((ASSETS / "sd15" / part / "config.json").read_text())
        state = meta_module(build, config).state_dict()
        own = file_names(part, state, config)
        shapes = {own[key]: tuple(tensor.shape) for key, tensor in state.items()}
        assert fitted(part, config, sizes[part], shapes) == config, "the shapes tell the sizes that they were made from"
        names += own.values()
    assert len(names) == len(set(names)) == 1130
    assert "model.diffusion_model.input_blocks.3.0.op.weight" in names
    assert "model.diffusion_model.output_blocks.2.1.conv.weight" in names
    assert "model.diffusion_model.output_blocks.8.2.conv.bias" in names
    assert "model.diffusion_model.input_blocks.4.0.skip_connection.weight" in names
    assert "first_stage_model.decoder.up.3.block.2.norm1.weight" in names
    assert "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight" in names
    assert "first_stage_model.encoder.mid.attn_1.proj_out.weight" in names
    assert "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc2.bias" in names


def test_older_names_are_understood(tmp_path: Path, folder: Path, single_file: Path, load: Any) -> None:
    """A text encoder with or without `text_model`, a VAE attention with the names of 2022."""
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    text = copy / "text_encoder" / "model.safetensors"
    old = {"text_model." + key.removeprefix("text_model."): tensor for key, tensor in load_file(text).items()}
    save_file(old, text)
    vae = copy / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = load_file(vae)
    for new, before in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        renamed = {key.replace(f"attentions.0.{new}.", f"attentions.0.{before}."): t for key, t in renamed.items()}
    save_file(renamed, vae)
    parts = tiny_parts()
    model = load(copy)
    same(model.text_encoders["text_encoder"], parts["text_encoder"])
    same(model.vae, parts["vae"])
    short = {key.replace("transformer.text_model.", "transformer."): t for key, t in load_file(single_file).items()}
    save_file(short, tmp_path / "short.safetensors")
    same(load(tmp_path / "short.safetensors").text_encoders["text_encoder"], tiny_parts(LDM_CHANNELS)["text_encoder"])


def test_shards(tmp_path: Path, folder: Path, load: Any) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    whole = copy / "unet" / "diffusion_pytorch_model.safetensors"
    unet_class: Any = UNet2DConditionModel
    unet = unet_class.from_pretrained(folder / "unet", local_files_only=True)
    whole.unlink()
    unet.save_pretrained(copy / "unet", max_shard_size="200KB")
    assert not whole.exists()
    same(load(copy).unet, unet)


def test_odd_names(tmp_path: Path, folder: Path, single_file: Path, load: Any) -> None:
    place = tmp_path / "[x] ünï*"
    place.mkdir()
    shutil.copy(single_file, place / "m.safetensors")
    same(load(place / "m.safetensors").unet, tiny_parts(LDM_CHANNELS)["unet"])
    same(load(Path(shutil.copytree(folder, place / "m"))).unet, tiny_parts()["unet"])


def test_the_vae_is_fp32_on_the_cpu(folder: Path, load: Any) -> None:
    model = load(folder, dtype="bf16")
    assert next(model.vae.parameters()).dtype == torch.float32
    assert {p.dtype for part in model.trainable.values() for p in part.parameters()} == {torch.bfloat16}


def test_another_vae(tmp_path: Path, folder: Path, single_file: Path, load: Any) -> None:
    other = tiny_parts(LDM_CHANNELS, seed=5)["vae"]
    other.save_pretrained(tmp_path / "vae")
    whole = load_file(tiny_sd15(tmp_path / "file", ldm=True, seed=5))
    inside = {key: tensor for key, tensor in whole.items() if key.startswith("first_stage_model.")}
    save_file(inside, tmp_path / "ldm.safetensors")
    bare = {key.removeprefix("first_stage_model."): tensor for key, tensor in inside.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    file = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    choices = [tmp_path / "vae", file, tmp_path / "ldm.safetensors", tmp_path / "bare.safetensors"]
    for choice in choices:
        messages: list[str] = []
        same(load(folder, vae=str(choice), messages=messages).vae, other)
        assert len(messages) == 1 and "model.vae" in messages[0]
    same(load(folder, vae=str(tiny_sd15(tmp_path / "model", seed=7))).vae, tiny_parts(seed=7)["vae"])
    with refused("model-file-missing", "model.vae", tmp_path / "none"):
        load(folder, vae=str(tmp_path / "none"))
    file.write_bytes(file.read_bytes()[:-1])
    with refused("model-file-cut-short"):
        load(folder, vae=str(tmp_path / "vae"))
    with refused("not-a-vae"):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        load(folder, vae=str(tmp_path / "x.safetensors"))


def test_prediction_type_set_and_contradicted(folder: Path, single_file: Path, load: Any) -> None:
    messages: list[str] = []
    model = load(single_file, v_parameterization=True, messages=messages)
    assert model.prediction_type == model.recognition.prediction_type == "v_prediction"
    assert "does not state it" in messages[0]
    assert load(folder, v_parameterization=False).prediction_type == "epsilon"
    with refused("v-parameterization-contradicts-model", "scheduler_config"):
        load(folder, v_parameterization=True)


def test_noise_schedule(folder: Path, load: Any) -> None:
    """Golden numbers of sd-scripts."""
    usual = alphas_cumprod(scheduler_config(recognise(folder), ASSETS / "sd15"))
    torch.testing.assert_close(usual[[0, 500, 999]], torch.tensor([0.999150, 0.276333, 0.004660]), rtol=0, atol=1e-6)
    snr = usual / (1 - usual)
    torch.testing.assert_close(snr[[100, 500, 999]], torch.tensor([8.45389, 0.38185, 0.00468]), rtol=1e-3, atol=0)
    messages: list[str] = []
    zero = load(folder, zero_terminal_snr=True, messages=messages).training_alphas_cumprod
    assert zero[500].item() == pytest.approx(0.241019, abs=1e-6)
    assert zero[999].item() == 0
    assert "model.zero_terminal_snr" in messages[0] and "meant for v models" in messages[1]


def test_missing_misshapen_and_unused_tensors(tmp_path: Path, single_file: Path, load: Any) -> None:
    tensors = load_file(single_file)
    path = tmp_path / "m.safetensors"
    key = "model.diffusion_model.middle_block.1.norm.weight"
    save_file({name: tensor for name, tensor in tensors.items() if name != key}, path)
    with refused("checkpoint-incomplete", "1 of the", f"unet: {key}"):
        load(path)
    save_file({**tensors, key: torch.zeros(5)}, path)
    with refused("tensor-wrong-shape", "[5]", "[64]"):
        load(path)
    messages: list[str] = []
    save_file({**tensors, "model.diffusion_model.extra.weight": torch.zeros(5)}, path)
    load(path, messages=messages)
    assert messages[0].startswith("1 tensors of the unet")
    save_file({name: tensor for name, tensor in tensors.items() if ".op." not in name}, path)
    with refused("component-wrong-layout"):
        load(path)


def test_a_broken_tokenizer(tmp_path: Path, folder: Path, load: Any) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    (copy / "tokenizer" / "vocab.json").write_text("{")
    with refused("tokenizer-unreadable", copy / "tokenizer/vocab.json"):
        load(copy)
    shutil.rmtree(copy / "tokenizer")
    assert load(copy).tokenizers[0]("cat").input_ids == [49406, 2368, 49407]
