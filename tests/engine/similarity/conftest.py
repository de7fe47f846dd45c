"""Tiny models with random weights, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION: dict[str, Any] = {**SIZES, "image_size": 32, "patch_size": 8}


def tiny_clip(folder: Path, words: int = 49408) -> Path:
    """With a vocabulary of so many words."""
    torch.manual_seed(0)
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1}
    text = {**SIZES, "vocab_size": words, **ends, "projection_dim": 8}
    config = CLIPConfig(text_config=text, vision_config={**VISION, "projection_dim": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


def tiny_vit(folder: Path) -> Path:
    """As DINO's, with fewer and narrower layers."""
    torch.manual_seed(0)
    ViTModel(ViTConfig(**VISION)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("vit") / "tiny-vit")
