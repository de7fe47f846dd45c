"""A loaded SDXL model: two text encoders, their pooled output, and the sizes of the picture."""

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
from engine.models.sdxl.names import kohya_name, place


class SDXLModel(LatentDiffusionModel):
    """See `LatentDiffusionModel`."""

    def __init__(self, *arguments: Any, tokenizers: Sequence[Any], **parts: Any) -> None:
        super().__init__(*arguments, **parts)
        self.tokenizers = list(tokenizers)
        encoders = self.text_encoders.values()
        self.contexts = [context_length(*pair) for pair in zip(self.tokenizers, encoders, strict=True)]
        self._token_ids = lru_cache(maxsize=4096)(self._tokenise)

    def text_settings(self) -> list[object]:
        """See `LatentDiffusionModel.text_settings`."""
        told: list[object] = [self.contexts, self.max_token_length]
        for tokenizer in self.tokenizers:
            told += [sorted(tokenizer.get_vocab().items()), tokenizer.pad_token_id]
        return told

    def encode_text(self, captions: Sequence[str], encoders: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Captions to {"hidden_states": [B, tokens, width of both], "pooled": [B, width]} in the compute dtype.
        Gradients flow.

        Of both encoders the last layer but one, without the final norm; pooled is the second one's projected output at
        the end of the first chunk (Podell et al. 2023; facts: sd-scripts `sdxl_train_util.py`).
        """
        ids = [self._token_ids(caption) for caption in captions]
        states, pooled = [], torch.empty(0)
        for number, name in enumerate(self.text_encoders):
            own = torch.cat([pair[number] for pair in ids]).to(self.device)
            output = self.trainable[name](own.flatten(0, 1), output_hidden_states=True)
            states.append(joined(output.hidden_states[-2], len(captions)))
            if number == 1:
                pooled = output.text_embeds.unflatten(0, (len(captions), -1))[:, 0]
        return {"hidden_states": torch.cat(states, dim=-1), "pooled": pooled}

    def _tokenise(self, caption: str) -> list[Tensor]:
        """The ids of both tokenizers, each [1, chunks, context]."""
        return [
            tokenise(tokenizer, [caption], context, self.max_token_length)
            for tokenizer, context in zip(self.tokenizers, self.contexts, strict=True)
        ]

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """See `Model.predict`; computed in the compute dtype. The sizes stay in fp32: bf16 knows no odd number above
        256."""
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

    def lora_targets(self, *, conv: bool) -> list[LoraTarget]:
        """See `Model.lora_targets`; to be asked before layers are put in."""
        encoders = zip(self.text_encoders.items(), ("lora_te1_", "lora_te2_"), strict=True)
        text = [target for (name, encoder), prefix in encoders for target in text_targets(encoder, name, prefix)]
        config = self.unet.config
        found = unet_targets(self.unet, lambda path: kohya_name(path, config), conv=conv)
        return [*text, *sorted(found, key=lambda target: place(target.path, config))]
