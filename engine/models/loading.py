"""Modules built empty from their configuration, then filled from files, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config.values import BasePrecision
from engine.errors import ModelError
from engine.lowmem.base_precision import Quantizer
from engine.models.fp8 import dequantize_fp8, is_scale, scale_of
from engine.models.header import read_header, readable
from engine.models.weights import READABLE
from engine.reading import require_regular
from engine.text import listing, printable
from engine.types import Log

_NO_LOSS = ("position_ids", "logit_scale", "spiece_model", "embed_tokens.weight")
"""Ends of names of tensors that may be left unused without a loss."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class TensorSource:
    """A tensor, or a piece of one, in a file."""

    name: str
    chunk: tuple[int, int] = (0, 1)
    """(n, count): the n-th of `count` equal pieces along the first axis."""
    transposed: bool = False
    rows: slice | None = None
    """Its rows where they are not an equal piece."""
    swapped: bool = False
    """Whether the two halves of its rows are in reverse order."""

    def of(self, tensor: Tensor) -> Tensor:
        """The piece; a view where nothing has to be reordered."""
        number, count = self.chunk
        piece = tensor if count == 1 else tensor.chunk(count)[number]
        if self.rows is not None:
            piece = piece[self.rows]
        if self.swapped:
            piece = torch.cat(piece.chunk(2)[::-1])
        return piece.T.contiguous() if self.transposed else piece


class WeightChanges(Protocol):
    """Changes that are added to weights while they are read."""

    def of_part(self, part: str, module: Any, config: Mapping[str, Any]) -> Mapping[str, Callable[[], Tensor]]:
        """The keys of the weights of a part that change, each with what gives ΔW, float32, in the weight's shape.

        Args:
            module: the part on the meta device.
            config: what it was built from.
        """


_CHANGES: ContextVar[WeightChanges | None] = ContextVar("changes of weights", default=None)


@contextmanager
def changing_weights(changes: WeightChanges) -> Iterator[None]:
    """Context in which `load_part` adds these changes to the weights that it reads, whatever family calls it."""
    token = _CHANGES.set(changes)
    try:
        yield
    finally:
        _CHANGES.reset(token)


KeyCandidates = Mapping[str, Sequence[TensorSource]]
"""A module's tensor names to their possible sources in the files."""


@dataclass(frozen=True)
class PartSource:
    """How to build one part, and the files of its weights."""

    build: Callable[[Mapping[str, Any]], Any]
    """Configuration to module."""
    config: dict[str, Any]
    files: Sequence[Path]
    key_candidates: Callable[[Sequence[str]], KeyCandidates]
    prefixes: Sequence[str] = ("",)
    """Names of the part's tensors in the files begin with one of these; others belong to other parts."""


def without_files(build: Callable[[Mapping[str, Any]], Any], config: dict[str, Any]) -> PartSource:
    """A part without files, which can only be loaded empty."""
    return PartSource(build, config, (), lambda _: {})


def meta_module(build: Callable[[Mapping[str, Any]], Any], config: Mapping[str, Any]) -> Any:
    """A module on the meta device (its buffers are real): takes no memory and reads nothing."""
    with init_empty_weights(include_buffers=False):
        return build(config)


def load_part(
    part: str,
    source: PartSource,
    dtype: torch.dtype,
    log: Log,
    *,
    empty: bool = False,
    precision: BasePrecision = "auto",
    blocks: Sequence[str] = (),
    device: str = "cpu",
) -> Any:
    """Build the part and fill it, tensor by tensor, in `dtype`, in the host's memory; frozen, in eval mode.

    Weights that have `dtype` in the file stay mapped from it (privately); fp8 weights are multiplied with their scales.
    Inside `changing_weights` changes are added in float32, one weight at a time, before it is converted or quantized.

    Args:
        empty: allocate the weights and read none.
        precision: of the linear layers in the part's blocks (`engine.lowmem.base_precision`), quantized when read.
        blocks: how the paths of the layers in its blocks begin.
        device: where the codes are computed.

    Raises:
        ModelError: a file is broken, or a tensor is missing, has another shape, or holds NaN or infinity.
        UsageError: the precision needs a package that is not installed.
    """
    module = _built(part, source)
    quantizer = Quantizer(module, precision, torch.device(device), blocks)
    if empty:
        module = module.to_empty(device="cpu").to(dtype).requires_grad_(False).eval()
        quantizer.quantize_all()
        return module
    changes = _CHANGES.get()
    added = {} if changes is None else changes.of_part(part, module, source.config)
    state = _read_weights(part, source, module, dtype, quantizer, added, log)
    module.load_state_dict(state, strict=True, assign=True)
    quantizer.log_summary(part, dtype, log)
    return module.requires_grad_(False).eval()


