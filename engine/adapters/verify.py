"""Checks a saved file: read back by an independent reader, it must have the effect of the adapter in memory.

The reader works on twins of the components (`engine.adapters.twins`). For a LoRA it is diffusers' own loader, for every
other kind `engine.adapters.merged_reader`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

from engine.adapters.network import AdapterNetwork
from engine.adapters.precision import EPSILON
from engine.adapters.start_tensors import start_tensors
from engine.adapters.twins import failure, no_trace, twin_of
from engine.config.values import KeyFormat
from engine.errors import ModelError
from engine.families.base import LoraReader
from engine.models.header import read_header
from engine.text import listing

_TENSOR_FLOAT = 2.0**-14
"""Noise of fp32 on a GPU, whose convolutions may run in TF32."""


@dataclass(frozen=True)
class Naming:
    """The names of a saved file."""

    key_format: KeyFormat = "kohya"
    base: str = ""
    """`FamilySpec.lora_base`; for other names than Kohya's."""


_KOHYAS = Naming()


def verify_file(
    path: Path,
    network: AdapterNetwork,
    components: Mapping[str, nn.Module],
    reader: LoraReader,
    naming: Naming = _KOHYAS,
) -> float | None:
    """Check a LoRA file against the adapter that it was saved from; the training is not affected.

    Args:
        path: a file that `write_lora` wrote from the present state of `network`.
        components: the components that `network` was attached to, by name: the denoiser and the text encoders.
        reader: of the model's family.
        naming: of the file. Other names than Kohya's are read as those of any program's file; diffusers' own file is
            then loaded by diffusers as it is, ComfyUI's under the names that its modules have in Kohya's files.

    Returns:
        The largest difference between the denoiser's output with the file and with the adapter in memory, relative
        to the output's largest value; None when the base's own output is not finite in this precision.

    Raises:
        TrainingError: the file differs; the message names the difference.
    """
    tensors = _read(path)
    if naming.key_format != "kohya":
        tensors = _in_kohyas_names(path, network, components, naming)
    if naming.key_format == "diffusers":
        reader = _FileReader(reader, path)
    _check_tensors(tensors, network)
    with no_trace(components):
        loaded = _read_back(tensors, network, components, reader)
        _check_values(tensors, network)
        return _check_forward(loaded, tensors, network, components, reader)


class _FileReader(LoraReader):
    """Loads the file itself instead of its tensors in Kohya's names."""

    folds_alpha = True  # each module's own alpha counts

    def __init__(self, reader: LoraReader, path: Path) -> None:
        self._reader, self._path = reader, path

    def load(self, components: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor], adapter_name: str) -> None:
        self._reader.load_file(components, self._path, adapter_name)

    def load_file(self, components: Mapping[str, nn.Module], path: Path, adapter_name: str) -> None:
        self._reader.load_file(components, path, adapter_name)

    def denoise(self, components: Mapping[str, nn.Module]) -> torch.Tensor:
        return self._reader.denoise(components)


def _in_kohyas_names(
    path: Path, network: AdapterNetwork, components: Mapping[str, nn.Module], naming: Naming
) -> dict[str, torch.Tensor]:
    """The tensors as a run that starts from the file would get them."""
    foreign: list[str] = []
    targets = [module.target for module in network.modules]
    try:
        tensors = start_tensors(path, network.kind, naming.base, targets, components, foreign.append)
    except ModelError as error:
        raise failure(f"its names cannot be read back ({error.message.rstrip('.')})") from error
    if foreign:
        raise failure("it has modules of layers that are not trained in this run")
    return tensors


def rehearse(network: AdapterNetwork, components: Mapping[str, nn.Module], reader: LoraReader) -> None:
    """The device memory of `verify_file`, without a file and without comparing: a second adapter in float32 and the
    small forward. For plans, under fake tensors."""
    tensors = [*network.parameters(), *network.constants()]
    second = [torch.empty_like(tensor, dtype=torch.float32) for tensor in tensors]
    with no_trace(components):
        reader.denoise({key: twin_of(component, keep_adapter=True) for key, component in components.items()})
    del second


