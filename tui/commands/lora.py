"""`lorasmith lora`: resize, merge, extract, convert and edit finished LoRA files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.errors import UsageError
from engine.exit_codes import ExitCode
from engine.paths import expanded
from engine.text import plural, printable
from tui.shell import output
from tui.texts import _

if TYPE_CHECKING:
    from engine.adapters.tools.report import Loss, ToolReport
    from engine.adapters.tools.requests import Request

F = TypeVar("F", bound=Callable[..., Any])
_MOST_CHARACTERS = 200
"""Characters of a value of the metadata that are shown."""


def _output_options(command: F) -> F:
    """The options that every tool has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help=_("One JSON object.")),
        click.option("--overwrite", is_flag=True, help=_("Replace the file that -o names.")),
        click.option("--dry-run", is_flag=True, help=_("Compute and report, write nothing.")),
        click.option("-o", "--output", "out", metavar="FILE", help=_("The new file.")),
    ):
        command = option(command)
    return command


_precision = click.option(
    "--precision", type=click.Choice(["float", "fp16", "bf16"]), help=_("Number format of the new file.")
)


@click.group("lora", short_help=_("Resize, merge, extract, convert, edit LoRA files."))
def command() -> None:
    """Tools for finished LoRA files. Each reports what is lost, as a share of the Frobenius norm of each layer's
    change, and checks what it has written. docs/lora-tools.md has the formulas."""


@command.command("resize")
@click.argument("file")
@click.option("--rank", type=int, metavar="N", help=_("The rank; with the next three its upper bound."))
@click.option("--ratio", type=float, metavar="X", help=_("Keep singular values above the largest / X."))
@click.option("--fro", type=float, metavar="SHARE", help=_("Keep this share of the Frobenius norm."))
@click.option("--cumulative", type=float, metavar="SHARE", help=_("Keep this share of the sum of singular values."))
@click.option("--conv-rank", type=int, metavar="N", help=_("As --rank, for convolutions wider than 1×1."))
@click.option("--base", metavar="CHECKPOINT", help=_("The model, for kinds that change its weights by themselves."))
@_precision
@_output_options
def resize(as_json: bool, **options: Any) -> int:
    """Give the layers of FILE other ranks by SVD, at the same strength; a LoHa, LoKr or full difference becomes a
    LoRA, and with --base an OFT, BOFT, GLoRA, (IA)³ or DoRA too."""
    from engine.adapters.tools.requests import ResizeRequest

    return _run(ResizeRequest(**options), as_json)


