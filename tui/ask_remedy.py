"""Out of memory in the foreground: which remedy shall the run go on with? Asked on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from engine.runs import RunDir, read_events
from tui import output


def ask_for_remedy(run_dir: RunDir) -> Mapping[str, object] | None:
    """The settings that the person chose to change; None without a terminal, without a choice, or where nobody asked.

    Raises:
        ConfigError: the run's configuration cannot be read.
    """
    from engine.config import load_config
    from engine.hardware import list_gpus
    from engine.memory.remedies import remedies

    config = run_dir.with_own_datasets(load_config(run_dir.config_path))
    oom = next((event for event in reversed(list(read_events(run_dir.events_path))) if event.type == "oom"), None)
    if config.memory.on_oom != "ask" or oom is None or not output.is_terminal(sys.stderr) or not sys.stdin.isatty():
        return None
    cards = list_gpus().visible()
    card = None if str(oom.get("device", "")).startswith("cpu") or not cards else cards[0]
    offered = [remedy for remedy in remedies(config, card, str(oom.get("phase", ""))) if remedy.changes]
    if not offered:
        return None
    for number, remedy in enumerate(offered, 1):
        output.narrate(f"{number}  {remedy.title}: saves {remedy.saves}; costs {remedy.costs}.")
    output.narrate(f"Go on with which one? A number from 1 to {len(offered)}; Enter ends here.")
    while (answer := sys.stdin.readline().strip()) and not (answer.isdecimal() and 1 <= int(answer) <= len(offered)):
        output.narrate(f"A number from 1 to {len(offered)}, or Enter.")
    return offered[int(answer) - 1].changes if answer else None
