"""U-Net, VAE and CLIP text encoders as sources for the loader, in diffusers' layout and in single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from engine.config.schema import ModelTable
from engine.errors import ModelError
from engine.families.unet.clip import clip_sizes, open_clip_place, open_clip_sizes
from engine.families.unet.configs import CONFIGS
from engine.families.unet.lean import use_lean_blocks
from engine.families.unet.names import UNET, VAE, Shapes, fitted, unet_name, vae_name, vae_sizes
from engine.families.unet.vae import check_vae
from engine.models.configs import VAE as VAE_CONFIG
from engine.models.configs import read_config
from engine.models.files import require_regular_files, weight_files
from engine.models.header import read_header
from engine.models.loading import KeyCandidates, PartSource, TensorSource, load_part
from engine.paths import ASSETS, expanded
from engine.text import printable
from engine.types import Log, Recognition

TOKENIZER = ASSETS / "clip_tokenizer"
_OLD_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_NOT_OF_THE_CLASS = ("_name_or_path", "quantization_config", "torch_dtype", "dtype")


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the keys that its class does not take."""
    return {key: value for key, value in config.items() if key not in _NOT_OF_THE_CLASS}


def build_unet(config: Mapping[str, Any]) -> Any:
    """diffusers' U-Net."""
    module_class: Any = UNet2DConditionModel
    unet = module_class.from_config(plain(config))
    use_lean_blocks(unet)
    return unet


def build_vae(config: Mapping[str, Any]) -> Any:
    """diffusers' VAE."""
    module_class: Any = AutoencoderKL
    return module_class.from_config(plain(config))


def build_clip(config: Mapping[str, Any]) -> Any:
    """transformers' CLIP text encoder."""
    return CLIPTextModel(CLIPTextConfig(**plain(config)))


def build_clip_with_projection(config: Mapping[str, Any]) -> Any:
    """The same with the projection of its pooled output."""
    return CLIPTextModelWithProjection(CLIPTextConfig(**plain(config)))


def folder_source(folder: Path, part: str, build: Callable[[Mapping[str, Any]], Any]) -> PartSource:
    """The part in the subfolder `part` of a diffusers folder."""
    config = read_config(folder / part / "config.json", CONFIGS[part])
    return PartSource(build, config, weight_files(folder, part), lambda keys: folder_places(part, keys))


def folder_places(part: str, keys: Sequence[str]) -> KeyCandidates:
    """The places of a part's tensors in files with diffusers' and transformers' names, the older ones included."""
    if part.startswith("text_encoder"):
        forms = {key: (key, f"text_model.{key}", key.removeprefix("text_model.")) for key in keys}
    elif part == "vae":
        forms = {key: (key, _old_attention(key), key) for key in keys}
    else:
        return {key: [TensorSource(key)] for key in keys}
    return {key: [TensorSource(name) for name in names] for key, names in forms.items()}


def _old_attention(key: str) -> str:
    """The VAE attention's tensor as diffusers named it until 2023."""
    for new, old in _OLD_VAE_ATTENTION.items():
        if f"attentions.0.{new}." in key:
            return key.replace(new, old)
    return key


def unet_source(path: Path, base: Mapping[str, Any], sizes: Callable[[Shapes], dict[str, Any]]) -> PartSource:
    """The U-Net of a single file."""
    config = fitted("unet", base, sizes, read_header(path).shapes)
    return PartSource(
        build_unet,
        config,
        [path],
        lambda keys: {key: [TensorSource(UNET + unet_name(key, config))] for key in keys},
        (UNET,),
    )


def vae_source(path: Path, base: Mapping[str, Any]) -> PartSource:
    """The VAE of a single file."""
    config = fitted("vae", base, vae_sizes, read_header(path).shapes)
    return PartSource(
        build_vae,
        config,
        [path],
        lambda keys: {key: [TensorSource(VAE + vae_name(key, config))] for key in keys},
        (VAE,),
    )


def clip_source(path: Path, base: Mapping[str, Any], prefixes: Sequence[str]) -> PartSource:
    """A text encoder of a single file with transformers' names behind one of `prefixes`."""
    config = fitted("text encoder", base, lambda shapes: clip_sizes(shapes, prefixes), read_header(path).shapes)

    def places(keys: Sequence[str]) -> KeyCandidates:
        return {key: [TensorSource(prefix + key.removeprefix("text_model.")) for prefix in prefixes] for key in keys}

    return PartSource(build_clip, config, [path], places, prefixes)


