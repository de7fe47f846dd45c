"""A loaded Stable Diffusion 1.x or SDXL: encode, predict, generate."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from engine.families.base import Model
from engine.families.unet import sampling
from engine.families.unet.blocks import OUTSIDE
from engine.families.unet.names import sdxl_kohya_name, sdxl_place
from engine.families.unet.reader import SD15Reader, SDXLReader
from engine.families.unet.schedule import alphas_cumprod
from engine.families.unet.targets import norm_targets, text_targets, unet_targets
from engine.families.unet.text import Tokens, context_length, joined, tokenise, tokenise_weighted, weighted
from engine.models.drawing import in_tiles, sample_image
from engine.models.placement import DevicePlacement, evaluating
from engine.models.vae import posterior
from engine.types import LoraTarget, Recognition, SampleRequest

WEIGHTS = ".weights"
"""Behind the name of a text encoder in `tokens`: the weights of its tokens."""


class UNetModel(Model):
    """What SD 1.x and SDXL share; the subclasses encode captions and call the U-Net.

    Attention is PyTorch's SDPA throughout. The U-Net keeps the contiguous memory format: channels_last made no
    difference in training steps of the tiny model on the CPU (0.49 s to 0.52 s of CPU time).

    The loop may put wrapped modules (DDP) into `trainable`; `predict` and `encode_tokens` go through it.
    """

    def __init__(
        self,
        recognition: Recognition,
        device: torch.device,
        *,
        text_encoders: Mapping[str, Any],
        unet: Any,
        vae: Any,
        tokenizers: Sequence[Any],
        scheduler_config: dict[str, Any],
        training_alphas_cumprod: Tensor,
        clip_skip: int | None,
        max_token_length: int,
        weighted_captions: bool = False,
    ) -> None:
        self.recognition, self.device = recognition, device
        self.prediction_type = recognition.prediction_type
        self.text_encoders, self.unet, self.vae = dict(text_encoders), unet, vae
        self.trainable: dict[str, nn.Module] = {**text_encoders, "unet": unet}
        self.scheduler_config = scheduler_config
        self.training_alphas_cumprod = training_alphas_cumprod
        self.plain_alphas_cumprod = alphas_cumprod({**scheduler_config, "rescale_betas_zero_snr": False})
        self.clip_skip, self.max_token_length = clip_skip, max_token_length
        self.weighted_captions = weighted_captions
        self.tokenizers = list(tokenizers)
        pairs = zip(self.tokenizers, self.text_encoders.values(), strict=True)
        self.contexts = [context_length(*pair) for pair in pairs]
        self._tokenising = Lock()
        self._tokens = lru_cache(maxsize=4096)(self._tokenise)
        self.latent_channels = int(vae.config.latent_channels)
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)
        self.scaling_factor = float(vae.config.scaling_factor)
        self.minimum_size = min(64, int(unet.config.sample_size or 64) * self.downscale)
        self.dtype = next(unet.parameters()).dtype
        encoders = list(self.text_encoders.values())
        self.placement = DevicePlacement({"vae": [vae], "text_encoder": encoders, "denoiser": [unet]}, device)
        # Parameters, not state_dict(): they stay the same objects when moved, or when adapters rename them.
        self._vae_weights = dict(vae.named_parameters())
        self._cached_prompts: dict[str, Mapping[str, Tensor]] = {}
        self._text_weights = {
            f"{name}.{key}": weight
            for name, encoder in self.text_encoders.items()
            for key, weight in encoder.named_parameters()
        }

    def _tokenise(self, caption: str) -> list[Tokens]:
        """The tokens for each text encoder. A tokenizer serves one thread at a time: a call changes its padding."""
        pairs, length = zip(self.tokenizers, self.contexts, strict=True), self.max_token_length
        with self._tokenising:
            if self.weighted_captions:
                return [tokenise_weighted(tokenizer, caption, context, length) for tokenizer, context in pairs]
            return [Tokens(tokenise(tokenizer, [caption], context, length)) for tokenizer, context in pairs]

    @override
    def tokens(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """For each text encoder its ids [B, chunks, context], and the weights that `Tokens` has, if there are any."""
        tokens: dict[str, Tensor] = {}
        rows = [self._tokens(caption) for caption in captions]
        for number, name in enumerate(self.text_encoders):
            tokens[name] = torch.cat([row[number].ids for row in rows])
            if weights := [own for row in rows if (own := row[number].weights) is not None]:
                tokens[name + WEIGHTS] = torch.cat(weights)
        return tokens

    @override
    def encode_text(
        self, captions: Sequence[str], encoders: Sequence[str] | None = None, *, keep_mean: bool = False
    ) -> dict[str, Tensor]:
        """See `Model.encode_text`.

        Args:
            keep_mean: see `weighted`; for the prompts of samples.
        """
        tokens = {name: tensor.to(self.device) for name, tensor in self.tokens(captions).items()}
        return self.encode_tokens(tokens, keep_mean=keep_mean)

    @override
    def encode_tokens(
        self, tokens: Mapping[str, Tensor], encoders: Sequence[str] | None = None, *, keep_mean: bool = False
    ) -> dict[str, Tensor]:
        """See `Model.encode_tokens`; `keep_mean` as for `encode_text`."""
        raise NotImplementedError

    @cached_property
    @override
    def vae_key(self) -> str:
        return _digest(self._vae_weights, [self.scaling_factor])

    @cached_property
    @override
    def text_key(self) -> str:
        weighted = ["weighted captions"] if self.weighted_captions else []
        return _digest(self._text_weights, [*self.text_settings(), *weighted])

    def text_settings(self) -> list[object]:
        """Everything that `encode_text` depends on besides captions, their weights and the encoders."""
        raise NotImplementedError

    @torch.no_grad()
    @override
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        mean, deviation = posterior(self.vae, pixels)
        return torch.cat([mean, deviation], dim=1) * self.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] to pixels [B, 3, H, W] float32 in [-1, 1]."""
        weight = next(self.vae.parameters())
        plain = (latents / self.scaling_factor).to(weight.device, weight.dtype)
        return torch.as_tensor(self.vae.decode(plain).sample).float().clamp(-1, 1)

    @torch.no_grad()
    @override
    def precompute_prompts(self, prompts: Sequence[str]) -> None:
        """Only for encoders that are not trained; samples then need no text encoder."""
        with self.on_device("text_encoder"):
            for prompt in dict.fromkeys(prompts):
                outputs = self.encode_text([prompt], keep_mean=True)
                self._cached_prompts[prompt] = {name: tensor.cpu() for name, tensor in outputs.items()}

    def texts_of(self, prompts: Sequence[str]) -> list[Mapping[str, Tensor]]:
        """The text inputs of `predict` for each prompt, [1, ...] each: cached, or encoded now."""
        if all(prompt in self._cached_prompts for prompt in prompts):
            return [self._cached_prompts[prompt] for prompt in prompts]
        with self.on_device("text_encoder"):
            encoded = self.encode_text(prompts, keep_mean=True)
        return [{name: tensor[n : n + 1] for name, tensor in encoded.items()} for n in range(len(prompts))]

    @override
    def sampling_ready(self) -> AbstractContextManager[None]:
        """Text encoders stay on the host if the prompts are cached."""
        return self.on_device("vae", "denoiser") if self._cached_prompts else super().sampling_ready()

    @override
    def generate(self, request: SampleRequest, *, low_memory: bool = False) -> Image.Image:
        """Parts on the host are moved to the device for it and back.

        Raises:
            UsageError: the sampler is unknown.
            TrainingError: the image is not finite.
        """
        with evaluating(list(self.trainable.values())):
            if low_memory:
                return self._generate_low_memory(request)
            with self.sampling_ready():
                latents = sampling.latents(self, request, sampling.texts(self, request))
                return sample_image(self.decode_latents(latents)[0], latents, request)

    def _generate_low_memory(self, request: SampleRequest) -> Image.Image:
        texts = sampling.texts(self, request)
        with self.on_device("denoiser"):
            latents = sampling.latents(self, request, texts, separately=True)
        with in_tiles(self.vae, self.placement):
            return sample_image(self.decode_latents(latents)[0], latents, request)

    @property
    @override
    def blocks(self) -> list[nn.Module]:
        """Down, middle, up."""
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]


