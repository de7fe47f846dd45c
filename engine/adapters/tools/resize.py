"""`lorasmith lora resize`: other ranks for a LoRA, by singular values (sd-scripts `resize_lora.py`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from engine.adapters.bases import UNKNOWN
from engine.adapters.kinds.registry import kinds
from engine.adapters.tools.based import based
from engine.adapters.tools.checkpoint import opened, read_checkpoint
from engine.adapters.tools.layers import LORA, Layer
from engine.adapters.tools.lora_file import WITH_BASE, LoraFile, read_lora
from engine.adapters.tools.lowrank import Spectrum, spectrum_of
from engine.adapters.tools.new_metadata import comment, inherited, network_sizes
from engine.adapters.tools.places import place_for
from engine.adapters.tools.report import ToolReport
from engine.adapters.tools.requests import ResizeRequest
from engine.adapters.tools.spectra import Choice
from engine.adapters.tools.writing import DTYPES, Store, tensors_of, write_tensors
from engine.errors import ModelError, UsageError
from engine.paths import expanded
from engine.text import listing, printable
from engine.worker import OnProgress


def resize(request: ResizeRequest, progress: OnProgress) -> ToolReport:
    """Give each layer a new rank, and write the result in Kohya's names.

    The strength is kept: alpha' = k · alpha / rank. LoHa, LoKr and full differences become LoRAs, with `base` every
    other kind too: the best LoRA for that base.

    Raises:
        UsageError: there is no rule, or two.
        ModelError: the file cannot be resized.
    """
    rule, wide = choices(request)
    source = read_lora(expanded(request.file), any_kind=request.base is not None, hint=WITH_BASE)
    place = None if request.dry_run else place_for(request.out, [source.path], overwrite=request.overwrite)
    store = Store(DTYPES[request.precision] if request.precision else source.dtype, source.base)
    report = ToolReport("resize", [printable(source.path)], None, source.base, source.naming)
    with _weights(source, request, report) as weights:
        for number, layer in enumerate(weights.values()):
            progress("resizing", number, len(weights))
            choice = wide if layer.spatial else rule
            most = choice.most if choice.method == "none" else None
            store.add(resized_layer(layer, spectrum_of(layer, most), choice), layer)
        report.notes += [*source.notes, *_kinds(weights.values()), *store.notes]
        before = sorted({layer.rank for layer in weights.values()})
    report.layers = store.losses
    if place is not None:
        layers = store.layers
        metadata = _metadata(source, request, before, layers)
        report.size, more = write_tensors(place, {**tensors_of(layers), **source.rest}, metadata)
        report.notes += more
        report.output = printable(place)
    return report


def choices(request: ResizeRequest) -> tuple[Choice, Choice]:
    """How ranks are chosen: for most layers, and for convolutions wider than 1×1.

    Raises:
        UsageError: there is no rule, two, or a value is invalid.
    """
    options = {"sv_ratio": request.ratio, "sv_fro": request.fro, "sv_cumulative": request.cumulative}
    methods = [(method, value) for method, value in options.items() if value is not None]
    if len(methods) > 1:
        raise UsageError(
            "--ratio, --fro and --cumulative do not go together.", "Give one of them.", code="rank-rules-together"
        )
    if not methods and request.rank is None:
        raise UsageError(
            "Which rank?", "Give --rank N, or one of --ratio X, --fro SHARE and --cumulative SHARE.", code="no-rank"
        )
    for name, number in (("--rank", request.rank), ("--conv-rank", request.conv_rank)):
        if number is not None and number < 1:
            raise UsageError(f"{name} {number} is below 1.", "Give a whole number from 1 on.", code="rank-too-small")
    if request.ratio is not None and not request.ratio >= 1:
        raise UsageError(f"--ratio {request.ratio:g} is below 1.", "Usual values are 20 to 40.", code="ratio-too-small")
    for name, share in (("--fro", request.fro), ("--cumulative", request.cumulative)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(
                f"{name} {share:g} is not a share: it must be above 0 and at most 1.",
                "Usual: 0.9.",
                code="share-out-of-range",
            )
    method, value = methods[0] if methods else ("none", 0.0)
    conv = request.rank if request.conv_rank is None else request.conv_rank
    return Choice(method, value, request.rank), Choice(method, value, conv)  # type: ignore[arg-type]


def resized_layer(layer: Layer, spectrum: Spectrum, choice: Choice) -> Layer:
    """The best approximation of a layer's change at the rank of `choice`."""
    rank = choice.rank(spectrum.s)
    down, up = spectrum.factors(rank)
    out, inputs, *kernel = layer.shape
    linear = len(layer.shape) == 2
    factors = {
        "down": down if linear else down.reshape(rank, inputs, *kernel),
        "up": up if linear else up.reshape(out, rank, *(1 for _ in kernel)),
    }
    return Layer(layer.name, LORA, factors, rank * spectrum.scale, layer.style)


