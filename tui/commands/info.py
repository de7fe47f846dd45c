"""`lorasmith info`: versions, GPUs, and which precision follows."""

from __future__ import annotations

from dataclasses import asdict

import click

from engine.exit_codes import ExitCode
from tui import output


@click.command("info")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(as_json: bool) -> int:
    """Show what this machine has."""
    from engine.hardware import choose_precision, list_gpus, versions

    report = list_gpus()
    choice = choose_precision("auto", report.gpus[0] if report.gpus else None)
    if as_json:
        output.json_result({
            "versions": dict(versions()),
            "gpus": [asdict(gpu) for gpu in report.gpus],
            "precision": {"value": choice.value, "reason": choice.reason},
        })
        return ExitCode.DONE
    for name, version in versions().items():
        output.result(f"{name} {version or 'not found'}")
    for gpu in report.gpus:
        output.result(f"GPU {gpu.index}: {gpu.name}")
    output.result(f"Precision {choice.value}: {choice.reason}.")
    return ExitCode.DONE
