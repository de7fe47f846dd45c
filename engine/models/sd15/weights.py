"""The parts of Stable Diffusion 1.x as modules: built empty from their configurations, then filled from files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from engine.errors import ModelError
from engine.models.base import Recognition, Say
from engine.models.header import Header, read_header
from engine.models.sd15.detect import TEXT, UNET, VAE, read_json, weight_files
from engine.models.sd15.ldm import fitted, ldm_names
from engine.paths import ASSETS
from engine.text import printable

CONFIGURATIONS = ASSETS / "sd15"
PARTS = ("text_encoder", "unet", "vae")
_OLD_VAE_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
_PREFIXES = {"unet": (UNET,), "vae": (VAE,), "text_encoder": TEXT}

Candidates = Mapping[str, Sequence[str]]
"""A module's tensor names to the names that they may have in the files."""


@dataclass(frozen=True)
class Source:
    """Where the weights of one part come from."""

    config: dict[str, Any]
    files: Sequence[Path]
    candidates: Callable[[Sequence[str]], Candidates]
    prefixes: Sequence[str]
    """Names of the part's tensors in the files begin with one of these; others belong to other parts."""


def source_of(recognition: Recognition, part: str) -> Source:
    """Configuration and files of one part of a recognised checkpoint."""
    path = recognition.path
    if recognition.layout == "diffusers":
        return folder_source(path, part)
    return file_source(path, part, read_header(path))


def folder_source(folder: Path, part: str) -> Source:
    """The part in the subfolder `part` of a diffusers folder."""
    config = read_json(folder / part / "config.json")
    return Source(config, weight_files(folder, part), lambda keys: _folder_names(part, keys), ("",))


def file_source(path: Path, part: str, header: Header) -> Source:
    """The part in a single file; sizes as its shapes tell, the rest as in the shipped configuration."""
    base = read_json(CONFIGURATIONS / part / "config.json")
    config = fitted(part, base, header.shapes)
    return Source(config, [path], lambda keys: _file_names(part, keys, config), _PREFIXES[part])


def vae_source(path: Path, own: dict[str, Any]) -> Source:
    """Another VAE: a diffusers folder (of the VAE, or of a whole model), or a file in either layout.

    Args:
        path: `model.vae`.
        own: configuration of the checkpoint's own VAE; it tells what a file does not.
    """
    if path.is_dir():
        inner = path / "vae" if (path / "vae" / "config.json").exists() else path
        return folder_source(inner.parent, inner.name) if inner.name == "vae" else _bare_folder(inner)
    header = read_header(path)
    if header.any("encoder.down_blocks."):
        return Source(own, [path], lambda keys: _folder_names("vae", keys), ("",))
    bare = not header.any(VAE)
    shapes = {VAE + name: shape for name, shape in header.shapes.items()} if bare else header.shapes
    config = fitted("vae", own, shapes)
    cut = len(VAE) if bare else 0

    def names(keys: Sequence[str]) -> Candidates:
        return {key: [name[cut:] for name in found] for key, found in _file_names("vae", keys, config).items()}

    prefixes = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.") if bare else (VAE,)
    return Source(config, [path], names, prefixes)


def _bare_folder(folder: Path) -> Source:
    files = sorted(folder.glob("*.safetensors"))
    plain = [file for file in files if file.name == "diffusion_pytorch_model.safetensors"]
    if not files:
        raise ModelError(
            f"{printable(folder)} has no .safetensors weights of a VAE.", "Name a VAE file or a diffusers folder."
        )
    config = read_json(folder / "config.json")
    return Source(config, plain or files[:1], lambda keys: _folder_names("vae", keys), ("",))


def _folder_names(part: str, keys: Sequence[str]) -> Candidates:
    if part == "text_encoder":
        return {key: (key, f"text_model.{key}", key.removeprefix("text_model.")) for key in keys}
    if part == "vae":
        return {key: (key, _old_attention(key)) for key in keys}
    return {key: (key,) for key in keys}


