"""A loaded FLUX.1: encode, predict, generate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from engine.families.base import Model
from engine.families.flux import sampling
from engine.families.flux.packing import pack, positions, unpack
from engine.families.flux.reader import FluxReader
from engine.families.flux.targets import in_targets, lora_targets
from engine.families.flux.text import t5_ids, t5_states
from engine.families.unet.text import CHUNK, context_length, tokenise
from engine.models.adapted import is_adapted
from engine.models.drawing import in_tiles, sample_image
from engine.models.placement import DevicePlacement, evaluating
from engine.models.vae import posterior
from engine.types import LoraTarget, Recognition, SampleRequest

_ENCODERS = ("text_encoder", "text_encoder_2")
_SAMPLE = 2**16
"""Bytes at each end of a weight that go into its content key: T5-XXL has 9 GiB."""


class FluxModel(Model):
    """FLUX.1. Of the text encoders only CLIP-L can be trained; T5's outputs are always cached.

    The loop may put wrapped modules (DDP) into `trainable`; `predict` and `encode_tokens` go through it.
    """

    cached_only_encoders = ("text_encoder_2",)

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
        self.max_length, self.masks_attention, self.guidance = max_length, masked, guidance
        self.guided = bool(transformer.config.guidance_embeds)
        self.latent_channels = int(vae.config.latent_channels)
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor, self.shift_factor = float(vae.config.scaling_factor), float(vae.config.shift_factor or 0)
        self.dtype = next(transformer.parameters()).dtype
        self.reader = FluxReader()
        self.context = context_length(self.tokenizer, text_encoder)
        self.placement = DevicePlacement(
            {"vae": [vae], "text_encoder": [text_encoder, text_encoder_2], "denoiser": [transformer]}, device
        )
        self._tokenising = Lock()
        self._cached_prompts: dict[str, dict[str, Tensor]] = {}

    @cached_property
    @override
    def vae_key(self) -> str:
        return _digest({"vae": self.vae}, [self.scaling_factor, self.shift_factor])

    @cached_property
    @override
    def text_key(self) -> str:
        """To be computed first before adapters are attached and encoders are freed."""
        words = [sorted(tokenizer.get_vocab().items()) for tokenizer in (self.tokenizer, self.tokenizer_2)]
        # earlier versions masked the transformer only: their cached outputs with a mask are different
        return _digest(self.text_encoders, [words, self.max_length, "T5 too" if self.masks_attention else False])

    @torch.no_grad()
    @override
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """The mean is shifted before it is scaled."""
        mean, deviation = posterior(self.vae, pixels)
        return torch.cat([mean - self.shift_factor, deviation], dim=1) * self.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""
        weight = next(self.vae.parameters())
        plain = (latents / self.scaling_factor + self.shift_factor).to(weight.device, weight.dtype)
        return torch.as_tensor(self.vae.decode(plain).sample).float().clamp(-1, 1)

    @override
    def tokens(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """For each text encoder its ids, CLIP-L's [B, 1, context] and T5's [B, tokens], and T5's mask [B, tokens], true
        where there is text. A tokenizer serves one thread at a time: a call changes its padding."""
        encoders_to_run = _ENCODERS if encoders is None else encoders
        tokens: dict[str, Tensor] = {}
        with self._tokenising:
            if "text_encoder" in encoders_to_run:
                tokens["text_encoder"] = tokenise(self.tokenizer, captions, self.context, CHUNK)
            if "text_encoder_2" in encoders_to_run:
                ids, mask = t5_ids(self.tokenizer_2, captions, self.max_length)
                tokens |= {"text_encoder_2": ids, "mask": mask}
        return tokens

    @override
    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Captions to "pooled" [B, width] by CLIP-L, and "states" [B, tokens, width] by T5; with
        `apply_t5_attn_mask` also "mask" [B, tokens], true where there is text. Gradients flow through CLIP-L."""
        tokens = self.tokens(captions, encoders)
        return self.encode_tokens({name: tensor.to(self.device) for name, tensor in tokens.items()}, encoders)

    @override
    def encode_tokens(self, tokens: Mapping[str, Tensor], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        encoders_to_run = _ENCODERS if encoders is None else encoders
        outputs: dict[str, Tensor] = {}
        if "text_encoder" in encoders_to_run:
            outputs["pooled"] = self.trainable["text_encoder"](tokens["text_encoder"].flatten(0, 1)).pooler_output
        if "text_encoder_2" in encoders_to_run:
            assert "text_encoder_2" in self.text_encoders, "T5 is freed already"
            ids, mask = tokens["text_encoder_2"], tokens["mask"]
            with torch.autocast(self.device.type, enabled=False):
                encoder = self.text_encoders["text_encoder_2"]
                outputs["states"] = t5_states(encoder, ids, mask if self.masks_attention else None)
            if self.masks_attention:
                outputs["mask"] = mask
        return outputs

    @override
    def free_encoders(self, encoders: Sequence[str]) -> None:
        if "text_encoder_2" in encoders and "text_encoder_2" in self.text_encoders:
            self.text_key  # noqa: B018 - computes and caches it while the weights are there
            self.placement.remove("text_encoder", self.text_encoders.pop("text_encoder_2"))

    @override
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """The velocity, computed in the compute dtype. Without size conditioning."""
        return self.velocity(noisy, timesteps, text, self.guidance)

    def velocity(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], guidance: float) -> Tensor:
        """The transformer's output [B, C, h, w] float32 for latents [B, C, h, w] with even sides.

        Args:
            guidance: the input of dev's guidance embedding; schnell has none.
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
    @override
    def precompute_prompts(self, prompts: Sequence[str]) -> None:
        """While T5 runs, the transformer is on the host."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cached_prompts]
        if not missing:
            return
        with self.placement.on_host("denoiser"), self.on_device("text_encoder"):
            for prompt in missing:
                outputs = self.encode_text([prompt], _ENCODERS)
                self._cached_prompts[prompt] = {name: tensor.cpu() for name, tensor in outputs.items()}

    @override
    def can_sample(self, prompts: Sequence[str]) -> bool:
        """Only for cached prompts, once T5 is freed."""
        return set(prompts) <= self._cached_prompts.keys()

    def prompt_outputs(self, prompt: str) -> dict[str, Tensor]:
        """The cached outputs of a prompt; if CLIP-L has an adapter, its part is encoded now."""
        outputs = self._cached_prompts[prompt]
        layers = self.trainable["text_encoder"].modules()
        if any(map(is_adapted, layers)):
            self.text_encoder.to(self.device)  # it was moved to the host together with T5
            return {**outputs, **self.encode_text([prompt], ["text_encoder"])}
        return outputs

    @override
    def sampling_ready(self) -> AbstractContextManager[None]:
        """T5 stays on the host."""
        return self.on_device("vae", "denoiser")

    @override
    def generate(self, request: SampleRequest, *, low_memory: bool = False) -> Image.Image:
        """Guidance always takes two passes.

        Raises:
            TrainingError: the image is not finite.
        """
        self.precompute_prompts(sampling.prompts(request))
        with evaluating(list(self.trainable.values())):
            if low_memory:
                return self._generate_low_memory(request)
            with self.sampling_ready():
                latents = sampling.latents(self, request)
                return sample_image(self.decode_latents(latents)[0], latents, request)

    def _generate_low_memory(self, request: SampleRequest) -> Image.Image:
        with self.on_device("denoiser"):
            latents = sampling.latents(self, request)
        with in_tiles(self.vae, self.placement):
            return sample_image(self.decode_latents(latents)[0], latents, request)

    @override
    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """To be called before adapters are attached. There are no convolutions."""
        return lora_targets(self.text_encoder, self.transformer)

    @override
    def outer_targets(self) -> list[LoraTarget]:
        return in_targets(self.transformer)

    @property
    @override
    def blocks(self) -> list[nn.Module]:
        """Double blocks, then single blocks."""
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
