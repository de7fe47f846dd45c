"""Two golden comparisons on the demo base: against a plain diffusers + peft loop, and against our own pinned losses."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image

from engine import paths
from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.runs.events import read_events
from engine.runs.prepare import prepare_run
from tests.engine.training.conftest import start

BASE, IMAGES = paths.ASSETS / "demo_base", paths.ASSETS / "demo_pictures"
GOLDEN = Path(__file__).parent / "fixtures" / "demo_losses.json"
STEPS, BATCH, RATE, SEED, RANK = 10, 4, 1e-3, 42, 8


@pytest.fixture(scope="module")
def our_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    place = tmp_path_factory.mktemp("golden")
    settings = {
        "model.pretrained_model_name_or_path": BASE,
        "dataset.train_data_dir": IMAGES,
        "dataset.resolution": 64,
        "dataset.enable_bucket": "false",
        "dataset.num_repeats": 1,
        "saving.output_name": "golden",
        "saving.output_dir": place / "out",
        "training.max_train_steps": STEPS,
        "training.train_batch_size": BATCH,
        "training.learning_rate": RATE,
        "training.lr_scheduler": "constant",
        "training.seed": SEED,
        "network.network_dim": RANK,
        "network.network_alpha": RANK,
        "sampling.sample_every_n_steps": 0,
        "memory.mixed_precision": "no",
        "memory.num_cpu_threads_per_process": 1,
        "saving.save_every_n_epochs": 0,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        run = prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]))
        process = start(run)
    assert process.wait(300) == ExitCode.DONE, run.log_path.read_text()[-3000:]
    return [event.data["loss"] for event in read_events(run.events_path) if event.type == "step"]


def seeded(*parts: object) -> torch.Generator:
    digest = hashlib.blake2b("/".join(map(str, (SEED, *parts))).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def plain_losses() -> list[float]:
    """A training loop as a person writes it with diffusers and peft, on the same images, order and noise."""
    pipe = StableDiffusionPipeline.from_pretrained(
        BASE, dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    unet, text_encoder, vae, tokenizer = pipe.unet, pipe.text_encoder, pipe.vae, pipe.tokenizer
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    text_encoder.requires_grad_(False)
    unet.requires_grad_(False)
    text_encoder.add_adapter(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"])
    )
    unet.add_adapter(
        LoraConfig(
            r=RANK,
            lora_alpha=RANK,
            target_modules=["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"],
        )
    )
    start_like_kohya(text_encoder, unet)
    parameters = [p for model in (text_encoder, unet) for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE)

    files = sorted(IMAGES.glob("*.png"))
    moments, captions = [], []
    for file in files:
        pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1
        with torch.no_grad():
            moments.append(vae.encode(pixels[None]).latent_dist)
        captions.append(file.with_suffix(".txt").read_text().strip())

    losses = []
    per_epoch = math.ceil(len(files) / BATCH)
    for step in range(STEPS):
        epoch, position = step // per_epoch + 1, step % per_epoch
        rng = random.Random(f"order {SEED} {epoch}")
        order = list(range(len(files)))
        rng.shuffle(order)
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        rng.shuffle(batches)
        chosen = batches[position]
        draws = seeded("step", step, 0, 0)
        mean = torch.cat([moments[i].mean for i in chosen])
        deviation = torch.cat([moments[i].std for i in chosen])
        latents = (mean + deviation * torch.randn(mean.shape, generator=draws)) * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=draws)
        timesteps = torch.randint(0, 1000, (len(chosen),), generator=draws)
        noisy = schedule.add_noise(latents, noise, timesteps)
        ids = tokenizer(
            [captions[i] for i in chosen],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        prediction = unet(noisy, timesteps, text_encoder(ids)[0]).sample
        epsilon = schedule.config.prediction_type == "epsilon"
        target = noise if epsilon else schedule.get_velocity(latents, noise, timesteps)
        loss = torch.nn.functional.mse_loss(prediction, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def start_like_kohya(*models: torch.nn.Module) -> None:
    """Down: kaiming uniform with a = sqrt(5), text encoder first; up: zeros."""
    draws = seeded("lora")
    for model in models:
        layers = [(name, module) for name, module in model.named_modules() if hasattr(module, "lora_A")]
        blocks = groupby(layers, lambda layer: re.split(r"\.(?:attn\d|ff)\.", layer[0])[0])
        for _, block in blocks:  # Kohya's U-Net has attn2 behind ff, diffusers' before it
            for _, module in sorted(block, key=lambda layer: ".attn2." in layer[0]):
                torch.nn.init.kaiming_uniform_(module.lora_A["default"].weight, a=math.sqrt(5), generator=draws)
                torch.nn.init.zeros_(module.lora_B["default"].weight)


def test_our_losses_are_those_of_a_plain_loop(our_losses: list[float]) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plain = plain_losses()
    torch.set_num_threads(threads)
    assert len(our_losses) == STEPS
    worst = max(abs(ours - theirs) for ours, theirs in zip(our_losses, plain, strict=True))
    assert worst <= 1e-5, f"largest difference {worst}"


def test_our_losses_are_the_pinned_ones(our_losses: list[float]) -> None:
    """A change here changes what a seed means: say so in the change log, and write the file anew."""
    assert our_losses == pytest.approx(json.loads(GOLDEN.read_text()), abs=1e-5)