def _read_weights(
    part: str,
    source: PartSource,
    module: Any,
    dtype: torch.dtype,
    quantizer: Quantizer,
    added: Mapping[str, Callable[[], Tensor]],
    log: Log,
) -> dict[str, Tensor]:
    """The module's tensors from the part's files: in `dtype`, or quantized.

    Args:
        added: what gives the change of a weight, by its name in the module.
    """
    kinds = {name: kind for file in source.files for name, (kind, _) in read_header(file).tensors.items()}
    shapes = {key: tensor.shape for key, tensor in module.state_dict().items()}
    candidates = source.key_candidates(list(shapes))
    state: dict[str, Tensor] = {}
    where = printable(source.files[0])
    with open_tensors(source.files) as opened:
        handles = {name: handle for name, (handle, _) in opened.items()}
        if missing := [
            candidates[key][0].name for key in shapes if not any(entry.name in handles for entry in candidates[key])
        ]:
            raise _missing_tensors(missing, len(shapes), part, where)
        used = {key: next(entry for entry in candidates[key] if entry.name in handles) for key in shapes}
        for key, entry in used.items():
            what = f"{entry.name} in {printable(opened[entry.name][1])}"
            if kinds[entry.name] not in READABLE:
                raise ModelError(
                    f"{what} is in the number format {kinds[entry.name]}, which is not supported.",
                    "Use the file in fp16, bf16 or fp32.",
                    code="number-format-not-supported",
                )
            tensor = _reshape(_read(handles, entry), shapes[key], what)
            if key in added:
                tensor = tensor.float() + added[key]()
            converted = tensor if key in quantizer else tensor.to(dtype)
            _check_finite(converted, tensor, what)
            state |= quantizer.quantize(key, tensor) if key in quantizer else {key: converted}
        _log_unused(handles, {entry.name for entry in used.values()}, source.prefixes, f"{part} in {where}", log)
    return state


def _missing_tensors(missing: Sequence[str], count: int, part: str, where: str) -> ModelError:
    names = list(dict.fromkeys(missing))  # several may be parts of one tensor in the file
    examples = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return ModelError(
        f"{where} lacks {len(missing)} of the {count} tensors of its {part}: {examples}.",
        "Fetch it again, or use another copy of the checkpoint.",
        code="checkpoint-incomplete",
    )


def _built(part: str, source: PartSource) -> Any:
    """The empty module.

    Raises:
        ModelError: the libraries refuse its configuration.
    """
    try:
        return meta_module(source.build, source.config)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError) as error:
        where = source.files[0].parent / "config.json" if source.files else None
        named = where if where is not None and where.is_file() else next(iter(source.files), Path(part))
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The {part} cannot be built from {printable(named)}: {printable(reason)}.",
            "Fetch the folder or file again, or use another copy.",
            code="component-not-buildable",
        ) from error


@contextmanager
def open_tensors(files: Sequence[Path]) -> Iterator[dict[str, tuple[Any, Path]]]:
    """Context with each tensor's name, to the open file that has it and the file's path.

    Raises:
        ModelError: here or inside the context, where the safetensors library refuses a file.
    """
    for file in files:
        with readable(file):
            require_regular(file)
    try:
        with ExitStack() as stack:
            handles = [stack.enter_context(safe_open(file, framework="pt", device="cpu")) for file in files]
            pairs = zip(handles, files, strict=True)
            yield {name: (handle, file) for handle, file in pairs for name in handle.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        paths = listing([printable(file) for file in files], 2)
        raise ModelError(
            f"{paths} cannot be read: {error}.", "Fetch it again, or use another copy.", code="model-file-unreadable"
        ) from error


def _check_finite(kept: Tensor, read: Tensor, what: str) -> None:
    """Refuse a weight with NaN or infinity, which would look like a learning rate that is too high.

    A sum is not finite where one of its numbers is not, and is faster than any other check.

    Args:
        kept: as the model gets it.
        read: as the file has it.

    Raises:
        ModelError: the message names the cause, the file or the number format.
    """
    if not kept.is_floating_point() or bool(torch.isfinite(kept.sum())) or bool(torch.isfinite(kept).all()):
        return
    if bool(torch.isfinite(read).all()):
        format_name = next((name for name, dtype in DTYPES.items() if dtype == kept.dtype), str(kept.dtype))
        raise ModelError(
            f"{what} holds numbers beyond the range of {format_name}.",
            "Set memory.mixed_precision to bf16 or no.",
            code="number-format-exceeded",
        )
    raise ModelError(
        f"{what} holds NaN or infinity: with such weights no training can work.",
        "The file is damaged, or its training diverged: use another copy or another checkpoint.",
        code="weights-not-finite",
    )


def _read(handles: Mapping[str, Any], source: TensorSource) -> Tensor:
    """The tensor, fp8 as float32."""
    tensor: Tensor = source.of(handles[source.name].get_tensor(source.name))
    if tensor.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor
    name = scale_of(source.name, handles)
    if name is None:
        return tensor.float()
    scale: Tensor = handles[name].get_tensor(name)
    return dequantize_fp8(tensor, scale if scale.numel() == 1 else source.of(scale.flatten()))


def _reshape(tensor: Tensor, shape: torch.Size, what: str) -> Tensor:
    """`tensor` in the module's shape; a 1x1 convolution is accepted for a linear layer."""
    if tensor.shape == shape:
        return tensor
    if tensor.numel() == shape.numel() and tensor.squeeze().shape == torch.Size([side for side in shape if side != 1]):
        return tensor.reshape(shape)
    raise ModelError(
        f"{what} has the shape {list(tensor.shape)} instead of {list(shape)}.",
        "The file's keys and shapes are of different models: use another copy.",
        code="tensor-wrong-shape",
    )


def _log_unused(names: Iterable[str], used: set[str], prefixes: Sequence[str], what: str, log: Log) -> None:
    unused = [
        name
        for name in names
        if name not in used and name.startswith(tuple(prefixes)) and not name.endswith(_NO_LOSS) and not is_scale(name)
    ]
    if unused:
        log(f"{len(unused)} tensors of the {what} are not used, {unused[0]} among them: this family has no such layer.")
