"""Tiny captioning models of the real classes with random weights: BLIP-2, Florence-2, LLaVA, and a tagger's graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipImageProcessor,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

WORDS = ("a", "image", "of", "red", "blue", "robot", "cat", "on", "grass", "with", "sky", "the")
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<image>")
_SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_IMAGE = len(_SPECIAL) - 1


def _tokenizer(more: tuple[str, ...] = (), **special: Any) -> Any:
    words = (*_SPECIAL, *WORDS, *more)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast_tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        **special,
    )  # fmt: skip
    return fast_tokenizer


def _only_words(head: torch.nn.Linear) -> None:
    """Let the model generate only WORDS: the rows of all other tokens score far below."""
    with torch.no_grad():
        head.bias = torch.nn.Parameter(torch.full((head.out_features,), -50.0))
        head.bias[len(_SPECIAL) : len(_SPECIAL) + len(WORDS)] = 0.0


def _save(folder: Path, model: Any, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_blip2(folder: Path) -> Path:
    """BLIP-2 with OPT behind it: 32 px, 4 query tokens."""
    tokenizer = _tokenizer()
    size = len(tokenizer)
    text = {
        "model_type": "opt", "hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "vocab_size": size, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "bos_token_id": 0,
        "pad_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    config = Blip2Config(
        vision_config={**_SMALL, "image_size": 32, "patch_size": 16},
        qformer_config={**_SMALL, "vocab_size": size, "encoder_hidden_size": 16},
        text_config=text, num_query_tokens=4, image_token_index=_IMAGE,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Blip2ForConditionalGeneration(config)
    images: Any = BlipImageProcessor(size={"height": 32, "width": 32})
    return _save(folder, model, Blip2Processor(images, tokenizer, num_query_tokens=4))


def tiny_florence2(folder: Path) -> Path:
    """Florence-2 with a DaViT of four stages and BART: 64 px."""
    tokenizer = _tokenizer(extra_special_tokens={"image_token": "<image>"})
    text = {
        "model_type": "bart", "vocab_size": len(tokenizer), "d_model": 16, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16,
        "max_position_embeddings": 64, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 2, "forced_eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "depths": [1, 1, 1, 1], "embed_dim": [8, 8, 8, 16], "num_heads": [1, 1, 1, 2], "num_groups": [1, 1, 1, 2],
        "window_size": 2, "projection_dim": 16, "max_position_embeddings": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    model: Any = Florence2ForConditionalGeneration(
        Florence2Config(text_config=text, vision_config=vision, image_token_id=_IMAGE)
    )
    images: Any = CLIPImageProcessor(
        size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64}, do_center_crop=False
    )
    images.image_seq_length = 5
    return _save(folder, model, Florence2Processor(images, tokenizer))


def tiny_llava(folder: Path) -> Path:
    """LLaVA with CLIP and Llama, with a chat template: 32 px."""
    tokenizer = _tokenizer(("USER:", "ASSISTANT:"), extra_special_tokens={"image_token": "<image>"})
    text = {**_SMALL, "model_type": "llama", "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2}
    vision = {**_SMALL, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 16, "projection_dim": 16}
    torch.manual_seed(0)
    model: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={**text, "pad_token_id": 1},
            vision_config=vision,
            image_token_index=_IMAGE,
            vision_feature_layer=-1,
        )
    )
    images: Any = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    template = (
        "USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image> {% else %}"
        "{{ part['text'] }} {% endif %}{% endfor %}ASSISTANT:"
    )
    processor = LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template,
    )  # fmt: skip
    return _save(folder, model, processor)
