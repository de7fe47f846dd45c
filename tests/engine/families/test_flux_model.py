"""FLUX.1's computation is diffusers': text, latents, velocity, whole images; and Kohya's names for its layers."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline as Packing
from torch import nn

from engine.config import RunConfig
from engine.families.flux.model import FluxModel
from engine.families.flux.packing import pack, positions, unpack
from engine.families.flux.parts import BUILDERS, CONFIGURATIONS
from engine.families.flux.reader import _split_fused
from engine.families.flux.sampling import prompts
from engine.families.flux.targets import lora_targets
from engine.families.flux.text import t5_ids
from engine.families.registry import family_named, recognise
from engine.models.loading import meta_module
from engine.types import SampleRequest
from tests.tiny_flux import tiny_folder

FIXTURES = Path(__file__).parent / "fixtures"
REQUEST = SampleRequest("a zed, blue", "dull", 64, 80, seed=3, steps=3, scale=1.0, guidance=3.5)


def load(folder: Path, **keys: Any) -> FluxModel:
    config = RunConfig().changed(model={"pretrained_model_name_or_path": str(folder), **keys})
    model = family_named("flux").load(config, recognise(folder), "cpu", "fp32", lambda _: None)
    assert isinstance(model, FluxModel)
    return model


@pytest.fixture(scope="module", params=["dev", "schnell"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("folder"), dev=request.param == "dev", blocks=(2, 2))


@pytest.fixture(scope="module")
def model(folder: Path) -> FluxModel:
    return load(folder, t5xxl_max_token_length=32)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    pipeline_class: Any = FluxPipeline
    pipe = pipeline_class.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_text_is_what_the_pipeline_encodes(model: FluxModel, pipeline: Any) -> None:
    captions = ["a zed, blue", ""]
    outputs = model.encode_text(captions)
    states, pooled, _ = pipeline.encode_prompt(captions, captions, max_sequence_length=32)
    torch.testing.assert_close(outputs["states"], states)
    torch.testing.assert_close(outputs["pooled"], pooled)
    assert model.encode_text(captions, ["text_encoder"]).keys() == {"pooled"}
    assert model.encode_text(captions, ["text_encoder_2"]).keys() == {"states"}


def test_packing_is_that_of_the_pipeline() -> None:
    latents = torch.randn(2, 16, 6, 8)
    packed = pack(latents)
    assert torch.equal(packed, Packing._pack_latents(latents, 2, 16, 6, 8))
    assert torch.equal(unpack(packed, 6, 8), latents)
    theirs = Packing._prepare_latent_image_ids(1, 3, 4, torch.device("cpu"), torch.float32)
    assert torch.equal(positions(6, 8, torch.device("cpu")), theirs)


def test_the_velocity_is_that_of_the_transformer(model: FluxModel, pipeline: Any) -> None:
    latents, times = torch.randn(2, 16, 6, 8), torch.tensor([250.0, 900.0])
    text = model.encode_text(["a zed", "b"])
    velocity = model.predict(latents, times, text, torch.zeros(2, 6))
    theirs = pipeline.transformer(
        hidden_states=Packing._pack_latents(latents, 2, 16, 6, 8),
        encoder_hidden_states=text["states"],
        pooled_projections=text["pooled"],
        timestep=times / 1000,
        guidance=torch.ones(2) if model.guided else None,
        img_ids=Packing._prepare_latent_image_ids(1, 3, 4, torch.device("cpu"), torch.float32),
        txt_ids=torch.zeros(32, 3),
        return_dict=False,
    )[0]
    torch.testing.assert_close(velocity, Packing._unpack_latents(theirs, 48, 64, 8))
    assert (model.velocity(latents, times, text, 3.5) - velocity).abs().max().item() > 0 or not model.guided


def test_latents_are_shifted_and_scaled(model: FluxModel, pipeline: Any) -> None:
    pixels = torch.rand(1, 3, 32, 48) * 2 - 1
    mean, deviation = model.encode_pixels(pixels).chunk(2, dim=1)
    posterior = pipeline.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, (posterior.mean - 0.1159) * 0.3611)
    torch.testing.assert_close(deviation, posterior.std * 0.3611)
    torch.testing.assert_close(model.decode_latents(mean), pipeline.vae.decode(posterior.mean).sample.clamp(-1, 1))


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_images_are_those_of_the_pipeline(model: FluxModel, pipeline: Any, scale: float) -> None:
    request = replace(REQUEST, scale=scale)
    ours = model.generate(request)
    noise = torch.randn((1, 16, 10, 8), generator=torch.Generator().manual_seed(3))
    guided: dict[str, Any] = {"true_cfg_scale": scale, "negative_prompt": "dull"} if scale > 1 else {}
    theirs = pipeline(
        request.prompt,
        height=80,
        width=64,
        num_inference_steps=3,
        guidance_scale=3.5,
        latents=Packing._pack_latents(noise, 1, 16, 10, 8),
        max_sequence_length=32,
        **guided,
    ).images[0]
    assert ours.size == theirs.size == (64, 80)
    assert numpy.abs(numpy.asarray(ours, int) - numpy.asarray(theirs, int)).max() <= 1


def test_padding_is_not_looked_at_with_the_mask(folder: Path) -> None:
    masked = load(folder, t5xxl_max_token_length=32, apply_t5_attn_mask=True)
    text = masked.encode_text(["a zed"])
    assert text["mask"].sum().item() < 32
    changed = {**text, "states": torch.where(text["mask"][..., None], text["states"], 7.0)}
    latents, times = torch.randn(1, 16, 4, 4), torch.tensor([500.0])
    expected, actual = (masked.predict(latents, times, inputs, torch.zeros(1, 6)) for inputs in (text, changed))
    torch.testing.assert_close(expected, actual)
    plain = {key: value for key, value in changed.items() if key != "mask"}
    assert not torch.allclose(masked.predict(latents, times, plain, torch.zeros(1, 6)), expected)


def test_t5_itself_gets_the_mask(folder: Path) -> None:
    """As the scripts do with `apply_t5_attn_mask`: text is encoded as if there were no padding behind it."""
    states = {}
    for masked in (False, True):
        for length in (16, 32):
            model = load(folder, t5xxl_max_token_length=length, apply_t5_attn_mask=masked)
            text = model.encode_text(["a zed"])
            count = int(t5_ids(model.tokenizer_2, ["a zed"], length)[1].sum())
            states[masked, length] = text["states"][:, :count]
    torch.testing.assert_close(states[True, 16], states[True, 32])
    assert not torch.allclose(states[False, 16], states[False, 32])
    assert not torch.allclose(states[False, 32], states[True, 32])


def test_t5_is_freed_and_prompts_are_cached(folder: Path) -> None:
    model = load(folder, t5xxl_max_token_length=32)
    before = model.generate(REQUEST)
    model.precompute_prompts(["other"])
    t5 = weakref.ref(model.text_encoders["text_encoder_2"])
    model.free_encoders(["text_encoder_2"])
    gc.collect()
    assert t5() is None
    assert list(model.text_encoders) == ["text_encoder"]
    assert len(model.text_key) == 64
    assert model.generate(REQUEST).tobytes() == before.tobytes()
    assert model.generate(replace(REQUEST, prompt="other")).tobytes() != before.tobytes()
    with pytest.raises(AssertionError, match="freed already"):
        model.generate(replace(REQUEST, prompt="a third"))
    assert prompts(replace(REQUEST, scale=2.0)) == ["dull", "a zed, blue"]


def test_t5_never_meets_the_transformer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(folder, t5xxl_max_token_length=32)
    moves: list[tuple[str, str]] = []
    for name in ("acquire", "release"):
        true = getattr(model.placement, name)
        monkeypatch.setattr(
            model.placement, name, lambda part, true=true, name=name: (moves.append((name, part)), true(part))
        )
    model.acquire("denoiser")
    model.generate(REQUEST)
    here: set[str] = set()
    for move, part in moves:
        (here.add if move == "acquire" else here.discard)(part)
        assert not {"denoiser", "text_encoder"} <= here
    assert here == {"denoiser"}


@pytest.fixture(scope="module")
def real() -> dict[str, Any]:
    return {
        part: meta_module(BUILDERS[part], json.loads((CONFIGURATIONS / part / "config.json").read_text()))
        for part in ("transformer", "text_encoder", "text_encoder_2", "vae")
    }


def test_real_sizes(real: dict[str, Any]) -> None:
    counts = {part: sum(parameter.numel() for parameter in module.parameters()) for part, module in real.items()}
    counts["text_encoder_2"] -= 32_128 * 4096  # T5's token embeddings stand there twice
    assert counts == {
        "transformer": 11_901_408_320,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
        "vae": 83_819_683,
    }


def test_kohyas_table(real: dict[str, Any]) -> None:
    targets = lora_targets(real["text_encoder"], real["transformer"])
    text = [target for target in targets if target.component == "text_encoder"]
    assert len(text) == 72
    assert all(target.kohya_name.startswith("lora_te1_text_model_encoder_layers_") for target in text)
    lines = []
    for target in targets[72:]:
        layers: list[Any] = [real["transformer"].get_submodule(path) for path in target.paths]
        assert all(isinstance(layer, nn.Linear) for layer in layers)
        assert len({layer.in_features for layer in layers}) == 1
        rows = sum(layer.out_features for layer in layers)
        lines.append(f"{target.kohya_name}\tlin\tin={layers[0].in_features}\tout={rows}")
    assert lines == (FIXTURES / "keys_flux_dit.tsv").read_text().splitlines()


def test_small_transformers_are_taken_apart_as_diffusers_does(real: dict[str, Any]) -> None:
    """Of the real width, rank 1: what the reader makes for small ones is what diffusers' converter makes."""
    tensors: dict[str, torch.Tensor] = {}
    chosen = ("double_blocks_3_", "single_blocks_5_", "lora_te1_text_model_encoder_layers_0_")
    for target in lora_targets(real["text_encoder"], real["transformer"]):
        if any(part in target.kohya_name for part in chosen):
            layers: list[Any] = [real[target.component].get_submodule(path) for path in target.paths]
            rows = sum(layer.out_features for layer in layers)
            tensors[f"{target.kohya_name}.lora_down.weight"] = torch.randn(1, layers[0].in_features)
            tensors[f"{target.kohya_name}.lora_up.weight"] = torch.randn(rows, 1)
            tensors[f"{target.kohya_name}.alpha"] = torch.tensor(2.0)
    assert len(tensors) == 3 * (10 + 3 + 6)
    mine = _split_fused(real["transformer"], tensors)
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(tensors))
    assert {key for key in mine if key.startswith("transformer.")} == {
        k for k in theirs if k.startswith("transformer.")
    }
    for key, tensor in theirs.items():
        if key.startswith("transformer."):
            assert torch.equal(mine[key], tensor), key