class SD15Model(UNetModel):
    """One CLIP text encoder; the U-Net only needs its hidden states."""

    reader = SD15Reader()

    @override
    def text_settings(self) -> list[object]:
        tokenizer, context = self.tokenizers[0], self.contexts[0]
        words = sorted(tokenizer.get_vocab().items())
        return [words, tokenizer.pad_token_id, context, self.clip_skip, self.max_token_length]

    @override
    def encode_tokens(
        self, tokens: Mapping[str, Tensor], encoders: Sequence[str] | None = None, *, keep_mean: bool = False
    ) -> dict[str, Tensor]:
        """Captions to {"hidden_states": [B, tokens, width]} in the compute dtype. Gradients flow.

        clip_skip None or 1 is the last hidden state; n is the n-th layer from the end, through the final norm.
        """
        encoder = self.trainable["text_encoder"]
        ids, weights = tokens["text_encoder"], tokens.get("text_encoder" + WEIGHTS)
        deep = self.clip_skip is not None and self.clip_skip > 1
        output = encoder(ids.flatten(0, 1), output_hidden_states=deep)
        states = output.last_hidden_state
        if deep:
            states = self._final_norm(output.hidden_states[-(self.clip_skip or 1)])
        return {"hidden_states": weighted(joined(states, len(ids)), weights, keep_mean=keep_mean)}

    @cached_property
    def _final_norm(self) -> nn.Module:
        encoder = self.text_encoders["text_encoder"]
        norm: nn.Module = getattr(encoder, "text_model", encoder).final_layer_norm
        return norm

    @override
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """Computed in the compute dtype. Without size conditioning."""
        unet = self.trainable["unet"]
        states = text["hidden_states"].to(self.device, self.dtype)
        output = unet(noisy.to(self.device, self.dtype), timesteps.to(self.device), encoder_hidden_states=states)
        return torch.as_tensor(output.sample).float()

    @override
    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """To be called before adapters are attached."""
        return [
            *text_targets(self.text_encoders["text_encoder"], "text_encoder", "lora_te_"),
            *unet_targets(self.unet, kohya_name, conv=conv),
        ]

    @override
    def outer_targets(self) -> list[LoraTarget]:
        """To be called before adapters are attached."""
        kinds: dict[bool, Literal["linear", "conv3x3"]] = {True: "linear", False: "conv3x3"}
        return [
            LoraTarget("unet", path, kohya_name(path), kinds[path.startswith("time_embedding.")]) for path in OUTSIDE
        ]

    @override
    def norm_targets(self, *, conv: bool) -> list[LoraTarget]:
        """To be called before adapters are attached."""
        return norm_targets(self.unet, kohya_name, conv=conv)


