"""Which images a run needs before its first step: only their latents are encoded. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config import RunConfig
from engine.dataset.arithmetic import StepPlan, make_items, plan_steps, validation_items
from engine.dataset.buckets import BucketGrid
from engine.dataset.captions import CaptionRules
from engine.dataset.images import Scan
from engine.dataset.items import Item
from engine.dataset.reach import MOST_COMPARED, Direction, both_directions, compares_samples, last_update, reached
from engine.families.resolved import ResolvedRun
from engine.runs.states import SavedState
from engine.training.probes import Probe, choose_probes, spread_over, training_images


def needed_latents(
    config: RunConfig, items: Sequence[Item], probes: Sequence[Probe], plan: StepPlan, state: SavedState | None
) -> list[Direction] | None:
    """The items that the rest of the run needs for training and measuring; None if that is all of them.

    Args:
        state: the saved state that the run continues from.
    """
    first = (state.step or 0) if state else 0
    directions = reached(items, config, plan, first, last_update(config, plan))
    if directions is None:
        return None
    # The probes' latents are kept in the same place: encode them in these batches.
    directions += [(probe.item, False) for probe in probes if not probe.is_validation]
    if compares_samples(config):
        directions += both_directions(spread_over(training_images(items), MOST_COMPARED), config)
    return directions


def items_to_encode(run: ResolvedRun, scanned: Scan) -> list[Item]:
    """The items whose latents a run needs from its beginning, before any image is rejected.

    Raises:
        LoraSmithError: the run has no plan with these images.
    """
    config, grid = run.config, BucketGrid.of_run(run)
    items, validation = make_items(scanned, grid), validation_items(scanned, grid)
    probes = choose_probes(CaptionRules.from_config(config), validation, items)
    chosen = [probe.item for probe in probes]
    if config.memory.cache_latents:
        directions = needed_latents(config, items, probes, plan_steps(scanned, grid, config), None)
        chosen += items if directions is None else [item for item, _ in directions]
    return chosen