def open_clip_source(path: Path, base: Mapping[str, Any], prefix: str) -> PartSource:
    """A text encoder of a single file with OpenCLIP's names behind `prefix`, with its projection."""
    shapes = read_header(path).shapes
    config = fitted("second text encoder", base, lambda shapes: open_clip_sizes(shapes, prefix), shapes)

    def places(keys: Sequence[str]) -> KeyCandidates:
        open_clip = {key: open_clip_place(key) for key in keys}
        return {key: [TensorSource(prefix + name, chunk, turned)] for key, (name, chunk, turned) in open_clip.items()}

    return PartSource(build_clip_with_projection, config, [path], places, (prefix,))


def other_vae_source(path: Path, own: dict[str, Any]) -> PartSource:
    """Another VAE: a diffusers folder (of the VAE, or of a complete model), or a file in either layout.

    Args:
        path: `model.vae`.
        own: configuration of the checkpoint's own VAE, for what a file does not have.
    """
    if path.is_dir():
        inner = path / "vae" if (path / "vae" / "config.json").exists() else path
        return folder_source(inner.parent, inner.name, build_vae) if inner.name == "vae" else _bare_folder(inner)
    header = read_header(path)
    if header.any("encoder.down_blocks."):
        return PartSource(build_vae, own, [path], lambda keys: folder_places("vae", keys))
    bare = not header.any(VAE)
    shapes = {VAE + name: shape for name, shape in header.shapes.items()} if bare else header.shapes
    config = fitted("vae", own, vae_sizes, shapes)
    front = "" if bare else VAE
    prefixes = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.") if bare else (VAE,)
    return PartSource(
        build_vae,
        config,
        [path],
        lambda keys: {key: [TensorSource(front + vae_name(key, config))] for key in keys},
        prefixes,
    )


def _bare_folder(folder: Path) -> PartSource:
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if file.name == "diffusion_pytorch_model.safetensors"]
    if not files:
        raise ModelError(
            f"{printable(folder)} has no .safetensors weights of a VAE.",
            "Name a VAE file or a diffusers folder.",
            code="vae-without-weights",
        )
    config = read_config(folder / "config.json", VAE_CONFIG)
    return PartSource(build_vae, config, plain or files[:1], lambda keys: folder_places("vae", keys))


def load_vae(
    table: ModelTable, own: PartSource, dtype: torch.dtype, log: Log, *, latents: int, empty: bool = False
) -> Any:
    """The checkpoint's VAE, or the one of `model.vae`.

    Args:
        latents: channels that the denoiser takes.

    Raises:
        ModelError: it cannot be loaded, or makes latents of other channels.
    """
    source = own
    if table.vae is not None:
        path = expanded(table.vae)
        check_vae(path)
        log(f"VAE: {printable(path)} instead of the checkpoint's own (model.vae).")
        source = other_vae_source(path, own.config)
    vae = load_part("vae", source, dtype, log, empty=empty)
    if vae.config.latent_channels != latents:
        raise ModelError(
            f"The VAE makes latents of {vae.config.latent_channels} channels, the U-Net takes {latents}.",
            "Use the VAE of this model's family.",
            code="model-parts-do-not-fit",
        )
    return vae


def load_tokenizer(recognition: Recognition, name: str = "tokenizer", **usual: Any) -> Any:
    """The folder's own tokenizer, else CLIP's, which comes with the program.

    Args:
        name: its folder.
        usual: settings of CLIP's own in that case.

    Raises:
        ModelError: it cannot be read.
    """
    own = recognition.path / name
    has_own = recognition.layout == "diffusers" and own.is_dir()
    folder = own if has_own else TOKENIZER
    require_regular_files(folder)
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True, **({} if has_own else usual))
    except Exception as error:  # the Rust tokenizer raises bare Exception
        raise unreadable_tokenizer(folder, error) from error


def unreadable_tokenizer(folder: Path, error: Exception) -> ModelError:
    """The error for a tokenizer that its library refuses."""
    return ModelError(
        f"The tokenizer in {printable(folder)} cannot be read: {error}.", "Fetch it again.", code="tokenizer-unreadable"
    )
