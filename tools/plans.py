"""Makes the plans of the shipped presets, which `lorasmith plan` shows at once: engine/assets/plans.json.

Takes some minutes. To be run when a preset changed, or what decides about memory, or a version in constraints.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.atomic import write_text
from engine.config import RunConfig, list_presets
from engine.memory import planner, shelf
from engine.memory.planner_process import PlannerProcess
from tui.configuration import read_partly


def lowest(family: str) -> RunConfig:
    """A run of a UNet family in the least memory, at the size that it was trained at and with one picture at once."""
    return RunConfig().changed(
        model={"family": family},
        dataset={"resolution": {"sd15": 512, "sdxl": 1024}[family]},
        network={"network_train_unet_only": True},
        training={"train_batch_size": 1},
        memory={
            "gradient_checkpointing": True,
            "cpu_offload_checkpointing": True,
            "split_mode": True,
            "cache_latents": True,
            "cache_text_encoder_outputs": True,
        },
    )


def runs() -> dict[str, RunConfig]:
    """What is planned beforehand: the shipped presets, and the lowest rungs of the ladder."""
    presets = {preset.name: read_partly(preset.name) for preset in list_presets() if preset.shipped}
    return {**presets, **{f"{family}, the lowest rungs": lowest(family) for family in ("sd15", "sdxl")}}


def main() -> None:
    """Plan everything anew, for a card with bf16."""
    entries = {}
    with PlannerProcess() as process:
        for name, config in runs().items():
            request = planner.request_for(config)
            if request is not None and (key := shelf.key_of(request)) not in entries:
                print(name, flush=True)
                entries[key] = planner.plan_from(request, process.ask(request)).stored()
    write_text(shelf.SHIPPED, json.dumps(entries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