class SDXLModel(UNetModel):
    """Two text encoders, the pooled output of the second, and the sizes of the image."""

    reader = SDXLReader()

    @override
    def text_settings(self) -> list[object]:
        settings: list[object] = [self.contexts, self.max_token_length]
        for tokenizer in self.tokenizers:
            settings += [sorted(tokenizer.get_vocab().items()), tokenizer.pad_token_id]
        return settings

    @override
    def encode_tokens(
        self, tokens: Mapping[str, Tensor], encoders: Sequence[str] | None = None, *, keep_mean: bool = False
    ) -> dict[str, Tensor]:
        """Captions to {"hidden_states": [B, tokens, width of both], "pooled": [B, width]} in the compute dtype.
        Gradients flow.

        Of both encoders the last layer but one, without the final norm; pooled is the second one's projected output at
        the end of the first chunk (Podell et al. 2023; facts: sd-scripts `sdxl_train_util.py`). Weights of captions do
        not change it.
        """
        states, pooled = [], torch.empty(0)
        for number, name in enumerate(self.text_encoders):
            ids, weights = tokens[name], tokens.get(name + WEIGHTS)
            output = self.trainable[name](ids.flatten(0, 1), output_hidden_states=True)
            states.append(weighted(joined(output.hidden_states[-2], len(ids)), weights, keep_mean=keep_mean))
            if number == 1:
                pooled = output.text_embeds.unflatten(0, (len(ids), -1))[:, 0]
        return {"hidden_states": torch.cat(states, dim=-1), "pooled": pooled}

    @override
    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """Computed in the compute dtype. The sizes stay in fp32: bf16 has no odd numbers above 256."""
        unet = self.trainable["unet"]
        output = unet(
            noisy.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=text["hidden_states"].to(self.device, self.dtype),
            added_cond_kwargs={
                "text_embeds": text["pooled"].to(self.device, self.dtype),
                "time_ids": sizes.to(self.device, torch.float32),
            },
        )
        return torch.as_tensor(output.sample).float()

    @override
    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """To be called before adapters are attached."""
        encoders = zip(self.text_encoders.items(), ("lora_te1_", "lora_te2_"), strict=True)
        text = [target for (name, encoder), prefix in encoders for target in text_targets(encoder, name, prefix)]
        config = self.unet.config
        unet = unet_targets(self.unet, lambda path: sdxl_kohya_name(path, config), conv=conv)
        return [*text, *sorted(unet, key=lambda target: sdxl_place(target.path, config))]

    @override
    def norm_targets(self, *, conv: bool) -> list[LoraTarget]:
        """To be called before adapters are attached."""
        config = self.unet.config
        return norm_targets(self.unet, lambda path: sdxl_kohya_name(path, config), conv=conv)


def kohya_name(path: str) -> str:
    """Kohya's name of a layer of the U-Net: diffusers' path."""
    return "lora_unet_" + path.replace(".", "_")


def _digest(weights: Mapping[str, Tensor], settings: Sequence[object]) -> str:
    """sha256 over names, formats, shapes and bytes of the weights, and over the settings, in hexadecimal."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        plain: Any = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy())
    return digest.hexdigest()
