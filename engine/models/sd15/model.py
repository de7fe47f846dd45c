"""A loaded Stable Diffusion 1.x model: encode, predict, draw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from engine.models.base import LoraTarget, Model, Recognition, SampleRequest
from engine.models.residence import Residence, evaluating
from engine.models.sd15 import sampling
from engine.models.sd15.reader import SD15Reader
from engine.models.sd15.targets import lora_targets
from engine.models.sd15.text import context_length, encode, tokenise


class SD15Model(Model):
    """See `Model`. Attention is PyTorch's SDPA throughout. The UNet keeps the contiguous memory format: channels_last
    made no difference in training steps of the tiny model on the CPU (0.49 s to 0.52 s of CPU time).

    The loop may put wrapped modules (DDP) into `trainable`; `predict` and `encode_text` go through it.
    """

    def __init__(
        self,
        recognition: Recognition,
        device: torch.device,
        *,
        text_encoder: Any,
        unet: Any,
        vae: Any,
        tokenizer: Any,
        scheduler_config: dict[str, Any],
        alphas_cumprod: Tensor,
        clip_skip: int | None,
        max_token_length: int,
    ) -> None:
        self.recognition, self.device = recognition, device
        self.prediction_type = recognition.prediction_type
        self.text_encoder, self.unet, self.vae, self.tokenizer = text_encoder, unet, vae, tokenizer
        self.trainable: dict[str, nn.Module] = {"text_encoder": text_encoder, "unet": unet}
        self.scheduler_config = scheduler_config
        self.training_alphas_cumprod = alphas_cumprod
        self.clip_skip, self.max_token_length = clip_skip, max_token_length
        self.context = context_length(tokenizer, text_encoder)
        self.latent_channels = int(vae.config.latent_channels)
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.minimum_size = min(64, int(unet.config.sample_size or 64) * self.downscale)
        self.dtype = next(unet.parameters()).dtype
        self._token_ids = lru_cache(maxsize=4096)(self._tokenise)
        self._final_norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm
        self.reader = SD15Reader()
        self.residence = Residence({"vae": [vae], "text_encoder": [text_encoder], "denoiser": [unet]}, device)
        # Parameters, not state_dict(): they stay the same objects when moved, or when adapters rename them.
        self._weights = {"vae": dict(vae.named_parameters()), "text_encoder": dict(text_encoder.named_parameters())}

    @cached_property
    def vae_key(self) -> str:
        """See `Model.vae_key`."""
        return _digest(self._weights["vae"], [self.scaling_factor])

    @cached_property
    def text_key(self) -> str:
        """See `Model.text_key`."""
        tokenizer = self.tokenizer
        words = sorted(tokenizer.get_vocab().items())
        settings = [words, tokenizer.pad_token_id, self.context, self.clip_skip, self.max_token_length]
        return _digest(self._weights["text_encoder"], settings)

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

    def encode_text(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Captions to {"hidden_states": [B, tokens, width]} in the compute dtype. Gradients flow."""
        encoder = self.trainable["text_encoder"]
        ids = torch.cat([self._token_ids(caption) for caption in captions])
        return {"hidden_states": encode(encoder, self._final_norm, ids.to(self.device), self.clip_skip)}

    def _tokenise(self, caption: str) -> Tensor:
        return tokenise(self.tokenizer, [caption], self.context, self.max_token_length)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See `Model.predict`; computed in the compute dtype. The sizes are no matter here."""
        unet = self.trainable["unet"]
        states = text["hidden_states"].to(self.device, self.dtype)
        output = unet(noisy.to(self.device, self.dtype), timesteps.to(self.device), encoder_hidden_states=states)
        return torch.as_tensor(output.sample).float()

    def draw(self, request: SampleRequest) -> Image.Image:
        """See `Model.draw`. Released parts are brought back for it and released again.

        Raises:
            UsageError: the sampler is unknown.
            TrainingError: the picture is not finite.
        """
        with self.present("vae", "text_encoder", "denoiser"), evaluating(list(self.trainable.values())):
            return sampling.draw(self, request)

    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """See `Model.lora_targets`; to be asked before layers are put in."""
        return lora_targets(self.text_encoder, self.unet, conv=conv)

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
