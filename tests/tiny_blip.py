"""A tiny BLIP of the real classes: random weights, 32 px, a vocabulary of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

WORDS = ("a", "image", "of", "red", "blue", "robot", "cat", "on", "grass", "with", "sky", "the")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_blip(folder: Path, seed: int = 0) -> Path:
    """Make the model in `folder`, as the published ones are laid out; its captions consist of WORDS."""
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join((*_SPECIAL, *WORDS)))
    tokenizer: Any = BertTokenizer(vocab=str(folder / "vocab.txt"))
    size = len(tokenizer)
    common = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **common, "vocab_size": size + 2, "encoder_hidden_size": 16, "projection_dim": 16,
        "max_position_embeddings": 96, "bos_token_id": size, "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    vision = {**common, "projection_dim": 16, "image_size": 32, "patch_size": 16}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=16, image_text_hidden_size=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = BlipForConditionalGeneration(config)
        with torch.no_grad():  # only real words are ever the likeliest
            bias = model.text_decoder.cls.predictions.bias
            bias[: len(_SPECIAL)] = -50.0
            bias[size:] = -50.0
    model.save_pretrained(folder)
    image_processor: Any = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder
