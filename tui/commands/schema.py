"""`lorasmith schema`: the JSON Schema of a configuration, for editors."""

from __future__ import annotations

import click

from engine.config import schema_json
from engine.exit_codes import ExitCode
from tui.shell import output


@click.command("schema")
def command() -> int:
    """Print the JSON Schema of presets and configurations."""
    output.result(schema_json().rstrip("\n"))
    return ExitCode.DONE
