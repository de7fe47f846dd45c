"""`lorasmith caption DIR`: captions by a model, a tagger, a server or a template, and taking them back."""

from __future__ import annotations

from typing import Any

import click

from engine.exit_codes import ExitCode
from engine.text import shell_line
from tui import output

_SHORT = {"trigger": "trigger_word", "download": "allow_download"}
"""Options of the command that have another name there."""


@click.command("caption", short_help="Make captions: by a model, tagger, server or template; undo them.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--with", "captioner", metavar="CAPTIONER", help="Who makes them; without DIR: its options.")
@click.option("--model", metavar="MODEL", help="A folder, a hub id, or the model's name on the server.")
@click.option("--url", metavar="URL", help="endpoint: the server, as http://localhost:1234/v1.")
@click.option("--prompt", metavar="TEXT", help="What the model is asked.")
@click.option("--template", metavar="TEXT", help='template: the caption, as "photo of {trigger}, {folder}".')
@click.option("--trigger", metavar="WORD", help="Put first in every new caption, once.")
@click.option(
    "--existing",
    type=click.Choice(["keep", "append", "prepend", "replace"]),
    help="What becomes of captions that are there: kept (the default), added to, written anew.",
)
@click.option("--set", "more", metavar="KEY=VALUE", multiple=True, help="Any other option of it; repeatable.")
@click.option("--download", is_flag=True, help="Fetch the model if it is not on this machine.")
@click.option("--dry-run", is_flag=True, help="Make the first three captions, show them and write nothing.")
@click.option("--undo", is_flag=True, help="Take the last change of many captions back; again: the one before it.")
@click.option(
    "--json", "as_json", is_flag=True, help="The events, one JSON object a line; with --undo or --dry-run one."
)
def command(folder: str | None, captioner: str | None, **options: Any) -> int:
    """Make captions for the pictures in DIR, a folder of pictures, of N_name folders, or a project.

    \b
    lorasmith caption DIR --with florence2 --trigger ann
    lorasmith caption DIR --with wd14 --set general_threshold=0.4 --set "undesired_tags=blurry, signature"
    lorasmith caption DIR --with endpoint --url http://localhost:1234/v1 --existing append
    lorasmith caption DIR --with template --template "photo of {trigger}, {folder}" --trigger ann
    lorasmith caption DIR --undo

    CAPTIONER is blip, blip2, florence2, transformers, wd14, endpoint or template. Captioning goes on if the terminal
    closes; Ctrl-C stops it, and what is done stays. DIR alone goes on with what was cut, or follows what is going on.

    \b
    Environment variables:
    LORASMITH_API_KEY       the key for an endpoint; without it OPENAI_API_KEY, never unencrypted to another machine
    """
    from engine.captioning.captioner import kind_of
    from engine.dataset.folders import read_folder
    from engine.dataset.project import pictures_of
    from engine.errors import UsageError
    from engine.runs.layout import expanded
    from tui import captioning
    from tui.words.captioners import about_captioners, about_options

    as_json, undo, dry_run = (options.pop(name) for name in ("as_json", "undo", "dry_run"))
    values = _values(options)
    if folder is None:
        if undo or dry_run or values:
            raise UsageError("No folder of pictures is named.", "lorasmith caption DIR …")
        for line in about_options(kind_of(captioner)) if captioner else about_captioners():
            output.result(line)
        return ExitCode.DONE
    place = pictures_of(expanded(folder))
    read_folder(place, "")  # a folder that is mistyped is told, whatever is wanted of it
    if place != expanded(folder):
        output.narrate(f"The pictures are in {place}.")
    if undo:
        if captioner or values or dry_run:
            alone = shell_line(("lorasmith", "caption", folder, "--undo"))
            raise UsageError("--undo takes no other option but --json.", alone)
        return captioning.undo(place, as_json=as_json)
    if captioner is None:
        if values or dry_run:
            raise UsageError("No captioner is named.", "Say which with --with; `lorasmith caption` lists them.")
        return captioning.go_on(place, as_json=as_json)
    if dry_run:
        return captioning.try_out(place, captioner, values, as_json=as_json)
    return captioning.make(place, captioner, values, as_json=as_json)


def _values(options: dict[str, Any]) -> dict[str, Any]:
    """The captioner's options by their own names.

    Raises:
        UsageError: --set without "=".
    """
    from engine.errors import UsageError

    values: dict[str, Any] = {}
    for entry in options.pop("more"):
        name, sign, value = entry.partition("=")
        if not sign:
            raise UsageError(f"--set {entry}: there is no = in it.", "Write --set KEY=VALUE.")
        values[name.strip()] = value.strip()
    given = {_SHORT.get(name, name): value for name, value in options.items() if value not in (None, False)}
    return {**values, **given}