@contextmanager
def _weights(source: LoraFile, request: ResizeRequest, report: ToolReport) -> Iterator[Mapping[str, Layer]]:
    """The layers of the file whose weights change, inside the context with the base's weights; the report gets what a
    LoRA cannot hold.

    Raises:
        ModelError: the base is another kind of model, or no layer of the file is in it.
    """
    if request.base is None:
        yield source.layers
        return
    checkpoint = read_checkpoint(request.base)
    if source.base not in (UNKNOWN, checkpoint.base):
        raise ModelError(
            f"{source.title} is made for {source.base}, and {printable(request.base)} is {checkpoint.base}.",
            "Name the model that it was trained on with --base.",
            code="lora-for-other-model",
        )
    report.inputs.append(printable(checkpoint.recognition.path))
    with opened(checkpoint) as handles:
        file = based(source, checkpoint, handles)
        if not file.weights:
            raise ModelError(
                f"No weight that {source.title} changes is in {printable(request.base)}.",
                "Name the model that it was trained on with --base.",
                code="lora-without-modules",
            )
        lost = [*file.vectors, *file.missing]
        report.left_out = [printable(name) for name in lost]
        if file.vectors:
            report.notes.append(f"{len(file.vectors)} changes of norm layers and biases are left out: no LoRA can hold "
                                f"them; lorasmith lora merge --into adds them to a checkpoint.")  # fmt: skip
        if file.missing:
            report.notes.append(f"{len(file.missing)} layers are not in the base and are left out: "
                                f"{listing([printable(name) for name in file.missing], 3)}.")  # fmt: skip
        yield file.weights


def _kinds(layers: Iterable[Layer]) -> list[str]:
    counts = Counter(layer.kind for layer in layers if layer.pair() is None)
    return [
        f"{count} modules of the kind {kind} became LoRA: what a LoRA of that rank cannot hold is lost."
        for kind in (kind.name for kind in (*kinds().all, *kinds().decomposed.values()))
        if (count := counts[kind])
    ]


def _metadata(source: LoraFile, request: ResizeRequest, before: list[int], layers: list[Layer]) -> Mapping[str, str]:
    old = str(before[0]) if len(before) == 1 else f"{before[0]}-{before[-1]}"
    dynamic = {"sv_ratio": request.ratio, "sv_fro": request.fro, "sv_cumulative": request.cumulative}
    method = next(((name, value) for name, value in dynamic.items() if value is not None), None)
    if method is None:
        text = f"dimension is resized from {old} to {request.rank}"
        numbers = network_sizes([layer.rank for layer in layers], [layer.alpha or 0.0 for layer in layers])
    else:
        text = f"Dynamic resize with {method[0]}: {method[1]:g} from {old}"
        numbers = {"ss_network_dim": "Dynamic", "ss_network_alpha": "Dynamic"}
    return {**inherited(source.metadata), **numbers, **comment(source.metadata, text)}
