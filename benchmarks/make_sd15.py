"""Make a Stable Diffusion 1.5 of real size with random weights, for measurements where no checkpoint may be fetched.

    python benchmarks/make_sd15.py OUT --layout diffusers
    python benchmarks/make_sd15.py OUT --layout ldm --dtype fp32 --ema --position-ids

Each tensor is drawn from its own seed (its name), scaled so that activations stay near 1 and losses are finite in
fp16 too, and written at once: the memory used is that of the largest tensor. Both layouts hold the same values.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.families.unet.load import builders_of, file_names
from engine.families.unet.parts import TOKENIZER
from engine.families.unet.spec import SD15_SPEC
from engine.models.files import read_json, weight_stem
from engine.models.loading import DTYPES, meta_module
from engine.paths import ASSETS

CONFIGURATIONS = ASSETS / "sd15"

FORMATS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
POSITION_IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"

Makers = Mapping[str, tuple[str, tuple[int, ...], Callable[[], Tensor]]]
"""Tensor name to (format as safetensors spells it, shape, what makes it)."""


def random_tensor(part: str, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Norm weights 1, biases 0, embeddings 0.02, other weights normal with variance 1 / fan-in."""
    if key.endswith("bias"):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    seed = int.from_bytes(hashlib.sha256(f"{part} {key}".encode()).digest()[:7], "little")
    scale = 0.02 if "embedding.weight" in key else 1 / math.sqrt(math.prod(shape[1:]))
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).to(dtype)


def write_safetensors(path: Path, makers: Makers) -> None:
    """Write the header, then one tensor after the other."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
    for name, (kind, shape, _) in makers.items():
        start, end = end, end + sizes[kind] * math.prod(shape)
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for _, shape, make in makers.values():
            tensor = make()
            assert tuple(tensor.shape) == shape
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def part_makers(part: str, dtype: str) -> Makers:
    """One part's tensors under diffusers' names."""
    module = meta_module(builders_of(SD15_SPEC)[part], read_json(CONFIGURATIONS / part / "config.json"))

    def maker(key: str, shape: tuple[int, ...]) -> Callable[[], Tensor]:
        return lambda: random_tensor(part, key, shape, DTYPES[dtype])

    shapes = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    return {key: (FORMATS[dtype], shape, maker(key, shape)) for key, shape in shapes.items()}


def make_folder(folder: Path, dtype: str) -> None:
    """diffusers' layout, with CLIP's tokenizer."""
    shutil.copytree(CONFIGURATIONS, folder, dirs_exist_ok=True)
    shutil.copytree(TOKENIZER, folder / "tokenizer", dirs_exist_ok=True)
    for part in builders_of(SD15_SPEC):
        write_safetensors(folder / part / f"{weight_stem(part)}.safetensors", part_makers(part, dtype))


def make_file(path: Path, dtype: str, ema: bool, position_ids: bool) -> None:
    """The original layout; EMA weights are half of the plain ones, so that a mix-up shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    makers: dict[str, tuple[str, tuple[int, ...], Callable[[], Tensor]]] = {}
    for part in builders_of(SD15_SPEC):
        own = part_makers(part, dtype)
        names = file_names(part, own, read_json(CONFIGURATIONS / part / "config.json"))
        for key, (kind, shape, make) in own.items():
            conv = ".attn_1." in names[key] and len(shape) == 2
            makers[names[key]] = (kind, (*shape, 1, 1), _as_convolution(make)) if conv else (kind, shape, make)
    if ema:
        for name in [name for name in makers if name.startswith("model.diffusion_model.")]:
            kind, shape, make = makers[name]
            makers["model_ema." + name.removeprefix("model.").replace(".", "")] = (kind, shape, _halved(make))
    if position_ids:
        makers[POSITION_IDS] = ("I64", (1, 77), lambda: torch.arange(77)[None])
    write_safetensors(path, makers)


def _as_convolution(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: make()[..., None, None]


def _halved(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
    return lambda: make() * 0.5


def main() -> None:
    """Write one layout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder, or with --layout ldm the .safetensors file")
    parser.add_argument("--layout", choices=("diffusers", "ldm"), default="diffusers")
    parser.add_argument("--dtype", choices=sorted(FORMATS), default="fp16")
    parser.add_argument("--ema", action="store_true", help="single file: also EMA weights of the UNet")
    parser.add_argument("--position-ids", action="store_true", help="single file: also the text encoder's position_ids")
    arguments = parser.parse_args()
    if arguments.layout == "diffusers":
        if arguments.ema or arguments.position_ids:
            parser.error("--ema and --position-ids are for --layout ldm")
        make_folder(arguments.out, arguments.dtype)
    else:
        make_file(arguments.out, arguments.dtype, arguments.ema, arguments.position_ids)
    print(arguments.out)


if __name__ == "__main__":
    main()