@command.command("merge")
@click.argument("files", nargs=-1, required=True, metavar="FILE[=WEIGHT]...")
@click.option(
    "--method",
    type=click.Choice(["concat", "svd", "ties", "dare"]),
    help=_("concat is exact (the default); svd where --rank is given."),
)
@click.option("--rank", type=int, metavar="N", help=_("The rank of the result, by SVD."))
@click.option("--density", type=float, default=0.5, show_default=True, help=_("ties, dare: the share that is kept."))
@click.option("--seed", type=int, default=0, show_default=True, help=_("dare: seed of the dropped values."))
@click.option("--into", metavar="CHECKPOINT", help=_("Add them to this checkpoint: a file or a diffusers folder."))
@_precision
@_output_options
def merge(files: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Merge LoRA files as the weighted sum of their changes; WEIGHT is 1 where none is given."""
    from engine.adapters.tools.requests import MergeRequest

    return _run(MergeRequest(files=[weighted(file) for file in files], **options), as_json)


@command.command("extract")
@click.argument("tuned")
@click.argument("base")
@click.option("--rank", type=int, required=True, metavar="N", help=_("The rank of linear layers and 1×1 convolutions."))
@click.option("--conv-rank", type=int, metavar="N", help=_("Also take wider convolutions, with this rank."))
@click.option("--clamp", type=float, default=1.0, show_default=True, metavar="Q",
              help=_("Cut the factors at this quantile of their values; 1: not at all."))  # fmt: skip
@click.option("--min-diff", type=float, default=0.0, show_default=True, metavar="D",
              help=_("Leave out a text encoder in which no weight differs by more."))  # fmt: skip
@_precision
@_output_options
def extract(as_json: bool, **options: Any) -> int:
    """Write the difference of the checkpoints TUNED and BASE as a LoRA."""
    from engine.adapters.tools.requests import ExtractRequest

    return _run(ExtractRequest(**options), as_json)


@command.command("convert")
@click.argument("file")
@click.option(
    "--to", type=click.Choice(["kohya", "diffusers", "comfy", "peft"]), required=True, help=_("The naming scheme.")
)
@_output_options
def convert(as_json: bool, **options: Any) -> int:
    """Write FILE in the names of Kohya, diffusers, ComfyUI or peft (a folder); its numbers stay as they are."""
    from engine.adapters.tools.requests import ConvertRequest

    return _run(ConvertRequest(**options), as_json)


@command.command("edit")
@click.argument("file")
@click.option("--set", "values", multiple=True, metavar="KEY=VALUE", help=_("Set a key of the metadata; repeatable."))
@click.option("--unset", multiple=True, metavar="KEY", help=_("Remove a key; repeatable."))
@click.option("--trigger", metavar="WORDS", help=_("The trigger words (modelspec.trigger_phrase)."))
@click.option("--thumbnail", metavar="IMAGE", help=_("A small image, shown by file browsers."))
@click.option("--strength", type=float, metavar="X", help=_("The recommended strength."))
@click.option("--in-place", is_flag=True, help=_("Replace FILE itself, in one step."))
@_output_options
def edit(file: str, values: tuple[str, ...], as_json: bool, **options: Any) -> int:
    """Change the metadata of FILE; its tensors stay the same to the byte."""
    from engine.adapters.tools.edit import EditRequest
    from engine.adapters.tools.edit import edit as run_edit

    report, changes = run_edit(EditRequest(file=file, values=dict(map(_pair, values)), **options))
    if as_json:
        changed = {key: {"old": old, "new": new} for key, (old, new) in changes.items()}
        output.json_result({"inputs": report.inputs, "output": report.output, "size": report.size, "changes": changed,
                            "notes": report.notes})  # fmt: skip
        return ExitCode.DONE
    for key, (old, new) in changes.items():
        output.result(f"{printable(key)}: {_short(old)} → {_short(new)}")
    _end(report)
    return ExitCode.DONE


def weighted(text: str) -> tuple[str, float]:
    """ "a.safetensors=0.8" as the file and its weight; 1 where there is none. A file whose own
    name ends like that is taken as it is.

    Raises:
        UsageError: what follows "=" is no number, and no file has the complete name.
    """
    name, sign, end = text.rpartition("=")
    if not sign or expanded(text).exists():
        return text, 1.0
    try:
        weight = float(end)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise UsageError(
            f"{printable(text)}: {printable(end)!r} is not a weight.", "Write FILE=0.8.", code="weight-not-a-number"
        )
    return name, weight


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign:
        raise UsageError(
            f"--set {printable(text)} has no value.", "Write --set KEY=VALUE.", code="assignment-without-value"
        )
    return key, value


def _short(value: str | None) -> str:
    if value is None:
        return _("(not set)")
    text = printable(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}… ({len(text)})"


def _run(request: Request, as_json: bool) -> int:
    from engine.adapters.tools.process import run_tool

    report = run_tool(request, output.counters())
    if as_json:
        output.json_result(report.as_json())
        return ExitCode.DONE
    for line in lines(report):
        output.result(line)
    _end(report)
    return ExitCode.DONE


def lines(report: ToolReport) -> Iterator[str]:
    """What a tool did and what was lost, in words."""
    if report.base:
        yield _("model: {base}").format(base=report.base)
    if report.ranks:
        yield _("rank: ") + ", ".join(f"{rank} ({count})" for rank, count in report.ranks.items())
    loss = report.loss
    if loss is None:
        return
    yield _("lost, as a share of the norm of each layer's change (Frobenius):")
    for name, part in report.components.items():
        yield from _loss(name, part)
    if len(report.components) > 1:
        yield from _loss(_("all"), loss)


def _loss(name: str, loss: Loss) -> Iterator[str]:
    yield _("  {name}: {count}, in all {total}, mean {mean}, worst {worst}").format(
        name=name,
        count=plural(loss.layers, "layer"),
        total=share(loss.total),
        mean=share(loss.mean),
        worst=share(loss.worst),
    )
    if loss.worst:
        yield _("    worst: {layer}").format(layer=printable(loss.worst_layer))


def share(value: float) -> str:
    """ "12.3 %", "0.0049 %", "none"."""
    if not value:
        return _("none")
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2g} %" if value >= 1e-7 else "< 0.00001 %"


def _end(report: ToolReport) -> None:
    for note in report.notes:
        output.message(_("note: {note}").format(note=printable(note)))
    if report.output is None:
        output.message(_("Dry run: nothing is written."))
    else:
        output.message(_("Written and checked: {size}.").format(size=f"{report.size / 2**20:.1f} MiB"))
        output.result(report.output)
