"""A tiny FLUX.1 of the real classes, with seeded random weights, in each layout; and a tiny real T5 tokenizer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from engine.families.flux.load import scheduler_config
from engine.families.flux.names import bfl_place
from engine.families.unet.names import vae_name
from engine.families.unet.parts import TOKENIZER
from engine.models.loading import DTYPES

HEADS, HEAD = 2, 32
PIECES = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0), ("▁a", -1.0), ("▁zed", -1.0)]
PIECES += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz,.0123456789"]
"""What the tiny T5 tokenizer knows, in the order of the ids, with scores."""


def tiny_parts(*, dev: bool = True, blocks: tuple[int, int] = (1, 1), seed: int = 0) -> dict[str, Any]:
    """Transformer (64 wide), VAE (16 channels), CLIP (32 wide) and T5 (24 wide) as modules in fp32."""
    transformer_class: Any = FluxTransformer2DModel
    vae_class: Any = AutoencoderKL
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = transformer_class(
            num_layers=blocks[0],
            num_single_layers=blocks[1],
            num_attention_heads=HEADS,
            attention_head_dim=HEAD,
            joint_attention_dim=24,
            pooled_projection_dim=32,
            guidance_embeds=dev,
            axes_dims_rope=(4, 14, 14),
        )
        vae = vae_class(
            block_out_channels=(32,) * 4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=1,
                projection_dim=32,
                vocab_size=49408,
                max_position_embeddings=77,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
        text_encoder_2 = T5EncoderModel(
            T5Config(
                vocab_size=64,
                d_model=24,
                d_kv=8,
                d_ff=48,
                num_layers=2,
                num_heads=2,
                feed_forward_proj="gated-gelu",
                dropout_rate=0.1,
                tie_word_embeddings=False,
            )
        )
        for parameter in transformer.parameters():  # biases and norms too: a wrong place then shows
            nn.init.normal_(parameter, std=0.05)
    parts = {"transformer": transformer, "vae": vae, "text_encoder": text_encoder, "text_encoder_2": text_encoder_2}
    return {name: part.eval().requires_grad_(False) for name, part in parts.items()}


def tiny_t5_tokenizer(folder: Path) -> Path:
    """A T5 tokenizer of 50 pieces, saved as a folder with tokenizer.json."""
    T5Tokenizer(vocab=PIECES, extra_ids=0).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class FluxFiles:
    """ComfyUI's and Kohya's separate files."""

    transformer: Path
    clip_l: Path
    t5xxl: Path
    ae: Path
    t5_tokenizer: Path

    @property
    def settings(self) -> dict[str, str]:
        """The keys of `[model]`."""
        keys = ("clip_l", "t5xxl", "ae", "t5_tokenizer")
        return {"pretrained_model_name_or_path": str(self.transformer)} | {key: str(getattr(self, key)) for key in keys}


def tiny_folder(directory: Path, *, dtype: str = "fp32", dev: bool = True, **sizes: Any) -> Path:
    """A FluxPipeline's folder, with a T5 tokenizer of 50 pieces."""
    folder = directory / "tiny"
    for name, module in tiny_parts(dev=dev, **sizes).items():
        nn.Module.to(module, DTYPES[dtype]).save_pretrained(folder / name)
    shutil.copytree(TOKENIZER, folder / "tokenizer")
    tiny_t5_tokenizer(folder / "tokenizer_2")
    (folder / "scheduler").mkdir()
    schedule = scheduler_config(_Variant("dev" if dev else "schnell", folder))  # type: ignore[arg-type]
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    index = {"_class_name": "FluxPipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    index |= {"transformer": ["diffusers", "FluxTransformer2DModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"text_encoder_2": ["transformers", "T5EncoderModel"], "tokenizer_2": ["transformers", "T5TokenizerFast"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@dataclass(frozen=True)
class _Variant:
    variant: str
    path: Path
    layout: str = "single_file"

    @property
    def details(self) -> Mapping[str, str]:
        return {"variant": self.variant}


def tiny_files(
    directory: Path,
    *,
    dtype: str = "fp32",
    prefix: str = "",
    naming: str = "bfl",
    dev: bool = True,
    single_file: bool = False,
    **sizes: Any,
) -> FluxFiles:
    """The separate files.

    Args:
        prefix: before the transformer's names.
        naming: "bfl", or "diffusers" for the transformer and the VAE.
        single_file: everything in the transformer's file, with ComfyUI's prefixes; the others are written too.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {part: file_tensors(part, module, naming) for part, module in tiny_parts(dev=dev, **sizes).items()}
    cast = {part: {name: tensor.to(DTYPES[dtype]) for name, tensor in state.items()} for part, state in tensors.items()}
    cast["transformer"] = {prefix + name: tensor for name, tensor in cast["transformer"].items()}
    if single_file:
        for part, start in (
            ("text_encoder", "text_encoders.clip_l.transformer."),
            ("text_encoder_2", "text_encoders.t5xxl.transformer."),
            ("vae", "vae."),
        ):
            cast["transformer"] |= {start + name: tensor for name, tensor in cast[part].items()}
    names = {"transformer": "flux1", "text_encoder": "clip_l", "text_encoder_2": "t5xxl", "vae": "ae"}
    places = {part: directory / f"{name}.safetensors" for part, name in names.items()}
    for part, place in places.items():
        save_file({name: tensor.contiguous() for name, tensor in cast[part].items()}, place)
    tokenizer = tiny_t5_tokenizer(directory / "t5_tokenizer")
    return FluxFiles(places["transformer"], places["text_encoder"], places["text_encoder_2"], places["vae"], tokenizer)


def file_tensors(part: str, module: Any, naming: str = "bfl") -> dict[str, Tensor]:
    """A part's tensors under the names of its separate file."""
    state: dict[str, Tensor] = module.state_dict()
    if part == "text_encoder":
        return {"text_model." + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    if part == "text_encoder_2":
        return {name: tensor for name, tensor in state.items() if name != "encoder.embed_tokens.weight"}
    if naming == "diffusers":
        return state
    if part == "vae":
        plain = {vae_name(key, module.config): tensor for key, tensor in state.items()}
        return {
            name: tensor[..., None, None] if ".attn_1." in name and tensor.ndim == 2 else tensor
            for name, tensor in plain.items()
        }
    return bfl_tensors(state)


def bfl_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' tensors of the transformer put together as BFL has them."""
    pieces: dict[str, list[tuple[int, Tensor]]] = {}
    for key, tensor in state.items():
        name, rows, swapped = bfl_place(key, HEADS * HEAD)
        piece = torch.cat(tensor.chunk(2)[::-1]) if swapped else tensor
        pieces.setdefault(name, []).append((0 if rows is None else int(rows.start), piece))
    return {
        name: torch.cat([tensor for _, tensor in sorted(parts, key=lambda piece: piece[0])])
        for name, parts in pieces.items()
    }