def _read(path: Path) -> dict[str, torch.Tensor]:
    data = path.read_bytes()
    metadata = read_header(path).metadata
    start = 8 + int.from_bytes(data[:8], "little")
    if hashlib.sha256(memoryview(data)[start:]).hexdigest() != metadata.get("sshs_model_hash"):
        raise failure("what was read back has another hash than what was written")
    try:
        return load(data)
    except SafetensorError as error:
        raise failure(f"it cannot be read back ({error})") from error


def _check_tensors(tensors: Mapping[str, torch.Tensor], network: AdapterNetwork) -> None:
    """Check that the file has exactly the network's modules, with finite tensors of the right shapes."""
    expected: dict[str, tuple[int, ...]] = {}
    for module in network.modules:
        for end, shape in module.shapes.items():
            expected[f"{module.target.kohya_name}.{end}"] = shape
    shared = expected.keys() & tensors.keys()
    for problem, keys in (
        ("lacks", expected.keys() - tensors.keys()),
        ("also has", tensors.keys() - expected.keys()),
        ("has, in another shape,", {key for key in shared if tensors[key].shape != expected[key]}),
        ("has, with NaN or infinity,", {key for key in tensors if not torch.isfinite(tensors[key]).all()}),
    ):
        if keys:
            raise failure(f"it {problem} {len(keys)} of {len(expected)} tensors: {listing(sorted(keys), 3)}")


def _read_back(
    tensors: Mapping[str, torch.Tensor],
    network: AdapterNetwork,
    components: Mapping[str, nn.Module],
    reader: LoraReader,
) -> dict[str, nn.Module]:
    """Twins of the components without our adapter, to which the reader has applied the file."""
    twins = {key: twin_of(component, keep_adapter=False) for key, component in components.items()}
    for kind in network.kinds:
        modules = network.modules_of(kind)
        names = {module.target.kohya_name for module in modules}
        own = {key: tensor for key, tensor in tensors.items() if key.partition(".")[0] in names}
        kind.read_back(twins, own, modules, reader)
    return {key: twin.eval() for key, twin in twins.items()}


def _check_values(tensors: Mapping[str, torch.Tensor], network: AdapterNetwork) -> None:
    """Check that the file's tensors are the adapter's, cast."""
    wrong = [
        f"{module.target.component}.{module.target.path}"
        for module in network.modules
        for end, mine in [*module.state().items()]
        if not _is_cast(mine, tensors[f"{module.target.kohya_name}.{end}"])
    ]
    if wrong:
        wrong = list(dict.fromkeys(wrong))
        raise failure(f"{len(wrong)} modules differ from the adapter in memory: {listing(wrong, 3)}")


def _is_cast(mine: torch.Tensor, stored: torch.Tensor) -> bool:
    return torch.equal(mine.to("cpu", stored.dtype), stored)


def _check_forward(
    loaded: Mapping[str, nn.Module],
    tensors: Mapping[str, torch.Tensor],
    network: AdapterNetwork,
    components: Mapping[str, nn.Module],
    reader: LoraReader,
) -> float | None:
    """Compare one small forward with the adapter in memory and one with the file.

    A deep network in half precision can amplify the file's rounding. Where the outputs differ by more than the
    computation's own rounding, the adapter in memory is rounded likewise (in its twin): then both must agree.
    """
    memory = {key: twin_of(component, keep_adapter=True) for key, component in components.items()}
    mine, theirs = reader.denoise(memory), reader.denoise(loaded)
    largest = mine.abs().max().item()
    difference = (theirs - mine).abs().max().item()
    if not math.isfinite(difference):
        plain = {key: twin_of(component, keep_adapter=False) for key, component in components.items()}
        if torch.isfinite(reader.denoise(plain)).all():
            raise failure("with it the denoiser gives NaN or infinity")
        return None
    allowed = 16 * max(EPSILON[next(list(components.values())[-1].parameters()).dtype], _TENSOR_FLOAT) * largest
    if difference > allowed:
        network.round_to(memory, min((tensor.dtype for tensor in tensors.values()), key=lambda kind: kind.itemsize))
        unexplained = (theirs - reader.denoise(memory)).abs().max().item()
        if not unexplained <= allowed:
            raise failure(
                f"with it the denoiser's output differs by {unexplained:.3g} from that of the adapter in memory; "
                f"{allowed:.3g} is the most that rounding explains"
            )
    return difference / largest if largest else difference
