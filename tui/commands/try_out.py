"""`lorasmith try FILE…`: generate images with LoRA files at several strengths, next to the base, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from engine.config.values import Sampler
from engine.exit_codes import ExitCode
from engine.text import plural, printable
from engine.types import Log
from tui.shell import output

if TYPE_CHECKING:
    from engine.results.try_request import LoraFile, TryRequest

DIRECTORY = "lorasmith-try"
_FIELDS = {"seed": "seed", "steps": "steps", "scale": "scale", "width": "width", "height": "height",
           "sampler": "sampler", "negative": "negative_prompt"}  # fmt: skip
"""Options that replace a field of every request."""


@click.command("try", short_help="Generate images with LoRA files at several strengths.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--prompt",
    "prompts",
    metavar="TEXT",
    multiple=True,
    help="The prompt, in Kohya's syntax; repeatable. Without it: the run's prompts, or the trigger.",
)
@click.option("--strength", "strengths", metavar="LIST", help="Such as 0.6,0.8,1.0: one column each. Without it: 1.")
@click.option("--compare", is_flag=True, help="Several files: each by itself, instead of all together.")
@click.option("--model", metavar="PATH", help="The base. Without it: that of the file's run, or of its metadata.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="The same for every image of a prompt.")
@click.option("--steps", type=click.IntRange(1, 1000), help="Sampler steps.")
@click.option("--scale", type=click.FloatRange(0, 100), help="Classifier-free guidance; 1: none.")
@click.option("--width", type=click.IntRange(8, 8192), help="Pixels.")
@click.option("--height", type=click.IntRange(8, 8192), help="Pixels.")
@click.option("--sampler", type=click.Choice(get_args(Sampler)), metavar="NAME", help="Kohya's sampler names.")
@click.option("--negative", metavar="TEXT", help="The negative prompt.")
@click.option("-o", "--output", "directory", metavar="DIR", help=f"Where the images go. Without it: ./{DIRECTORY}.")
@click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N. Without it: as in the run.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    files: tuple[str, ...], prompts: tuple[str, ...], directory: str | None, as_json: bool, **options: Any
) -> int:
    """Generate images with the LoRA FILEs, and next to them with the base alone; one PNG has all images, labelled.

    \b
    lorasmith try robot.safetensors --strength 0.6,0.8,1.0
    lorasmith try robot-000002.safetensors robot-000004.safetensors --compare --prompt "a robot on a beach"
    lorasmith try robot.safetensors:0.8 watercolour.safetensors:0.5 --model FILE.safetensors --prompt "a robot"

    FILE:0.7 (or FILE=0.7) gives a file its own strength. Ctrl-C stops it; finished images stay.
    """
    from engine.paths import expanded
    from engine.results.try_request import read_file

    loras = [read_file(word) for word in files]
    notes: list[str] = []

    def log(text: str) -> None:
        notes.append(text)
        output.message(printable(text))

    request = _request(loras, list(prompts), expanded(directory or DIRECTORY), options, log)
    images = _generate(request, log)
    _write_grid(request, images, log)
    if as_json:
        output.json_result(_as_json(request, images, notes))
    else:
        for path in (*images.values(), request.grid_path):
            output.result(printable(path))
    return ExitCode.DONE


def _request(
    loras: list[LoraFile], prompts: list[str], directory: Path, options: dict[str, Any], log: Log
) -> TryRequest:
    from engine.config import load_config
    from engine.results.base_choice import choose_base
    from engine.results.try_request import STRENGTHS, TryRequest, columns_of, free_stem, prompts_of, read_strengths
    from tui.setup.recent import recent_models

    strengths = STRENGTHS if options["strengths"] is None else read_strengths(options["strengths"])
    columns = columns_of(loras, strengths, compare=options["compare"])
    files = tuple(lora.path for lora in loras)
    memory = {}
    if options["device"]:
        checked = load_config(options={"memory.device": ("--device", options["device"])})
        memory = {"device": checked.memory.device}
    base = choose_base(files, options["model"], recent_models(), memory)
    log(base.reason)
    changes = {field: options[name] for name, field in _FIELDS.items() if options[name] is not None}
    requests = prompts_of(base, files[0], prompts, changes, log)
    return TryRequest(base.config, files, columns, requests, directory, free_stem(directory, loras[0].label))


def _generate(request: TryRequest, log: Log) -> dict[tuple[int, int], Path]:
    """(prompt, column) to image."""
    from engine.results.trying import GeneratedImage, Note, Progress, TryProcess

    images: dict[tuple[int, int], Path] = {}
    progress = output.counter("generating")
    total = len(request.prompts) * len(request.columns)
    try:
        with TryProcess() as process:
            for event in process.generate(request):
                if isinstance(event, Note):
                    log(event.text)
                elif isinstance(event, GeneratedImage):
                    images[event.prompt, event.column] = event.path
                    progress(len(images), total)
                elif isinstance(event, Progress) and event.doing == "load":
                    output.message("Loading the model …")
    except KeyboardInterrupt:
        where = f", which are in {printable(request.directory)}" if images else ""
        output.message(f"Stopped after {len(images)} of {plural(total, 'image')}{where}.")
        raise
    return images


def _write_grid(request: TryRequest, images: dict[tuple[int, int], Path], log: Log) -> None:
    from engine.runs.grid import Grid, write_grid

    labels = [prompt.prompt or "(no prompt)" for prompt in request.prompts]
    grid = Grid(labels, [column.label for column in request.columns], images)
    write_grid(grid, request.grid_path)
    if grid.left_out:
        log(f"{request.grid_path.name}: {grid.left_out}")


def _as_json(request: TryRequest, images: dict[tuple[int, int], Path], notes: list[str]) -> dict[str, Any]:
    entries = [
        {
            "path": str(path.absolute()),
            "prompt": request.prompts[prompt].prompt,
            "seed": request.prompts[prompt].seed,
            "label": request.columns[column].label,
            "strengths": list(request.columns[column].strengths),
        }
        for (prompt, column), path in sorted(images.items())
    ]
    return {
        "grid": str(request.grid_path.absolute()),
        "model": request.config.model.pretrained_model_name_or_path,
        "files": [str(file.absolute()) for file in request.files],
        "images": entries,
        "notes": notes,
    }
