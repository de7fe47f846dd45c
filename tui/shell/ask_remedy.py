"""Out of memory in the foreground: ask on the terminal which remedy the run continues with."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from engine.runs import RunDir, read_events
from engine.runs.events import OomEvent
from tui.shell import output


def ask_for_remedy(run_dir: RunDir) -> Mapping[str, object] | None:
    """The settings that the person chose to change; None without a terminal or a choice, or where
    `memory.on_oom` is not "ask".

    Raises:
        ConfigError: the run's configuration cannot be read.
        UsageError: it contradicts itself.
    """
    from engine.config import load_config
    from engine.families.resolved import resolve_without_model
    from engine.hardware import gpu_of, list_gpus
    from engine.oom.remedies import remedies

    config = run_dir.with_own_datasets(load_config(run_dir.config_path))
    events = read_events(run_dir.events_path)
    oom = next((event for event in reversed(events) if isinstance(event, OomEvent)), None)
    if config.memory.on_oom != "ask" or oom is None or not output.is_terminal(sys.stderr) or not sys.stdin.isatty():
        return None
    card = None if oom.device.startswith("cpu") else gpu_of(config.memory.device, list_gpus().visible())
    run = resolve_without_model(config)
    offered = [remedy for remedy in remedies(run, card, oom.phase) if remedy.changes]
    if not offered:
        return None
    for number, remedy in enumerate(offered, 1):
        output.message(f"{number}  {remedy.title}: saves {remedy.saves}; costs {remedy.costs}.")
    output.message(f"Continue with which one? A number from 1 to {len(offered)}; Enter stops here.")
    while (answer := sys.stdin.readline().strip()) and not (answer.isdecimal() and 1 <= int(answer) <= len(offered)):
        output.message(f"A number from 1 to {len(offered)}, or Enter.")
    return offered[int(answer) - 1].changes if answer else None
