"""Computes the plans of the shipped presets, which `lorasmith plan` shows at once: engine/assets/plans.json.

Takes some minutes. Run it after a change of a preset, of code that affects memory, or of a version in constraints.txt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.atomic import write_text
from engine.config import RunConfig, list_presets
from engine.estimate import plan_cache as cache
from engine.estimate import planner
from engine.estimate.process import PlannerProcess
from engine.families.resolved import resolve_run
from tui.setup.configuration import read_partly


def lowest(family: str) -> RunConfig:
    """A run of a U-Net family in the least memory, at its native size and with batch size 1."""
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
    """The runs that are planned in advance: the shipped presets, and the lowest rungs of the ladder."""
    presets = {preset.name: read_partly(preset.name) for preset in list_presets() if preset.shipped}
    return {**presets, **{f"{family}, the lowest rungs": lowest(family) for family in ("sd15", "sdxl")}}


def main() -> None:
    """Plan everything, for a card with bf16."""
    entries = {}
    with PlannerProcess() as process:
        for name, config in runs().items():
            request = planner.request_for(resolve_run(config))
            if request is not None and (key := cache.key_of(request)) not in entries:
                print(name, flush=True)
                entries[key] = planner.plan_from(request, process.ask(request)).stored()
    write_text(cache.SHIPPED, json.dumps(entries, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
