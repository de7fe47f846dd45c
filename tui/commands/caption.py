"""`lorasmith caption DIR`: captions by a model, a tagger, a server or a template, and undoing that."""

from __future__ import annotations

from typing import Any

import click

from engine.exit_codes import ExitCode
from engine.text import shell_line
from tui.shell import output

_SHORT = {"trigger": "trigger_word", "download": "allow_download"}
"""Options of the command to the captioner's names, where they differ."""


@click.command("caption", short_help="Make captions: by a model, tagger, server or template; undo them.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--with", "captioner", metavar="CAPTIONER", help="Which captioner; without DIR: list its options.")
@click.option("--model", metavar="MODEL", help="A folder, a hub id, or the model's name on the server.")
@click.option("--url", metavar="URL", help="endpoint: the server, such as http://localhost:1234/v1.")
@click.option("--prompt", metavar="TEXT", help="The prompt for the model.")
@click.option("--template", metavar="TEXT", help='template: the caption, such as "photo of {trigger}, {folder}".')
@click.option("--trigger", metavar="WORD", help="Put first in every new caption, once.")
@click.option(
    "--existing",
    type=click.Choice(["keep", "append", "prepend", "replace"]),
    help="What happens to captions that are there: kept (the default), added to, replaced.",
)
@click.option(
    "--set", "more", metavar="KEY=VALUE", multiple=True, help="Any other option of the captioner; repeatable."
)
@click.option("--download", is_flag=True, help="Fetch the model if it is not on this machine.")
@click.option("--dry-run", is_flag=True, help="Make the first three captions, show them and write nothing.")
@click.option("--undo", is_flag=True, help="Undo the last change of many captions; once more: the one before it.")
@click.option(
    "--json", "as_json", is_flag=True, help="The events, one JSON object per line; with --undo or --dry-run one."
)
def command(folder: str | None, captioner: str | None, **options: Any) -> int:
    """Make captions for the images in DIR, a folder of images, of N_name folders, or a project.

    \b
    lorasmith caption DIR --with florence2 --trigger ann
    lorasmith caption DIR --with wd14 --set general_threshold=0.4 --set "undesired_tags=blurry, signature"
    lorasmith caption DIR --with endpoint --url http://localhost:1234/v1 --existing append
    lorasmith caption DIR --with template --template "photo of {trigger}, {folder}" --trigger ann
    lorasmith caption DIR --undo

    CAPTIONER is blip, blip2, florence2, transformers, wd14, endpoint or template. Captioning continues if the
    terminal closes; Ctrl-C stops it and keeps what is done. DIR alone continues captioning that was interrupted, or
    follows captioning that is running.

    \b
    Environment variables:
    LORASMITH_API_KEY       the key for an endpoint; without it OPENAI_API_KEY, never unencrypted to another machine
    """
    from engine.captioning.captioner import kind_of
    from engine.dataset.folders import read_folder
    from engine.errors import UsageError
    from engine.paths import expanded
    from engine.runs.project import images_of
    from tui.shell import captioning
    from tui.text.captioners import about_captioners, about_options

    as_json, undo, dry_run = (options.pop(name) for name in ("as_json", "undo", "dry_run"))
    values = _values(options)
    if folder is None:
        if undo or dry_run or values:
            raise UsageError("No folder of images is named.", "lorasmith caption DIR …", code="no-folder-of-images")
        for line in about_options(kind_of(captioner)) if captioner else about_captioners():
            output.result(line)
        return ExitCode.DONE
    place = images_of(expanded(folder))
    read_folder(place, "")  # reports a mistyped folder, with any options
    if place != expanded(folder):
        output.message(f"The images are in {place}.")
    if undo:
        if captioner or values or dry_run:
            alone = shell_line(("lorasmith", "caption", folder, "--undo"))
            raise UsageError("--undo takes no other option but --json.", alone, code="options-not-together")
        return captioning.undo(place, as_json=as_json)
    if captioner is None:
        if values or dry_run:
            raise UsageError(
                "No captioner is named.",
                "Name one with --with; `lorasmith caption` lists them.",
                code="captioner-not-set",
            )
        return captioning.continue_job(place, as_json=as_json)
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
            raise UsageError(
                f"--set {entry}: there is no = in it.", "Write --set KEY=VALUE.", code="assignment-without-value"
            )
        values[name.strip()] = value.strip()
    named = {_SHORT.get(name, name): value for name, value in options.items() if value not in (None, False)}
    return {**values, **named}
