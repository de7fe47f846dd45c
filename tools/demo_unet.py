"""The U-Net stage of the demo base: v-prediction on fixed latents, U-Net and text encoder together."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, cast

import demo_world as world
import numpy as np
import torch
from demo_captions import describe
from demo_text import WIDTH, load_tokenizer, new_text_encoder, token_ids
from demo_training import Clock, Ema, Team, atomic_save, learning_rate, seeded, set_rate, unit_range
from demo_vae import load_vae
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

IMAGES = 12_000
DROPOUT = 0.1
LENGTHS = (32, 32, 32, 77)
LATENT_OFFSET = 4_000_000


def scene_image(index: int) -> np.ndarray[Any, Any]:
    """Image `index` of the U-Net's training set, uint8 (64, 64, 3)."""
    return np.asarray(world.draw_scene(world.sample_scene(seeded(LATENT_OFFSET + index))))


def encode_images(team: Team, work: Path) -> None:
    """Write this process's share of the latents, scaled to unit deviation, with the scale."""
    vae = load_vae(work)
    mine = range(team.rank, IMAGES, team.size)
    latents: list[Tensor] = []
    with torch.no_grad():
        for start in range(0, len(mine), 64):
            images = torch.from_numpy(np.stack([scene_image(i) for i in mine[start : start + 64]]))
            posterior = vae.encode(unit_range(images.permute(0, 3, 1, 2))).latent_dist
            latents.append(posterior.mode())
            if team.leads and start % 2048 == 0:
                print(f"latents {start * team.size} of {IMAGES}", flush=True)
    atomic_save({"latents": torch.cat(latents), "indices": list(mine)}, work / f"latents_{team.rank}.pt")


def load_latents(work: Path) -> tuple[Tensor, list[int], float]:
    """Scaled latents (n, 4, 16, 16), their image numbers, and the VAE's scaling factor."""
    parts = [torch.load(path, weights_only=True) for path in sorted(work.glob("latents_*.pt"))]
    latents = torch.cat([part["latents"] for part in parts])
    scale = 1.0 / float(latents.std())
    return latents * scale, [i for part in parts for i in part["indices"]], scale


