"""Writes the result of a tool: number formats, the file, its check, and the losses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engine.adapters.bases import is_unet
from engine.adapters.header_room import fit_metadata
from engine.adapters.inspect import inspect_lora
from engine.adapters.key_formats import alpha_tensor
from engine.adapters.kinds.dora import MAGNITUDE, Decomposed
from engine.adapters.layout import HASHES, LEGACY, Entry, header_bytes, legacy_hash, shared_header
from engine.adapters.naming import component_of, prefix_of
from engine.adapters.payload import ORDER, read_payload
from engine.adapters.tools.layers import LORA, Layer
from engine.adapters.tools.lora_file import read_tensors
from engine.adapters.tools.lowrank import pair_distance, pair_norm
from engine.adapters.tools.report import LayerLoss
from engine.adapters.tools.requests import Precision
from engine.atomic import replacing, require_space
from engine.errors import LoraSmithError, ModelError
from engine.models.header import MAX_HEADER, read_header
from engine.models.lora_names import ALPHA, DOWN, UP, misread_by_diffusers
from engine.text import listing, printable

DTYPES: dict[Precision, torch.dtype] = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORMATS = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.bool: "BOOL", torch.uint8: "U8"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
}
"""Number formats as a file spells them."""


class Store:
    """Collects the layers of a result in the number format of its file, with their losses.

    Values beyond the range of fp16 make the complete file float32.
    """

    def __init__(self, dtype: torch.dtype, base: str) -> None:
        self._dtype = dtype
        self._base = base
        self._layers: list[Layer] = []
        self._overflowed: list[str] = []
        self.losses: list[LayerLoss] = []
        """In the order of the layers."""

    def add(self, layer: Layer, exact: Layer | Tensor) -> None:
        """Add a layer, and compare it with the exact ΔW.

        Args:
            layer: in float32.
            exact: see `layer_loss`.

        Raises:
            ModelError: it holds NaN or infinity.
        """
        if not all(map(_finite, layer.factors.values())):
            raise ModelError(
                f"{printable(layer.name)} of the result holds NaN or infinity.",
                "The numbers of the inputs are too large: use smaller weights.",
                code="result-not-finite",
            )
        cast = _cast(layer, self._dtype)
        if not all(map(_finite, cast.factors.values())):
            self._overflowed.append(layer.name)
            cast = _cast(layer, torch.float32)
        self._layers.append(cast)
        self.losses.append(layer_loss(exact, cast, component_of(layer.name, self._base)))

    @property
    def layers(self) -> list[Layer]:
        """The layers, all of one number format."""
        return [_cast(layer, torch.float32) for layer in self._layers] if self._overflowed else self._layers

    @property
    def notes(self) -> list[str]:
        """Remarks on the number format and the alphas."""
        if not self._overflowed:
            return alphas_note(self._layers, self._base)
        return [
            f"Written in fp32: {len(self._overflowed)} layers hold values beyond the range of fp16 "
            f"({listing(self._overflowed, 3)}).",
            *alphas_note(self._layers, self._base),
        ]


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _cast(layer: Layer, dtype: torch.dtype) -> Layer:
    return replace(layer, factors={part: tensor.to(dtype).contiguous() for part, tensor in layer.factors.items()})


def tensors_of(layers: Iterable[Layer]) -> dict[str, Tensor]:
    """Keys and tensors of layers in Kohya's format; of LoRA layers that kept a dotted name in peft's."""
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        ends = {"down": DOWN, "up": UP}
        if not prefix_of(layer.name) and layer.style == "lora_A":
            ends = {"down": "lora_A.weight", "up": "lora_B.weight"}
        adapter = layer.adapter
        if isinstance(adapter, Decomposed):
            adapter, ends = adapter.plain, ends | {MAGNITUDE: "dora_scale"}
        ends = {role: end for end, role in adapter.ends.items()} | ends
        tensors |= {f"{layer.name}.{ends.get(role, role)}": tensor for role, tensor in layer.factors.items()}
        if layer.kind == LORA or layer.alpha is not None:
            alpha = float(layer.rank) if layer.alpha is None else layer.alpha
            tensors[f"{layer.name}.{ALPHA}"] = alpha_tensor(alpha, next(iter(layer.factors.values())).dtype)
    return tensors


def alphas_note(layers: Iterable[Layer], base: str) -> list[str]:
    """A warning where diffusers would use other alphas than the file's: in U-Net families, where they differ."""
    components: dict[str, dict[str, float]] = {}
    for layer in layers if is_unet(base) else ():
        alpha = float(layer.rank) if layer.alpha is None else layer.alpha
        components.setdefault(component_of(layer.name, base), {})[layer.name] = alpha
    count = sum(len(misread_by_diffusers(alphas, denoiser=name == "unet")) for name, alphas in components.items())
    if not count:
        return []
    return [
        f"Alpha differs from layer to layer: ComfyUI, A1111 and Forge read that, diffusers (0.42) uses the most "
        f"frequent one for {count} of them. For diffusers, convert the file: lorasmith lora convert --to diffusers."
    ]


