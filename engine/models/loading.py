"""Modules built empty from their configuration, then filled from files, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.config.values import BasePrecision
from engine.errors import ModelError
from engine.memory.base_precision import Coder
from engine.models.base import Say
from engine.models.fp8 import is_scale, restored, scale_of
from engine.models.header import read_header, readable
from engine.models.weights import READABLE
from engine.reading import require_regular
from engine.text import listing, printable

_NO_LOSS = ("position_ids", "logit_scale", "spiece_model", "embed_tokens.weight")
"""Ends of names of tensors that carry nothing a module lacks."""
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Where:
    """A tensor inside a file's tensor."""

    name: str
    chunk: tuple[int, int] = (0, 1)
    """(n, count): the n-th of `count` equal pieces along the first axis."""
    transposed: bool = False
    rows: slice | None = None
    """Its rows where they are no equal piece."""
    swapped: bool = False
    """The two halves of its rows stand in the other order."""

    def of(self, tensor: Tensor) -> Tensor:
        """The piece; a view where it stands in the file as it is wanted."""
        number, count = self.chunk
        piece = tensor if count == 1 else tensor.chunk(count)[number]
        if self.rows is not None:
            piece = piece[self.rows]
        if self.swapped:
            piece = torch.cat(piece.chunk(2)[::-1])
        return piece.T.contiguous() if self.transposed else piece


Candidates = Mapping[str, Sequence[Where]]
"""A module's tensor names to the places where they may stand in the files."""


@dataclass(frozen=True)
class Source:
    """How one part is built, and where its weights come from."""

    build: Callable[[Mapping[str, Any]], Any]
    """Configuration to module."""
    config: dict[str, Any]
    files: Sequence[Path]
    candidates: Callable[[Sequence[str]], Candidates]
    prefixes: Sequence[str] = ("",)
    """Names of the part's tensors in the files begin with one of these; others belong to other parts."""


def without_files(build: Callable[[Mapping[str, Any]], Any], config: dict[str, Any]) -> Source:
    """A part that can only be loaded empty."""
    return Source(build, config, (), lambda _: {})


def hollow(build: Callable[[Mapping[str, Any]], Any], config: Mapping[str, Any]) -> Any:
    """A module on the meta device (its buffers are real); no memory, no reading."""
    with init_empty_weights(include_buffers=False):
        return build(config)


def load_part(
    part: str,
    source: Source,
    dtype: torch.dtype,
    say: Say,
    *,
    empty: bool = False,
    precision: BasePrecision = "auto",
    device: str = "cpu",
) -> Any:
    """Build the part and fill it, tensor by tensor, in `dtype`, in the host's memory; frozen, in eval mode.

    Weights that have `dtype` in the file stay mapped from it (privately: writes do not reach the file). fp8 weights
    are brought back to their numbers, with their scales.

    Args:
        empty: allocate the weights and read none.
        precision: of the linear layers in the part's blocks (`engine.memory.base_precision`); each becomes codes as
            soon as it is read.
        device: where the codes are computed.

    Raises:
        ModelError: a file is broken, or a tensor is missing, has another shape, or holds NaN or infinity.
        UsageError: the precision needs what is not installed.
    """
    module = _built(part, source)
    coder = Coder(module, precision, torch.device(device))
    if empty:
        module = module.to_empty(device="cpu").to(dtype).requires_grad_(False).eval()
        coder.take_all()
        return module
    kinds = {name: kind for file in source.files for name, (kind, _) in read_header(file).tensors.items()}
    wanted = {key: tensor.shape for key, tensor in module.state_dict().items()}
    places = source.candidates(list(wanted))
    state: dict[str, Tensor] = {}
    where = printable(source.files[0])
    with opened(source.files) as handles:
        found = {name: handle for name, (handle, _) in handles.items()}
        if missing := [places[key][0].name for key in wanted if not any(place.name in found for place in places[key])]:
            raise _lacking(missing, len(wanted), part, where)
        used = {key: next(place for place in places[key] if place.name in found) for key in wanted}
        for key, place in used.items():
            what = f"{place.name} in {printable(handles[place.name][1])}"
            if kinds[place.name] not in READABLE:
                raise ModelError(
                    f"{what} is in the number format {kinds[place.name]}, which is not read.",
                    "Use the file in fp16, bf16 or fp32.",
                )
            tensor = _shaped(_read(found, place), wanted[key], what)
            kept = tensor if key in coder else tensor.to(dtype)
            _check_finite(kept, tensor, what)
            state |= coder.take(key, tensor) if key in coder else {key: kept}
        _tell_unused(found, {place.name for place in used.values()}, source.prefixes, f"{part} in {where}", say)
    module.load_state_dict(state, strict=True, assign=True)
    coder.tell(part, dtype, say)
    return module.requires_grad_(False).eval()


