"""SDXL: recognised, loaded from both layouts, encoders and sizes as in diffusers, Kohya's module tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import nn

from engine.config import RunConfig
from engine.families.registry import family_named, module_tables, recognise
from engine.families.unet.load import builders_of, choose_vae_dtype
from engine.families.unet.model import SDXLModel
from engine.families.unet.spec import SDXL_SPEC
from engine.families.unet.targets import text_targets
from engine.models.loading import meta_module
from engine.paths import ASSETS
from engine.types import SampleRequest
from tests.refusals import refused
from tests.tiny_sdxl import sdxl_parts, tiny_sdxl

TABLES = module_tables()

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("xl_file"), file=True)


def load(path: Path, dtype: str = "fp32", messages: list[str] | None = None, **keys: Any) -> SDXLModel:
    recognition = recognise(path)
    log = (messages if messages is not None else []).append
    model = family_named(recognition.family).load(RunConfig().changed(model=keys), recognition, "cpu", dtype, log)
    assert isinstance(model, SDXLModel)
    return model


@pytest.fixture(scope="module")
def model(folder: Path) -> SDXLModel:
    return load(folder)


def test_both_layouts_are_recognised(folder: Path, single_file: Path) -> None:
    for path, layout in ((folder, "diffusers"), (single_file, "single_file")):
        model = recognise(path)
        assert (model.family, model.layout, model.prediction_type) == ("sdxl", layout, "epsilon")
        assert (model.downscale, model.multiple) == (4, 16)
        assert any("two text encoders" in reason or "StableDiffusionXLPipeline" in reason for reason in model.reasons)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_both_layouts_hold_the_same_model(tmp_path: Path, folder: Path, single_file: Path, dtype: str) -> None:
    messages: list[str] = []
    for path in (folder, single_file if dtype == "fp32" else tiny_sdxl(tmp_path, file=True, dtype=dtype)):
        model = load(path, messages=messages)
        for name, expected in sdxl_parts().items():
            loaded = {**model.text_encoders, "unet": model.unet, "vae": model.vae}[name].state_dict()
            exact = "fp32" if path == folder else dtype
            kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[exact]
            assert loaded.keys() == expected.state_dict().keys()
            for key, tensor in expected.state_dict().items():
                assert torch.equal(loaded[key], tensor.to(kind).float()), (name, key)
    assert messages == []


def test_text_pooled_and_sizes_are_those_of_diffusers(folder: Path, model: SDXLModel) -> None:
    pipeline_class: Any = StableDiffusionXLPipeline
    pipeline = pipeline_class.from_pretrained(folder, local_files_only=True)
    captions = ["a photo of a cat", "zed"]
    with torch.no_grad():
        states, _, pooled, _ = pipeline.encode_prompt(captions, do_classifier_free_guidance=False)
        text = model.encode_text(captions)
        torch.testing.assert_close(text["hidden_states"], states)
        torch.testing.assert_close(text["pooled"], pooled)
        ids = pipeline._get_add_time_ids((480, 640), (8, 0), (448, 576), torch.float32, pooled.shape[-1])
        sizes = torch.tensor([[480.0, 640, 8, 0, 448, 576]])
        assert torch.equal(ids, sizes)
        noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        steps = torch.tensor([10, 900])
        expected = pipeline.unet(
            noisy, steps, states, added_cond_kwargs={"text_embeds": pooled, "time_ids": ids.expand(2, 6)}
        ).sample
        torch.testing.assert_close(model.predict(noisy, steps, text, sizes.expand(2, 6)), expected)
        other = model.predict(noisy, steps, text, torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(2, 6))
    assert (other - expected).abs().max() > 1e-5, "the sizes matter"


def test_long_captions_in_chunks(folder: Path) -> None:
    long = load(folder, max_token_length=150)
    caption = "cat " * 100
    with torch.no_grad():
        text, short = long.encode_text([caption]), load(folder).encode_text([caption])
    assert text["hidden_states"].shape == (1, 152, 96) and text["pooled"].shape == (1, 48)
    torch.testing.assert_close(text["pooled"], short["pooled"])  # of the first chunk
    torch.testing.assert_close(text["hidden_states"][:, :76], short["hidden_states"][:, :76])


def test_gradients_reach_both_encoders(folder: Path) -> None:
    model = load(folder)
    for encoder in model.text_encoders.values():
        encoder.requires_grad_(True)
    text = model.encode_text(["a cat"])
    model.predict(torch.randn(1, 4, 16, 16), torch.tensor([5]), text, torch.zeros(1, 6)).square().mean().backward()
    for encoder in model.text_encoders.values():
        layers = [p for name, p in encoder.named_parameters() if "layers.0" in name]
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layers)


def test_a_image_is_drawn(model: SDXLModel) -> None:
    request = SampleRequest("a cat", width=96, height=64, steps=2, seed=3)
    first, second = model.generate(request), model.generate(request)
    assert first.size == (96, 64) and first.tobytes() == second.tobytes()


def test_what_the_file_states_about_its_noise(tmp_path: Path, folder: Path) -> None:
    marked = recognise(tiny_sdxl(tmp_path, file=True, markers=("v_pred", "ztsnr")))
    assert marked.prediction_type == "v_prediction" and marked.zero_terminal_snr
    assert "prediction type v_prediction: the file has the marker tensor v_pred" in marked.reasons
    assert float(load(marked.path).training_alphas_cumprod[-1]) == 0
    with refused("v-parameterization-contradicts-model"):
        load(marked.path, v_parameterization=False)
    with_clip_skip = load(folder, messages=(messages := []), clip_skip=2)
    assert with_clip_skip.prediction_type == "epsilon"
    assert any("model.clip_skip has no effect" in text for text in messages)
    stated = recognise(tiny_sdxl(tmp_path / "v", prediction_type="v_prediction"))
    with refused("v-parameterization-contradicts-model"):
        family_named("sdxl").check(RunConfig().changed(model={"v_parameterization": False}), stated)


def test_a_name_with_v_prediction(tmp_path: Path) -> None:
    plain = tiny_sdxl(tmp_path, file=True)
    named = plain.rename(tmp_path / "noobaiXL_vPred10.safetensors")
    by_name = [text for text in recognise(named).reasons if "its name has v-prediction" in text]
    assert len(by_name) == 1 and recognise(named).prediction_type == "epsilon"
    with_clip_skip = RunConfig().changed(model={"v_parameterization": True})
    reasons = family_named("sdxl").effective_recognition(with_clip_skip, recognise(named)).reasons
    assert "prediction type v_prediction: model.v_parameterization; the file does not state it" in reasons
    assert not any("epsilon" in text or "its name" in text for text in reasons)
    marked = tiny_sdxl(tmp_path, file=True, markers=("v_pred",)).rename(named)
    assert not any("its name" in text for text in recognise(marked).reasons)


def table(name: str) -> list[tuple[str, str, int, int]]:
    rows = [line.split("\t") for line in (FIXTURES / name).read_text().splitlines()]
    return [(row[0], {"lin": "linear"}.get(row[1], row[1]), int(row[2][3:]), int(row[3][4:])) for row in rows]


@pytest.fixture(scope="module")
def real_size() -> dict[str, Any]:
    return {
        part: meta_module(build, json.loads((ASSETS / "sdxl" / part / "config.json").read_text()))
        for part, build in builders_of(SDXL_SPEC).items()
    }


def test_real_sizes(real_size: dict[str, Any]) -> None:
    counts = {part: sum(p.numel() for p in module.parameters()) for part, module in real_size.items()}
    assert counts == {
        "text_encoder": 123_060_480, "text_encoder_2": 694_659_840, "unet": 2_567_463_684, "vae": 83_653_863,
    }  # fmt: skip


@pytest.mark.parametrize(("conv", "name"), [(False, "keys_sdxl_unet.tsv"), (True, "keys_sdxl_unet_conv.tsv")])
def test_kohyas_tables(real_size: dict[str, Any], conv: bool, name: str) -> None:
    """Names, kinds, sizes and order of all modules that Kohya trains."""
    stand_in = SDXLModel.__new__(SDXLModel)
    stand_in.text_encoders = {part: real_size[part] for part in ("text_encoder", "text_encoder_2")}
    stand_in.unet = real_size["unet"]
    rows = []
    for target in stand_in.lora_targets(conv=conv):
        layer = real_size[target.component].get_submodule(target.path)
        linear = isinstance(layer, nn.Linear)
        sizes = (layer.in_features, layer.out_features) if linear else (layer.in_channels, layer.out_channels)
        rows.append((target.kohya_name, target.kind, *sizes))
    assert rows == table("keys_sdxl_te.tsv") + table(name)


def test_the_table_of_inspect() -> None:
    unet, text = table("keys_sdxl_unet.tsv"), table("keys_sdxl_te.tsv")
    assert sorted(TABLES["SDXL"].attention["U-Net"]) == sorted(row[0] for row in unet)
    assert TABLES["SDXL"].names == {row[0] for row in [*table("keys_sdxl_unet_conv.tsv"), *text]}


def test_the_second_encoder_takes_loras_too(real_size: dict[str, Any]) -> None:
    assert len(text_targets(real_size["text_encoder_2"], "text_encoder_2", "lora_te2_")) == 192


@pytest.mark.parametrize(
    ("device", "compute", "settings", "own", "expected", "note"),
    [
        ("cpu", torch.bfloat16, {}, {}, torch.float32, ""),
        ("cuda:0", torch.bfloat16, {}, {}, torch.bfloat16, "VAE in bf16"),
        ("cuda:0", torch.float16, {}, {"force_upcast": True}, torch.float32, "overflows in fp16"),
        ("cuda:0", torch.float16, {}, {"force_upcast": False}, torch.float16, "force_upcast is off"),
        ("cuda:0", torch.float16, {"vae": "/x/sdxl_vae_fp16_fix.safetensors"}, {}, torch.float16, "its name has"),
        ("cuda:0", torch.float16, {"no_half_vae": True}, {"force_upcast": False}, torch.float32, ""),
    ],
)
def test_the_vaes_number_format(
    device: str, compute: torch.dtype, settings: dict[str, Any], own: dict[str, Any], expected: torch.dtype, note: str
) -> None:
    messages: list[str] = []
    model = RunConfig().changed(model=settings).model
    assert choose_vae_dtype(model, own, torch.device(device), compute, messages.append) is expected
    assert bool(messages) == bool(note) and all(note in text for text in messages)


def test_near_relatives_are_refused(tmp_path: Path, folder: Path, single_file: Path) -> None:
    tensors = load_file(single_file)

    def without(prefix: str) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}

    stem = "model.diffusion_model.input_blocks.0.0.weight"
    refiner = without("conditioner.") | {"conditioner.embedders.0.model.text_projection": torch.zeros(2, 2)}
    for changed, code, lacking in (
        (without("conditioner.embedders.0."), "checkpoint-without-parts", "first text encoder"),
        (without("conditioner.embedders.1."), "checkpoint-without-parts", "second text encoder"),
        (without("first_stage_model."), "checkpoint-without-parts", "VAE"),
        (refiner, "model-is-sdxl-refiner", ""),
        (tensors | {stem: torch.zeros(32, 9, 3, 3)}, "model-is-inpainting", ""),
    ):
        save_file(changed, tmp_path / "x.safetensors")
        with refused(code, tmp_path / "x.safetensors", lacking):
            recognise(tmp_path / "x.safetensors")
    for part, change, code in (
        ("unet/config.json", {"in_channels": 9}, "model-is-inpainting"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "model-is-edm"),
    ):
        copy = Path(shutil.copytree(folder, tmp_path / part.replace("/", "_")))
        settings = json.loads((copy / part).read_text()) | change
        (copy / part).write_text(json.dumps(settings))
        with refused(code, copy):
            recognise(copy)
