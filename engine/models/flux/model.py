"""A loaded FLUX.1: encode, predict, draw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from engine.models.base import LoraTarget, Model, Recognition, SampleRequest
from engine.models.drawing import finished, in_tiles
from engine.models.flux import sampling
from engine.models.flux.packing import pack, positions, unpack
from engine.models.flux.reader import FluxReader
from engine.models.flux.targets import lora_targets
from engine.models.flux.text import t5_ids, t5_states
from engine.models.ldm.text import CHUNK, context_length, tokenise
from engine.models.residence import Residence, evaluating

_ENCODERS = ("text_encoder", "text_encoder_2")
_SAMPLE = 2**16
"""Bytes at each end of a weight that count for its content key: T5-XXL has 9 GiB."""


class FluxModel(Model):
    """See `Model`. Of the text encoders only CLIP-L can be trained; T5's outputs are always cached.

    The loop may put wrapped modules (DDP) into `trainable`; `predict` and `encode_text` go through it.
    """

    apart = ("text_encoder_2",)

    def __init__(
        self,
        recognition: Recognition,
        device: torch.device,
        *,
        text_encoder: Any,
        text_encoder_2: Any,
        transformer: Any,
        vae: Any,
        tokenizers: tuple[Any, Any],
        scheduler_config: dict[str, Any],
        max_length: int,
        masked: bool,
        guidance: float,
    ) -> None:
        self.recognition, self.device = recognition, device
        self.prediction_type = recognition.prediction_type
        self.text_encoder, self.transformer, self.vae = text_encoder, transformer, vae
        self.text_encoders = {"text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
        self.tokenizer, self.tokenizer_2 = tokenizers
        self.trainable: dict[str, nn.Module] = {"text_encoder": text_encoder, "transformer": transformer}
        self.scheduler_config = scheduler_config
        self.max_length, self.masked, self.guidance = max_length, masked, guidance
        self.guided = bool(transformer.config.guidance_embeds)
        self.latent_channels = int(vae.config.latent_channels)
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor, self.shift_factor = float(vae.config.scaling_factor), float(vae.config.shift_factor or 0)
        self.dtype = next(transformer.parameters()).dtype
        self.reader = FluxReader()
        self.context = context_length(self.tokenizer, text_encoder)
        self.residence = Residence(
            {"vae": [vae], "text_encoder": [text_encoder, text_encoder_2], "denoiser": [transformer]}, device
        )
        self._remembered: dict[str, dict[str, Tensor]] = {}

    @cached_property
    def vae_key(self) -> str:
        """See `Model.vae_key`."""
        return _digest({"vae": self.vae}, [self.scaling_factor, self.shift_factor])

    @cached_property
    def text_key(self) -> str:
        """See `Model.text_key`; to be asked first before layers are put in and encoders are let go."""
        words = [sorted(tokenizer.get_vocab().items()) for tokenizer in (self.tokenizer, self.tokenizer_2)]
        # earlier versions masked the transformer only: what they cached with a mask is of other bytes
        return _digest(self.text_encoders, [words, self.max_length, "T5 too" if self.masked else False])

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """See `Model.encode_pixels`; the mean is shifted before it is scaled."""
        weight = next(self.vae.parameters())
        posterior = self.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
        mean, log_variance = posterior.parameters.float().chunk(2, dim=1)
        deviation = (0.5 * log_variance.clamp(-30.0, 20.0)).exp()
        return torch.cat([mean - self.shift_factor, deviation], dim=1) * self.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""
        weight = next(self.vae.parameters())
        plain = (latents / self.scaling_factor + self.shift_factor).to(weight.device, weight.dtype)
        return torch.as_tensor(self.vae.decode(plain).sample).float().clamp(-1, 1)

    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Captions to "pooled" [B, width] by CLIP-L, and "states" [B, tokens, width] by T5; with
        `apply_t5_attn_mask` also "mask" [B, tokens], true where there is text. Gradients flow through CLIP-L."""
        wanted = _ENCODERS if encoders is None else encoders
        found: dict[str, Tensor] = {}
        if "text_encoder" in wanted:
            ids = tokenise(self.tokenizer, captions, self.context, CHUNK).flatten(0, 1)
            found["pooled"] = self.trainable["text_encoder"](ids.to(self.device)).pooler_output
        if "text_encoder_2" in wanted:
            assert "text_encoder_2" in self.text_encoders, "T5 was asked for after it was let go"
            ids, mask = (one.to(self.device) for one in t5_ids(self.tokenizer_2, captions, self.max_length))
            with torch.autocast(self.device.type, enabled=False):
                encoder = self.text_encoders["text_encoder_2"]
                found["states"] = t5_states(encoder, ids, mask if self.masked else None)
            if self.masked:
                found["mask"] = mask
        return found

    def let_go(self, encoders: Sequence[str]) -> None:
        """See `Model.let_go`."""
        if "text_encoder_2" in encoders and "text_encoder_2" in self.text_encoders:
            self.text_key  # noqa: B018 - it is kept, the weights are not
            self.residence.forget("text_encoder", self.text_encoders.pop("text_encoder_2"))

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See `Model.predict`: the velocity, computed in the compute dtype. The sizes are no matter here."""
        return self.velocity(noisy, timesteps, text, self.guidance)

    def velocity(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], guidance: float) -> Tensor:
        """The transformer's output [B, C, h, w] float32 for latents [B, C, h, w] with even sides.

        Args:
            guidance: what dev's guidance embedding is told; schnell has none.
        """
        height, width = noisy.shape[-2:]
        states = text["states"].to(self.device, self.dtype)
        tokens = (height // 2) * (width // 2)
        mask = text.get("mask")
        extra = {}
        if mask is not None:
            seen = torch.cat([mask.bool(), mask.new_ones(len(mask), tokens, dtype=torch.bool)], dim=1)
            extra = {"joint_attention_kwargs": {"attention_mask": seen[:, None, None].to(self.device)}}
        output = self.trainable["transformer"](
            hidden_states=pack(noisy.to(self.device, self.dtype)),
            encoder_hidden_states=states,
            pooled_projections=text["pooled"].to(self.device, self.dtype),
            timestep=timesteps.to(self.device) / 1000,
            guidance=torch.full((len(noisy),), guidance, device=self.device) if self.guided else None,
            img_ids=positions(height, width, self.device),
            txt_ids=torch.zeros(states.shape[1], 3, device=self.device),
            return_dict=False,
            **extra,
        )[0]
        return unpack(torch.as_tensor(output).float(), height, width)

    @torch.no_grad()
    def remember(self, prompts: Sequence[str]) -> None:
        """See `Model.remember`. Where T5 has to run, the transformer leaves the device meanwhile."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._remembered]
        if not missing:
            return
        with self.residence.without("denoiser"), self.present("text_encoder"):
            for prompt in missing:
                found = self.encode_text([prompt], _ENCODERS)
                self._remembered[prompt] = {name: tensor.cpu() for name, tensor in found.items()}

    def recalled(self, prompt: str) -> dict[str, Tensor]:
        """What was remembered of a prompt; where CLIP-L is trained, its part as it is now."""
        found = self._remembered[prompt]
        if any(hasattr(layer, "lora_A") for layer in self.trainable["text_encoder"].modules()):
            return {**found, **self.encode_text([prompt], ["text_encoder"])}
        return found

    def drawing(self) -> AbstractContextManager[None]:
        """See `Model.drawing`; T5 stays away."""
        return self.present("vae", "denoiser")

    def draw(self, request: SampleRequest, *, frugal: bool = False) -> Image.Image:
        """See `Model.draw`; guidance always takes two passes.

        Raises:
            TrainingError: the picture is not finite.
        """
        self.remember(sampling.prompts(request))
        with evaluating(list(self.trainable.values())):
            if frugal:
                return self._drawn_frugally(request)
            with self.drawing():
                latents = sampling.latents(self, request)
                return finished(self.decode_latents(latents)[0], latents, request)

    def _drawn_frugally(self, request: SampleRequest) -> Image.Image:
        with self.present("denoiser"):
            latents = sampling.latents(self, request)
        with in_tiles(self.vae, self.residence):
            return finished(self.decode_latents(latents)[0], latents, request)

    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """See `Model.lora_targets`; to be asked before layers are put in. There are no convolutions."""
        return lora_targets(self.text_encoder, self.transformer)

    @property
    def blocks(self) -> list[nn.Module]:
        """See `Model.blocks`: double blocks, then single blocks."""
        return [*self.transformer.transformer_blocks, *self.transformer.single_transformer_blocks]


def _digest(modules: Mapping[str, nn.Module], settings: Sequence[object]) -> str:
    """sha256 over names, formats, shapes and both ends of all tensors, and over the settings, in hexadecimal."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, module in sorted(modules.items()):
        for key, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
            digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            plain: Any = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            for end in (plain[:_SAMPLE], plain[-_SAMPLE:]):
                digest.update(end.cpu().numpy())
    return digest.hexdigest()