def new_unet() -> Any:
    """Stable Diffusion 1.5's layout with three levels and 4.4 M weights."""
    new: Any = UNet2DConditionModel
    unet: Any = new(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(48, 96, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    return unet.to(memory_format=torch.channels_last)


def new_scheduler() -> Any:
    """Stable Diffusion 1.5's noise schedule with v-prediction."""
    new: Any = DDIMScheduler
    scheduler: Any = new(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        rescale_betas_zero_snr=False,
    )
    return scheduler


class Noiser:
    """The forward process and its v targets."""

    def __init__(self) -> None:
        self.alphas = new_scheduler().alphas_cumprod

    def __call__(self, latents: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy latents and v at integer `times` (n,)."""
        alpha = self.alphas[times].sqrt().view(-1, 1, 1, 1)
        sigma = (1 - self.alphas[times]).sqrt().view(-1, 1, 1, 1)
        return alpha * latents + sigma * noise, alpha * noise - sigma * latents


def caption_of(index: int, rng: random.Random) -> str:
    """A fresh caption of image `index`, sometimes empty."""
    scene = world.sample_scene(seeded(LATENT_OFFSET + index))
    return "" if rng.random() < DROPOUT else describe(scene, rng)[0]


class Learner:
    """U-Net and text encoder with their averages and optimiser."""

    def __init__(self, work: Path, peak: float, text_peak: float) -> None:
        torch.manual_seed(0)
        self.path = work / "unet.pt"
        self.tokenizer: CLIPTokenizer = load_tokenizer(work)
        self.unet, self.text = new_unet(), cast(nn.Module, new_text_encoder(self.tokenizer))
        self.text.load_state_dict(torch.load(work / "text.pt", weights_only=True)["text_encoder"])
        self.parts: tuple[nn.Module, nn.Module] = (self.unet, self.text)
        self.emas = (Ema(self.unet, 0.998), Ema(self.text, 0.998))
        self.parameters = [p for part in self.parts for p in part.parameters()]
        groups = [
            {"params": list(self.unet.parameters()), "peak": peak},
            {"params": list(self.text.parameters()), "peak": text_peak},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.99), weight_decay=1e-2)

    def predict(self, noisy: Tensor, times: Tensor, captions: list[str], length: int) -> Tensor:
        """The U-Net's v (n, 4, 16, 16) for noisy latents under captions padded to `length` tokens."""
        hidden = self.text(input_ids=token_ids(self.tokenizer, captions, length)).last_hidden_state
        sample: Tensor = self.unet(noisy.contiguous(memory_format=torch.channels_last), times, hidden).sample
        return sample

    def save(self, clock: Clock) -> None:
        """Write the checkpoint."""
        state = {f"part_{i}": part.state_dict() for i, part in enumerate(self.parts)}
        state |= {f"ema_{i}": ema.module.state_dict() for i, ema in enumerate(self.emas)}
        state |= {"optimiser": self.optimiser.state_dict(), "clock": {"step": clock.step, "spent": clock.spent}}
        atomic_save(state, self.path)

    def load(self, clock: Clock) -> None:
        """Continue from the checkpoint, if there is one."""
        if self.path.exists():
            saved = torch.load(self.path, weights_only=True)
            for i, part in enumerate(self.parts):
                part.load_state_dict(saved[f"part_{i}"])
                self.emas[i].module.load_state_dict(saved[f"ema_{i}"])
            if "optimiser" in saved:  # an adopted base has none
                self.optimiser.load_state_dict(saved["optimiser"])
            clock.step, clock.spent = saved["clock"]["step"], saved["clock"]["spent"]


def adopt_unet(folder: Path, work: Path) -> None:
    """Take an exported U-Net and text encoder as the state from which training continues."""
    text: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    unet: Any = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    atomic_save({"text_encoder": text.state_dict()}, work / "text.pt")
    parts = {f"{kind}_{i}": part.state_dict() for kind in ("part", "ema") for i, part in enumerate((unet, text))}
    atomic_save({**parts, "clock": {"step": 0, "spent": 0.0}}, work / "unet.pt")


def train_unet(team: Team, work: Path, minutes: float, steps: int, rate: float = 1.0, batch: int = 8) -> None:
    """Train with `batch` latents a process and step, at `rate` times the usual rates; resumes from `work/unet.pt`."""
    latents, indices, _ = load_latents(work)
    learner, clock, noiser = Learner(work, rate * 1.2e-3, rate * 4e-4), Clock(minutes, steps), Noiser()
    learner.load(clock)
    torch.manual_seed(100 + team.rank + 10 * clock.step)
    rng = seeded(5_000_000 + team.rank + 10 * clock.step)
    share, losses = clock.share(), []
    while share < 1.0:
        set_rate(learner.optimiser, learning_rate(1.0, share, clock.step, 200))
        rows = torch.randint(len(latents), (batch,))
        captions = [caption_of(indices[row], rng) for row in rows.tolist()]
        times = ((torch.rand(batch) + torch.arange(batch)) / batch * 1000).long().clamp_(max=999)
        noise = torch.randn(batch, *latents.shape[1:])
        noisy, target = noiser(latents[rows], noise, times)
        loss = F.mse_loss(learner.predict(noisy, times, captions, LENGTHS[clock.step % len(LENGTHS)]), target)
        learner.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        share = team.average(learner.parameters, clock.share())
        nn.utils.clip_grad_norm_(learner.parameters, 1.0)
        learner.optimiser.step()
        clock.step += 1
        if not team.leads:
            continue
        for ema, part in zip(learner.emas, learner.parts, strict=True):
            ema.update(part, clock.step)
        losses.append(float(loss.detach()))
        if clock.log_due():
            print(f"unet step {clock.step} share {share:.3f} loss {np.mean(losses):.4f}", flush=True)
            losses = []
        if clock.save_due() or share >= 1.0:
            learner.save(clock)


def load_trained(work: Path) -> tuple[Any, Any, CLIPTokenizer]:
    """The averaged U-Net and text encoder, and the tokenizer."""
    learner = Learner(work, 1.0, 1.0)
    learner.load(Clock(1.0))
    return learner.emas[0].module, learner.emas[1].module, learner.tokenizer