def _old_attention(key: str) -> str:
    """The VAE attention's tensor as diffusers named it until 2023."""
    for new, old in _OLD_VAE_ATTENTION.items():
        if f"attentions.0.{new}." in key:
            return key.replace(new, old)
    return key


def _file_names(part: str, keys: Sequence[str], config: Mapping[str, Any]) -> Candidates:
    names = ldm_names(part, keys, config)
    if part != "text_encoder":
        return {key: (name,) for key, name in names.items()}
    return {key: (name, TEXT[1] + name.removeprefix(TEXT[0])) for key, name in names.items()}


def hollow(part: str, config: Mapping[str, Any]) -> Any:
    """The part's module on the meta device (its buffers are real); no memory, no reading."""
    plain = {key: value for key, value in config.items() if key not in ("_name_or_path", "quantization_config")}
    with init_empty_weights(include_buffers=False):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig(**{key: plain[key] for key in plain if key != "torch_dtype"}))
        module_class: Any = UNet2DConditionModel if part == "unet" else AutoencoderKL
        return module_class.from_config(plain)


def empty_parts(recognition: Recognition) -> dict[str, nn.Module]:
    """Every part of a checkpoint on the meta device, with its real sizes: for plans and name tables."""
    return {part: hollow(part, source_of(recognition, part).config) for part in PARTS}


def load_part(part: str, source: Source, dtype: torch.dtype, say: Say, *, empty: bool = False) -> Any:
    """Build the part and fill it, tensor by tensor, in `dtype`, in the host's memory; frozen, in eval mode.

    Weights that have `dtype` in the file stay mapped from it (privately: writes do not reach the file).

    Args:
        empty: allocate the weights and read none.

    Raises:
        ModelError: a file is broken, or a tensor is missing or has another shape.
    """
    for file in source.files:
        read_header(file)
    module = hollow(part, source.config)
    if empty:
        return module.to_empty(device="cpu").to(dtype).requires_grad_(False).eval()
    wanted = {key: tensor.shape for key, tensor in module.state_dict().items()}
    names = source.candidates(list(wanted))
    state: dict[str, Tensor] = {}
    where = printable(source.files[0])
    with ExitStack() as stack:
        found = dict(_open(stack, source.files))
        used = {key: next((name for name in names[key] if name in found), None) for key in wanted}
        missing = [names[key][0] for key, name in used.items() if name is None]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ModelError(
                f"{where} lacks {len(missing)} of the {len(wanted)} tensors of its {part}: {shown}.",
                "Fetch it again, or use another copy of the checkpoint.",
            )
        for key, name in used.items():
            assert name is not None
            tensor = found[name].get_tensor(name)
            state[key] = _shaped(tensor, wanted[key], f"{name} in {where}").to(dtype)
        _tell_unused(found, {name for name in used.values() if name}, source.prefixes, f"{part} in {where}", say)
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def _open(stack: ExitStack, files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    for file in files:
        handle = stack.enter_context(safe_open(file, framework="pt", device="cpu"))
        for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
            yield name, handle


def _shaped(tensor: Tensor, shape: torch.Size, what: str) -> Tensor:
    """`tensor` as the module has it; a 1x1 convolution may stand for a linear layer."""
    if tensor.shape == shape:
        return tensor
    if tensor.numel() == shape.numel() and tensor.squeeze().shape == torch.Size([side for side in shape if side != 1]):
        return tensor.reshape(shape)
    raise ModelError(
        f"{what} has the shape {list(tensor.shape)} in place of {list(shape)}.",
        "The file is of another kind or size than its keys say; use another copy.",
    )


def _tell_unused(found: Mapping[str, Any], used: set[str], prefixes: Sequence[str], what: str, say: Say) -> None:
    unused = [
        name
        for name in found
        if name not in used and name.startswith(tuple(prefixes)) and not name.endswith("position_ids")
    ]
    if unused:
        say(f"{len(unused)} tensors of the {what} are not used, {unused[0]} among them: this family has no such layer.")
