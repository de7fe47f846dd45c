"""A loaded Stable Diffusion 1.x model: one CLIP text encoder, whose hidden states are all that the UNet asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engine.models.base import LoraTarget
from engine.models.ldm.model import LatentDiffusionModel
from engine.models.ldm.targets import text_targets, unet_targets
from engine.models.ldm.text import context_length, joined, tokenise


class SD15Model(LatentDiffusionModel):
    """See `LatentDiffusionModel`."""

    def __init__(self, *arguments: Any, tokenizer: Any, clip_skip: int | None, **parts: Any) -> None:
        super().__init__(*arguments, **parts)
        self.tokenizer, self.clip_skip = tokenizer, clip_skip
        self.text_encoder = self.text_encoders["text_encoder"]
        self.context = context_length(tokenizer, self.text_encoder)
        self._token_ids = lru_cache(maxsize=4096)(self._tokenise)
        self._final_norm = getattr(self.text_encoder, "text_model", self.text_encoder).final_layer_norm

    def text_settings(self) -> list[object]:
        """See `LatentDiffusionModel.text_settings`."""
        words = sorted(self.tokenizer.get_vocab().items())
        return [words, self.tokenizer.pad_token_id, self.context, self.clip_skip, self.max_token_length]

    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Captions to {"hidden_states": [B, tokens, width]} in the compute dtype. Gradients flow.

        clip_skip None or 1 is the last hidden state; n is the n-th layer from the end, through the final norm.
        """
        encoder = self.trainable["text_encoder"]
        ids = torch.cat([self._token_ids(caption) for caption in captions]).to(self.device)
        deep = self.clip_skip is not None and self.clip_skip > 1
        output = encoder(ids.flatten(0, 1), output_hidden_states=deep)
        states = self._final_norm(output.hidden_states[-(self.clip_skip or 1)]) if deep else output.last_hidden_state
        return {"hidden_states": joined(states, len(captions))}

    def _tokenise(self, caption: str) -> Tensor:
        return tokenise(self.tokenizer, [caption], self.context, self.max_token_length)

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See `Model.predict`; computed in the compute dtype. The sizes are no matter here."""
        unet = self.trainable["unet"]
        states = text["hidden_states"].to(self.device, self.dtype)
        output = unet(noisy.to(self.device, self.dtype), timesteps.to(self.device), encoder_hidden_states=states)
        return torch.as_tensor(output.sample).float()

    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """See `Model.lora_targets`; to be asked before layers are put in."""
        return [
            *text_targets(self.text_encoder, "text_encoder", "lora_te_"),
            *unet_targets(self.unet, kohya_name, conv=conv),
        ]


def kohya_name(path: str) -> str:
    """Kohya's name of a layer of the UNet: diffusers' path."""
    return "lora_unet_" + path.replace(".", "_")
