"""One file for a whole training state: tensors in safetensors, everything else as JSON in its header. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from engine import atomic
from engine.out_of_memory import is_out_of_memory
from engine.runs.states import FORMAT, UNSEALED, read_state, sealed, unflatten


def save_tree(path: Path, tree: Any) -> int:
    """Write nested dicts, lists and tuples of tensors and plain values; returns the bytes written.

    Raises:
        StorageError: no space or no permission; an older file at `path` is untouched.
    """
    tensors: dict[str, torch.Tensor] = {}
    structure = flatten(tree, tensors)
    size = sum(tensor.nbytes for tensor in tensors.values())
    atomic.require_space(path.parent, size + 2**20, "the training state")
    metadata = {"format": FORMAT, "tree": json.dumps(structure), "sha256": UNSEALED}
    data = save(tensors, metadata)  # not save_file, which hides the reason of a failed write
    with atomic.replacing(path) as temporary, temporary.open("wb") as file:
        for part in sealed(path.name, data):
            file.write(part)
    return len(data)


def load_tree(path: Path) -> Any | None:
    """What `save_tree` wrote; None when the file is missing, cut short, changed or renamed."""
    state = read_state(path)
    if state is None:
        return None
    try:
        with safe_open(path, "pt") as file:
            # Copies: a tensor inside the file is not aligned as a new one, and a dot product depends on that.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        return unflatten(state.structure, tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        return None


def flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The structure of a tree as JSON holds it; copies of its tensors go into `tensors` by name.

    Raises:
        TypeError: a value of another type.
    """
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[flatten(key, tensors), flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold {type(value)}")
