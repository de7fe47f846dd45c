"""What a loaded model does: encode, predict, draw, and leave everything else alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model

from engine.config.memory import MemoryTable
from engine.config.values import Sampler
from engine.families.unet.model import SD15Model
from engine.families.unet.sampling import fit_size, make_scheduler
from engine.lowmem.checkpointing import use_checkpointing
from engine.types import SampleRequest
from tests.refusals import refused
from tests.tiny_models import tiny_sd15

Pipeline: Any = StableDiffusionPipeline
Ddim: Any = DDIMScheduler

CAT = SampleRequest("a photo of a cat", negative_prompt="a dog", width=64, height=64, seed=3, steps=4, scale=3.0)


def pixels_of(image: Any) -> Any:
    return np.asarray(image).astype(int)


def test_sizes_come_from_the_configurations(model: SD15Model) -> None:
    assert (model.latent_channels, model.downscale, model.contexts[0], model.minimum_size) == (4, 4, 77, 64)
    assert model.scaling_factor == 0.18215


def test_encode_pixels(model: SD15Model) -> None:
    pixels = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    outputs = model.encode_pixels(pixels)
    with torch.no_grad():
        posterior = model.vae.encode(pixels).latent_dist
    assert outputs.shape == (2, 8, 16, 12)
    torch.testing.assert_close(outputs[:, :4], posterior.mean * 0.18215)
    torch.testing.assert_close(outputs[:, 4:], posterior.std * 0.18215)
    assert not outputs.requires_grad


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_draws_what_diffusers_pipeline_draws(folder: Path, model: SD15Model, scale: float) -> None:
    pipeline = Pipeline.from_pretrained(folder, local_files_only=True)
    pipeline.scheduler = Ddim.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        CAT.prompt,
        negative_prompt=CAT.negative_prompt,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=scale,
        generator=torch.Generator().manual_seed(CAT.seed),
    ).images[0]
    ours = model.generate(SampleRequest(**{**CAT.__dict__, "scale": scale}))
    assert np.abs(pixels_of(ours) - pixels_of(theirs)).max() <= 1


def test_drawing_changes_nothing_and_repeats(model: SD15Model) -> None:
    model.unet.train()
    model.text_encoders["text_encoder"].encoder.layers[0].train()
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first = model.generate(CAT)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.unet.training and model.unet.conv_in.training
    assert (
        model.text_encoders["text_encoder"].encoder.layers[0].training
        and not model.text_encoders["text_encoder"].training
    )
    model.unet.eval()
    model.text_encoders["text_encoder"].eval()
    assert (pixels_of(first) == pixels_of(model.generate(CAT))).all()
    other = model.generate(SampleRequest(**{**CAT.__dict__, "seed": 4}))
    assert (pixels_of(first) != pixels_of(other)).any()


@pytest.mark.parametrize("sampler", Sampler.__args__)  # type: ignore[attr-defined]
@pytest.mark.filterwarnings("ignore:.*algorithm_type:FutureWarning")
def test_every_sampler_finds_a_known_image(sampler: str) -> None:
    """A perfect denoiser of one constant latent ends at that latent, with each sampler and each schedule."""
    target = torch.tensor([0.5, -1.5, 2.0, 0.0])[None, :, None, None].expand(1, 4, 4, 4)
    config = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": True,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    }
    for zero_snr in (False, True):
        plain = Ddim(**{**config, "rescale_betas_zero_snr": zero_snr}).alphas_cumprod
        asked = {**config, "rescale_betas_zero_snr": zero_snr, "prediction_type": "v_prediction"}
        scheduler = make_scheduler(sampler, asked, plain)
        scheduler.set_timesteps(12)
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(1, 4, 4, 4, generator=generator) * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            seen = scheduler.scale_model_input(latents, step)
            alpha = np.interp(float(step), np.arange(1000), plain.clamp(min=2.0**-24).numpy())
            noise = (seen - alpha**0.5 * target) / (1 - alpha) ** 0.5
            output = alpha**0.5 * noise - (1 - alpha) ** 0.5 * target
            latents = scheduler.step(output, step, latents).prev_sample
        assert (latents - target).abs().mean() < 0.15, (sampler, zero_snr)


def test_k_names_mean_the_same(model: SD15Model) -> None:
    images = [model.generate(SampleRequest(**{**CAT.__dict__, "sampler": name})) for name in ("euler", "k_euler")]
    assert (pixels_of(images[0]) == pixels_of(images[1])).all()
    with refused("no-such-sampler"):
        model.generate(SampleRequest(**{**CAT.__dict__, "sampler": "ddum"}))


@pytest.mark.parametrize(("asked", "got"), [((100, 71), (96, 64)), ((8, 512), (64, 512)), ((64, 64), (64, 64))])
def test_sizes_are_rounded_down(asked: tuple[int, int], got: tuple[int, int]) -> None:
    assert fit_size(*asked, multiple=8, minimum=64) == got


def test_other_shapes_and_long_prompts(folder: Path, load: Any) -> None:
    model = load(folder, max_token_length=225, clip_skip=2)
    image = model.generate(SampleRequest("cat " * 120, width=99, height=64, steps=2))
    assert image.size == (96, 64)
    assert model.encode_text(["a", "b"])["hidden_states"].shape == (2, 227, 32)


def test_an_image_that_is_not_finite_is_reported(folder: Path, load: Any) -> None:
    model = load(folder)
    model.unet.conv_out.bias.data.fill_(float("nan"))
    with refused("sample-not-finite", "the denoiser"):
        model.generate(CAT)
    model = load(folder)
    model.vae.decoder.conv_out.bias.data.fill_(float("nan"))
    with refused("sample-not-finite", "the VAE"):
        model.generate(CAT)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_flow_and_checkpointing_changes_nothing(folder: Path, load: Any, dtype: str) -> None:
    outputs = []
    for checkpointing in (False, True):
        model = load(folder, dtype=dtype, clip_skip=2, max_token_length=150)
        torch.manual_seed(0)
        for name, module in model.trainable.items():
            target_modules = ["q_proj", "fc1"] if name == "text_encoder" else ["to_k", "proj_in"]
            inject_adapter_in_model(LoraConfig(r=2, target_modules=target_modules, init_lora_weights=False), module)
            module.train()
        use_checkpointing(model, MemoryTable(gradient_checkpointing=checkpointing), print)
        text = model.encode_text(["a photo of a cat", "a dog"])
        noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        output = model.predict(noisy, torch.tensor([10, 900]), text, torch.zeros(2, 6))
        assert output.dtype == torch.float32
        output.square().mean().backward()
        outputs.append(
            {
                f"{part}.{name}": parameter.grad
                for part, module in model.trainable.items()
                for name, parameter in module.named_parameters()
                if parameter.requires_grad
            }
        )
        use_checkpointing(model, MemoryTable(), print)
        modules = [module for root in model.trainable.values() for module in root.modules()]
        assert not any(getattr(module, "gradient_checkpointing", False) for module in modules)
    assert outputs[0].keys() == outputs[1].keys()
    skipped = [name for name, gradient in outputs[0].items() if gradient is None]
    assert skipped and all("encoder.layers.1." in name for name in skipped), "clip_skip 2 leaves out the last layer"
    for name, gradient in outputs[0].items():
        if gradient is not None:
            assert gradient.abs().max() > 0, name
            assert torch.equal(gradient, outputs[1][name]), name


def test_checkpointing_a_frozen_text_encoder_asks_for_no_gradient(folder: Path, load: Any) -> None:
    model = load(folder)
    model.text_encoders["text_encoder"].train()
    use_checkpointing(model, MemoryTable(gradient_checkpointing=True), print)
    assert not model.encode_text(["a"])["hidden_states"].requires_grad


def test_content_keys(tmp_path: Path, folder: Path, model: SD15Model, load: Any) -> None:
    again = load(folder)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj"]), again.text_encoders["text_encoder"])
    assert (again.vae_key, again.text_key) == (model.vae_key, model.text_key), "adapters do not count"
    other = load(tiny_sd15(tmp_path, seed=1))
    assert other.vae_key != model.vae_key
    keys = {model.text_key, other.text_key}
    keys |= {load(folder, **changed).text_key for changed in ({"clip_skip": 2}, {"max_token_length": 150})}
    keys.add(load(folder, dtype="bf16").text_key)
    assert len(keys) == 5


def test_released_parts_come_back_for_a_image(folder: Path, load: Any) -> None:
    model = load(folder)
    moves: list[tuple[str, str]] = []
    for name in ("vae", "text_encoder"):
        module = model.vae if name == "vae" else model.text_encoders[name]
        module.to = lambda device, name=name: moves.append((name, str(device)))
        model.release(name)
    moves.clear()
    model.placement.device = torch.device("cpu:0")
    with model.on_device("vae", "text_encoder"):
        assert moves == [("vae", "cpu:0"), ("text_encoder", "cpu:0")]
    assert moves[2:] == [("vae", "cpu"), ("text_encoder", "cpu")]
    model.acquire("vae")
    with model.on_device("vae"):
        assert moves[-1] == ("vae", "cpu:0")
    assert moves[-1] == ("vae", "cpu:0"), "what was not released stays"


def test_cached_prompts_need_no_text_encoder(model: SD15Model, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model.generate(CAT)
    model.precompute_prompts([CAT.prompt, CAT.negative_prompt])
    try:
        with monkeypatch.context() as gone:
            gone.setattr(type(model), "encode_text", lambda *_: pytest.fail("a text encoder was asked"))
            assert (pixels_of(model.generate(CAT)) == pixels_of(before)).mean() > 0.99  # encoded together or one by one
        assert (
            pixels_of(model.generate(SampleRequest(**{**CAT.__dict__, "prompt": "dog"}))) != pixels_of(before)
        ).any()
    finally:
        model._cached_prompts.clear()
