"""A loaded model of the two UNet families: everything but how captions are encoded and the UNet is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from engine.models.base import LoraReader, Model, Recognition, SampleRequest
from engine.models.drawing import finished, in_tiles
from engine.models.ldm import sampling
from engine.models.ldm.schedule import alphas_cumprod
from engine.models.residence import Residence, evaluating


class LatentDiffusionModel(Model):
    """See `Model`. Attention is PyTorch's SDPA throughout. The UNet keeps the contiguous memory format: channels_last
    made no difference in training steps of the tiny model on the CPU (0.49 s to 0.52 s of CPU time).

    The loop may put wrapped modules (DDP) into `trainable`; `predict` and `encode_text` go through it.
    """

    def __init__(
        self,
        recognition: Recognition,
        device: torch.device,
        *,
        text_encoders: Mapping[str, Any],
        unet: Any,
        vae: Any,
        scheduler_config: dict[str, Any],
        training_alphas_cumprod: Tensor,
        max_token_length: int,
        reader: LoraReader,
    ) -> None:
        self.recognition, self.device = recognition, device
        self.prediction_type = recognition.prediction_type
        self.text_encoders, self.unet, self.vae = dict(text_encoders), unet, vae
        self.trainable: dict[str, nn.Module] = {**text_encoders, "unet": unet}
        self.scheduler_config = scheduler_config
        self.training_alphas_cumprod = training_alphas_cumprod
        self.plain_alphas_cumprod = alphas_cumprod({**scheduler_config, "rescale_betas_zero_snr": False})
        self.max_token_length = max_token_length
        self.reader = reader
        self.latent_channels = int(vae.config.latent_channels)
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.minimum_size = min(64, int(unet.config.sample_size or 64) * self.downscale)
        self.dtype = next(unet.parameters()).dtype
        encoders = list(self.text_encoders.values())
        self.residence = Residence({"vae": [vae], "text_encoder": encoders, "denoiser": [unet]}, device)
        # Parameters, not state_dict(): they stay the same objects when moved, or when adapters rename them.
        self._vae_weights = dict(vae.named_parameters())
        self._remembered: dict[str, Mapping[str, Tensor]] = {}
        self._text_weights = {
            f"{name}.{key}": weight
            for name, encoder in self.text_encoders.items()
            for key, weight in encoder.named_parameters()
        }

    @cached_property
    def vae_key(self) -> str:
        """See `Model.vae_key`."""
        return _digest(self._vae_weights, [self.scaling_factor])

    @cached_property
    def text_key(self) -> str:
        """See `Model.text_key`."""
        return _digest(self._text_weights, self.text_settings())

    def text_settings(self) -> list[object]:
        """What `encode_text` depends on besides captions and weights."""
        raise NotImplementedError

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `Model.encode_pixels`."""
        weight = next(self.vae.parameters())
        posterior = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
        mean, log_variance = posterior.parameters.float().chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        return torch.cat([mean, deviation], dim=1) * self.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""
        weight = next(self.vae.parameters())
        plain = (latents / self.scaling_factor).to(weight.device, weight.dtype)
        return torch.as_tensor(self.vae.decode(plain).sample).float().clamp(-1, 1)

    @torch.no_grad()
    def remember(self, prompts: Sequence[str]) -> None:
        """See `Model.remember`: for encoders that are not trained, so that they need not come back for samples."""
        with self.present("text_encoder"):
            for prompt in dict.fromkeys(prompts):
                found = self.encode_text([prompt])
                self._remembered[prompt] = {name: tensor.cpu() for name, tensor in found.items()}

    def texts_of(self, prompts: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """What `predict` needs of each prompt, [1, ...] each: remembered, or encoded now."""
        if all(prompt in self._remembered for prompt in prompts):
            return [self._remembered[prompt] for prompt in prompts]
        with self.present("text_encoder"):
            encoded = self.encode_text(prompts)
        return [{name: tensor[n : n + 1] for name, tensor in encoded.items()} for n in range(len(prompts))]

    def drawing(self) -> AbstractContextManager[None]:
        """See `Model.drawing`; encoders whose work is remembered stay away."""
        return self.present("vae", "denoiser") if self._remembered else super().drawing()

    def draw(self, request: SampleRequest, *, frugal: bool = False) -> Image.Image:
        """See `Model.draw`. Parts that are away are brought back for it and released again.

        Raises:
            UsageError: the sampler is unknown.
            TrainingError: the picture is not finite.
        """
        with evaluating(list(self.trainable.values())):
            if frugal:
                return self._drawn_frugally(request)
            with self.drawing():
                latents = sampling.latents(self, request, sampling.texts(self, request))
                return finished(self.decode_latents(latents)[0], latents, request)

    def _drawn_frugally(self, request: SampleRequest) -> Image.Image:
        texts = sampling.texts(self, request)
        with self.present("denoiser"):
            latents = sampling.latents(self, request, texts, one_by_one=True)
        with in_tiles(self.vae, self.residence):
            return finished(self.decode_latents(latents)[0], latents, request)

    @property
    def blocks(self) -> list[nn.Module]:
        """See `Model.blocks`: down, middle, up."""
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]


def _digest(weights: Mapping[str, Tensor], settings: Sequence[object]) -> str:
    """sha256 over names, formats, shapes and bytes of the weights, and over the settings, in hexadecimal."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain: Any = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy())
    return digest.hexdigest()