def layer_loss(exact: Layer | Tensor, result: Layer, component: str) -> LayerLoss:
    """The loss of a layer of the result, compared with the exact ΔW."""
    pair, written = _flat_pair(exact), _flat_pair(result)
    assert written is not None, "a result is a LoRA"
    if isinstance(exact, Layer) and pair is not None:
        norm = pair_norm(*pair) * abs(exact.scale)
        if _is_same(exact, result):
            return LayerLoss(result.name, component, norm, 0.0, result.rank)
        first, second = ((down, up.double() * layer.scale) for (down, up), layer in ((pair, exact), (written, result)))
        lost = pair_distance(first, second)
    else:
        change = (exact.delta() if isinstance(exact, Layer) else exact).flatten(1)
        norm = float(change.double().norm())
        lost = float((change - written[1] @ written[0] * result.scale).double().norm())
    return LayerLoss(result.name, component, norm, lost, result.rank)


def _flat_pair(change: Layer | Tensor) -> tuple[Tensor, Tensor] | None:
    return change.flat_pair() if isinstance(change, Layer) else None


def _is_same(exact: Layer, result: Layer) -> bool:
    """Whether two LoRAs have the same numbers."""
    if exact.kind != result.kind or exact.kind != LORA or exact.scale != result.scale:
        return False
    return all(torch.equal(tensor, result.factors[part]) for part, tensor in exact.factors.items())


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    hashes: bool = True,
    check: Callable[[Path], object] = lambda _: None,
) -> tuple[int, list[str]]:
    """Write a safetensors file atomically: it is read back and compared before it gets its name.

    Args:
        hashes: add `sshs_model_hash` and `sshs_legacy_hash`.
        check: also called with the complete temporary file; when it raises, `path` stays as it was.

    Returns:
        Bytes written, and a note for each piece of the metadata that does not fit into a header.

    Raises:
        StorageError: no space, or no permission.
        LoraSmithError: the file does not pass its check.
    """
    order = sorted(tensors, key=lambda name: (ORDER.index(FORMATS[tensors[name].dtype]), name.encode()))
    entries = {name: entry_of(tensors[name]) for name in order}
    kept, notes = fit_metadata(metadata, MAX_HEADER - len(header_bytes(entries, {})) - HASHES)
    notes = [f"{note}, because the header of a safetensors file may have {MAX_HEADER:,} bytes." for note in notes]
    if hashes:
        kept |= _hashes(tensors, order, entries, kept)
    start = header_bytes(entries, kept)
    size = len(start) + sum(count for _, _, count in entries.values())
    require_space(path.absolute().parent, size, printable(path))
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(start)
            for name in order:
                file.write(raw_bytes(tensors[name]))
        _check(temporary, tensors, kept)
        check(temporary)
    return size, notes


def entry_of(tensor: Tensor) -> Entry:
    """A tensor's entry in a header."""
    return FORMATS[tensor.dtype], tuple(tensor.shape), tensor.numel() * tensor.element_size()


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's bytes in a file."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _hashes(
    tensors: Mapping[str, Tensor], order: Sequence[str], entries: Mapping[str, Entry], metadata: Mapping[str, str]
) -> dict[str, str]:
    digest, head = hashlib.sha256(), b""
    for piece in _pieces(tensors, order):
        digest.update(piece)
        if len(head) < LEGACY.stop:
            head += piece[: LEGACY.stop - len(head)]
    legacy = legacy_hash(shared_header(entries, metadata), head)
    return {"sshs_model_hash": digest.hexdigest(), "sshs_legacy_hash": legacy}


def _pieces(tensors: Mapping[str, Tensor], order: Sequence[str]) -> Iterator[bytes]:
    for name in order:
        yield raw_bytes(tensors[name])


def _check(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Read the file back and check tensors to the byte, metadata, hash, and readers' tables."""
    header = read_header(path)
    if dict(header.metadata) != dict(metadata):
        raise _failure("its metadata were read back differently")
    payload = read_payload(path, header)
    if payload.broken:
        raise _failure(f"it holds NaN or infinity in {listing(payload.broken, 3)}")
    if payload.digest != metadata.get("sshs_model_hash", payload.digest):
        raise _failure("what was read back has another hash than what was written")
    written = read_tensors(path)
    wrong = [name for name in tensors if name not in written or not _same(written[name], tensors[name])]
    if wrong or written.keys() != tensors.keys():
        raise _failure(f"{len(wrong)} of its tensors were read back differently: {listing(sorted(wrong), 3)}")
    serious = [problem for problem in inspect_lora(path).problems if not _is_from_input(problem)]
    if serious:
        raise _failure(serious[0].rstrip("."))


def _is_from_input(problem: str) -> bool:
    """Whether a problem comes from the input: modules outside the tables, or wrong metadata."""
    return "readers leave them out" in problem or problem.startswith("The metadata name") or "have no alpha" in problem


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and first.shape == second.shape and raw_bytes(first) == raw_bytes(second)


def _failure(what: str) -> LoraSmithError:
    return LoraSmithError(
        f"The file just written did not pass its check and is not kept: {what}.",
        "Check the disk; if it happens again, please report it.",
        code="written-file-wrong",
    )
