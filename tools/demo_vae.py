"""The VAE stage of the demo base: a three-level `AutoencoderKL` and the latents of a fixed set of images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import demo_world as world
import numpy as np
import torch
from demo_pen import SIZE, scribble
from demo_training import Clock, Ema, Team, atomic_save, draw_many, learning_rate, seeded, set_rate, unit_range
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

Vae = Any  # diffusers publishes no types
FULL_FROM = 0.85


def vae_image(index: int) -> np.ndarray[Any, Any]:
    """Training image `index`: two of the world to one scribble, uint8 (64, 64, 3)."""
    rng = seeded(index)
    return np.asarray(scribble(rng) if index % 3 == 2 else world.draw_scene(world.sample_scene(rng)))


def new_vae() -> Vae:
    """An `AutoencoderKL` with 16x16x4 latents of 64x64 images, 0.7 M weights."""
    new: Any = AutoencoderKL
    vae: Vae = new(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -5.0  # start with little posterior noise
    return vae.to(memory_format=torch.channels_last)


def decibels(vae: Vae, images: Tensor) -> tuple[float, Tensor]:
    """Mean PSNR over the uint8 images, and the reconstructions (n, 3, 64, 64) in -1..1."""
    with torch.no_grad():
        target = unit_range(images)
        back = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((back - target) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean()), back


def vae_images(work: Path, count: int = 24_000) -> tuple[Tensor, Tensor]:
    """The training images and 48 validation images of the world, drawn once; uint8 (n, 3, 64, 64)."""
    path = work / "vae_images.pt"
    if not path.exists():
        validation = [i for i in range(1_000_000, 1_000_072) if i % 3 != 2]
        atomic_save({"train": draw_many(vae_image, range(count)), "held_out": draw_many(vae_image, validation)}, path)
    saved = torch.load(path, weights_only=True)
    return saved["train"], saved["held_out"]


def vae_step(vae: Vae, images: Tensor) -> Tensor:
    """The loss on uint8 images: L1, MSE and a tiny KL."""
    target = unit_range(images)
    posterior = vae.encode(target).latent_dist
    back = vae.decode(posterior.sample()).sample
    kl = 0.5 * (posterior.mean.square() + posterior.var - 1.0 - posterior.logvar).mean()
    loss: Tensor = F.l1_loss(back, target) + 2.0 * F.mse_loss(back, target) + 1e-4 * kl
    return loss


def crop(images: Tensor, side: int) -> Tensor:
    """The same random square of `side` pixels from each image (n, 3, side, side)."""
    top, left = (int(torch.randint(SIZE - side + 1, ())) for _ in range(2))
    return images[:, :, top : top + side, left : left + side]


def decoder_step(vae: Vae, images: Tensor) -> Tensor:
    """The loss of the decoder alone on uint8 images: windows of 8x8 slightly noisy latents."""
    target = unit_range(images)
    with torch.no_grad():
        latents = vae.encode(target).latent_dist.mode()
        latents += 0.08 * latents.std() * torch.randn_like(latents)
    top, left = (int(torch.randint(9, ())) for _ in range(2))
    back = vae.decode(latents[:, :, top : top + 8, left : left + 8]).sample
    window = target[:, :, 4 * top : 4 * top + 32, 4 * left : 4 * left + 32]
    loss: Tensor = F.l1_loss(back, window) + 2.0 * F.mse_loss(back, window)
    return loss


def loss_of(vae: Vae, images: Tensor, share: float, tune: bool) -> Tensor:
    """One process's loss: decoder windows, or cheap 32-pixel crops at first and whole images at the end."""
    count = 6 if tune else 8 if share < FULL_FROM else 4
    batch = images[torch.randint(len(images), (count,))]
    if tune:
        return decoder_step(vae, batch)
    return vae_step(vae, crop(batch, 32) if share < FULL_FROM else batch)


def train_vae(team: Team, work: Path, minutes: float, steps: int, tune: bool = False) -> None:
    """Train the VAE, keeping an EMA, resuming from `work/vae.pt`; `tune` continues with the decoder alone."""
    path, peak = (work / "vae_tuned.pt", 8e-4) if tune else (work / "vae.pt", 2e-3)
    torch.manual_seed(0)
    vae = load_vae(work).train() if tune else new_vae()
    ema, clock = Ema(vae, 0.998), Clock(minutes, steps)
    parts = (vae.decoder, vae.post_quant_conv) if tune else (vae,)
    parameters = [p.requires_grad_() for part in parts for p in part.parameters()]
    optimiser = torch.optim.AdamW([{"params": parameters, "peak": peak}], lr=peak, betas=(0.9, 0.98), weight_decay=1e-3)
    if path.exists():
        saved = torch.load(path, weights_only=True)
        vae.load_state_dict(saved["vae"])
        ema.module.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        clock.step, clock.spent = saved["step"], saved["spent"]
    images, validation = vae_images(work)
    torch.manual_seed(1 + team.rank + 10 * clock.step)
    share, losses = clock.share(), []
    while share < 1.0:
        set_rate(optimiser, learning_rate(1.0, share, clock.step, hold=0.2 if tune else 0.4))
        optimiser.zero_grad(set_to_none=True)
        loss = loss_of(vae, images, share, tune)
        torch.autograd.backward(loss)
        share = team.average(parameters, clock.share())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        clock.step += 1
        if not team.leads:
            continue
        ema.update(vae, clock.step)
        losses.append(float(loss.detach()))
        if clock.log_due():
            quality = decibels(ema.module, validation[:16])[0]
            print(f"vae step {clock.step} share {share:.3f} loss {np.mean(losses):.4f} dB {quality:.2f}", flush=True)
            losses = []
        if clock.save_due() or share >= 1.0:
            state = {"vae": vae.state_dict(), "ema": ema.module.state_dict(), "optimiser": optimiser.state_dict()}
            atomic_save({**state, "step": clock.step, "spent": clock.spent}, path)


def adopt_vae(folder: Path, work: Path) -> None:
    """Take an exported VAE as `work/vae.pt`."""
    vae: Vae = AutoencoderKL.from_pretrained(folder).float()
    atomic_save({"ema": vae.state_dict()}, work / "vae.pt")


def load_vae(work: Path) -> Vae:
    """The averaged weights, with the tuned decoder if there is one."""
    vae, tuned = new_vae(), work / "vae_tuned.pt"
    vae.load_state_dict(torch.load(tuned if tuned.exists() else work / "vae.pt", weights_only=True)["ema"])
    return vae.eval().requires_grad_(False)