def _lacking(missing: Sequence[str], count: int, part: str, where: str) -> ModelError:
    names = list(dict.fromkeys(missing))  # several may be parts of one tensor in the file
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return ModelError(
        f"{where} lacks {len(missing)} of the {count} tensors of its {part}: {shown}.",
        "Fetch it again, or use another copy of the checkpoint.",
    )


def _built(part: str, source: Source) -> Any:
    """The empty module.

    Raises:
        ModelError: the libraries refuse its configuration.
    """
    try:
        return hollow(source.build, source.config)
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError, AssertionError) as error:
        where = source.files[0].parent / "config.json" if source.files else None
        named = where if where is not None and where.is_file() else next(iter(source.files), Path(part))
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"The {part} cannot be built as {printable(named)} has it: {printable(reason)}.",
            "Fetch the folder or file again, or use another copy.",
        ) from error


@contextmanager
def opened(files: Sequence[Path]) -> Iterator[dict[str, tuple[Any, Path]]]:
    """Tensor names to the open file that has it, and its path.

    Raises:
        ModelError: inside too, where the safetensors library refuses a file.
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
        shown = listing([printable(file) for file in files], 2)
        raise ModelError(f"{shown} cannot be read: {error}.", "Fetch it again, or use another copy.") from error


def _check_finite(kept: Tensor, read: Tensor, what: str) -> None:
    """Refuse a weight with NaN or infinity, which would look like a learning rate that is too high.

    A sum is not finite where one of its numbers is not, and reads them faster than any other check.

    Args:
        kept: as the model gets it.
        read: as the file has it.

    Raises:
        ModelError: says whether the file has it, or the number format.
    """
    if not kept.is_floating_point() or bool(torch.isfinite(kept.sum())) or bool(torch.isfinite(kept).all()):
        return
    if bool(torch.isfinite(read).all()):
        format_name = next((name for name, dtype in DTYPES.items() if dtype == kept.dtype), str(kept.dtype))
        raise ModelError(
            f"{what} holds numbers beyond the range of {format_name}.", "Set memory.mixed_precision to bf16 or no."
        )
    raise ModelError(
        f"{what} holds NaN or infinity: with such weights no training can work.",
        "The file is damaged, or the training that it comes from diverged: use another copy or another checkpoint.",
    )


def _read(found: Mapping[str, Any], place: Where) -> Tensor:
    """The tensor at a place, fp8 as float32."""
    tensor: Tensor = place.of(found[place.name].get_tensor(place.name))
    if tensor.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        return tensor
    name = scale_of(place.name, found)
    if name is None:
        return tensor.float()
    scale: Tensor = found[name].get_tensor(name)
    return restored(tensor, scale if scale.numel() == 1 else place.of(scale.flatten()))


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
        if name not in used and name.startswith(tuple(prefixes)) and not name.endswith(_NO_LOSS) and not is_scale(name)
    ]
    if unused:
        say(f"{len(unused)} tensors of the {what} are not used, {unused[0]} among them: this family has no such layer.")
