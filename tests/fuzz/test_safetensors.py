"""Safetensors files with any header: read, or refused as no model."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from engine.adapters.inspect import inspect_lora
from engine.errors import ModelError
from engine.families.registry import recognise
from engine.models.header import read_header
from tests.fuzz.search import VALUES, examples, search

MODULE = "lora_unet_mid_block_attentions_0_proj_in"
PARTS = (f"{MODULE}.lora_down.weight", f"{MODULE}.lora_up.weight", f"{MODULE}.alpha")
NAMES = st.sampled_from([*PARTS, "model.diffusion_model.input_blocks.0.0.weight", "x", ""])
SIZES = st.integers(0, 8)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I64", "F8_E4M3", "F4", "BOOL"]) | VALUES,
        "shape": st.lists(SIZES, max_size=4) | VALUES,
        "data_offsets": st.tuples(SIZES, st.integers(0, 64)).map(list) | VALUES,
    },
)
FITTING = st.tuples(SIZES, SIZES).map(
    lambda sides: {"dtype": "F32", "shape": list(sides), "data_offsets": [0, 4 * sides[0] * sides[1]]}
)
HEADERS = st.dictionaries(NAMES, TENSORS | FITTING | VALUES, max_size=5) | VALUES
METADATA = st.dictionaries(st.text(max_size=8), VALUES, max_size=3) | VALUES


def _file(value: tuple[Any, Any, bytes, int]) -> bytes:
    header, metadata, data, lie = value
    if isinstance(header, dict) and metadata is not None:
        header = {**header, "__metadata__": metadata}
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", max(0, len(text) + lie)) + text + data


FILES = st.tuples(HEADERS, METADATA, st.binary(max_size=300), st.sampled_from([0, 0, 0, 1, -1, 8, 2**40])).map(_file)
DEEP = st.integers(1, 50_000).map(lambda depth: struct.pack("<Q", 2 * depth) + b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("name", ["x.safetensors"])
@examples(quick=150)
def test_any_header(tmp_path: Path, examples: int, name: str) -> None:
    path = tmp_path / name

    def check(data: bytes) -> None:
        path.write_bytes(data)
        for read in (read_header, inspect_lora):
            with suppress(ModelError):
                read(path)
        with suppress(ModelError):
            recognise(str(path))

    search(FILES | st.binary(max_size=100) | DEEP, check, examples)
