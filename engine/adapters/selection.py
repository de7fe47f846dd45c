"""Which layers of a model a run trains, with the size and the learning rate's group of each: of any kind of adapter.

The trainer, the estimate of the disk, the check of a file to start from and the map of the review decide by this one
function. Loads no torch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from engine.adapters.presets import CONVOLUTIONAL, PRESETS
from engine.config import RunConfig, block_values
from engine.config.layers import LayersTable
from engine.config.network import NetworkTable
from engine.config.patterns import compiled
from engine.config.rates import RateGroup
from engine.config.trained import why_untrained
from engine.errors import UsageError
from engine.families.base import Family
from engine.families.block_lists import read_block_lists
from engine.families.listing import listed_layers
from engine.families.spec import TEXT_PARTS
from engine.text import plural
from engine.types import LoraTarget

if TYPE_CHECKING:
    from engine.families.resolved import ResolvedRun


@dataclass(frozen=True)
class Choice:
    """A layer that gets an adapter."""

    target: LoraTarget
    group: RateGroup
    """Of its parameters, without LoRA+."""
    rank: int | None = None
    """Its own; None: `network_dim` or `conv_dim`."""
    alpha: float | None = None

    def table(self, network: NetworkTable) -> NetworkTable:
        """`[network]` with its rank and alpha: what decides the size of any kind of adapter."""
        return network.of_size(self.rank, self.alpha) if self.rank or self.alpha else network


@dataclass
class Selection:
    """The layers of a run."""

    choices: list[Choice] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Kohya's name of each layer that settings leave out, to the reason."""
    paths_left_out: dict[str, str] = field(default_factory=dict)
    """The same to its path in diffusers."""
    by_preset: bool = False
    """Whether a preset chose them."""

    @property
    def is_usual(self) -> bool:
        """Whether it has every layer that its module trains, each with the usual rank."""
        own = any(choice.rank or choice.alpha or choice.target.is_split for choice in self.choices)
        return not (self.left_out or self.by_preset or own)

    @cached_property
    def by_name(self) -> Mapping[str, Choice]:
        """The chosen layers by Kohya's name."""
        return {choice.target.kohya_name: choice for choice in self.choices}

    def notes(self) -> list[str]:
        """A sentence for each reason why layers are left out."""
        counts = Counter(self.left_out.values())
        return [f"No adapter in {plural(count, 'layer')}: {reason}." for reason, count in counts.items()]


class Selector:
    """Decides for each layer, by the settings of a run.

    Args:
        config: as it will run, after `resolve`.

    Raises:
        UsageError: a list by block has the wrong length.
    """

    def __init__(self, config: RunConfig, family: Family) -> None:
        self.config, self.family, self.network = config, family, config.network
        network = config.network
        self._blocks = read_block_lists(network, family.spec.block_lists)
        self._ranks = block_values.pairs(network.network_reg_dims, int) if network.network_reg_dims else {}
        self._rates = block_values.pairs(network.network_reg_lrs, float) if network.network_reg_lrs else {}
        self._from_file = network.dim_from_weights
        """Modules and ranks are those of a file, and the settings only decide rates."""

    @property
    def is_plain(self) -> bool:
        """Whether no setting chooses layers, or gives some of them a rank or a rate of their own."""
        plain, network = NetworkTable(), self.network
        changed = any(getattr(network, key) != getattr(plain, key) for key in LayersTable.model_fields)
        return not (changed or self.family.chooses_layers(self.config) or len(self.config.training.text_rates) > 1)

    @cached_property
    def wants_convolutions(self) -> bool:
        """Whether layers of convolution blocks are asked for."""
        network = self.network
        if network.layer_preset is not None and not self._from_file:
            return not CONVOLUTIONAL.isdisjoint(PRESETS[network.layer_preset].denoiser)
        by_block = self._blocks is not None and self._blocks.conv_ranks is not None
        return network.conv_rank is not None or self._from_file or by_block

    def select(self, targets: Sequence[LoraTarget]) -> Selection:
        """The choice among these layers, in their order."""
        selection = Selection(by_preset=self.network.preset is not None)
        for target in targets:
            chosen = self._choice(target)
            if isinstance(chosen, Choice):
                selection.choices.append(chosen)
            elif chosen:
                selection.left_out[target.kohya_name] = chosen
                selection.paths_left_out[target.kohya_name] = target.path
        return selection

    def asks_for(self, target: LoraTarget) -> bool:
        """Whether a preset, a rank or the file to start from may choose a layer outside the blocks."""
        return self._from_file or self._not_asked_for(target) is None

    def _choice(self, target: LoraTarget) -> Choice | str:
        """The layer with its size and group, or why it gets no adapter; "" where nothing asks for it."""
        rank, alpha = None, None
        if not self._from_file:
            if (reason := self._not_asked_for(target)) is not None:
                return reason
            if reason := self._excluded(target):
                return reason
            rank, alpha, source = self._size(target)
            if rank == 0:
                return f"their rank is 0 ({source})"
            if target.kind == "conv3x3" and rank is None and self.network.conv_rank is None:
                return ""
        group, reason = self._group(target)
        if group is None:
            return reason
        if len(target.paths) > 1 and self.family.splits_layers(self.config) and not self._from_file:
            target = replace(target, is_split=True)
        return Choice(target, group, rank, alpha)

    def _not_asked_for(self, target: LoraTarget) -> str | None:
        """Why the preset or the module does not choose a layer; None where it does."""
        name = self.network.layer_preset
        preset, outside = None if name is None else PRESETS[name], self.is_outside(target)
        if outside and self.family.layer_rank(self.config, target.kohya_name):
            return None
        parts = self.family.spec.parts if target.is_denoiser else TEXT_PARTS
        inside = [name for name, pattern in parts.items() if re.search(pattern, target.path)]
        if preset is None:
            convolutional = not CONVOLUTIONAL.isdisjoint(inside) and not self.wants_convolutions
            return "" if outside or convolutional else None
        if set(inside) & set(preset.denoiser if target.is_denoiser else preset.text):
            return None
        return "" if outside else f"the preset {name} does not select them"

    def is_outside(self, target: LoraTarget) -> bool:
        """Whether a layer is in none of the denoiser's blocks."""
        blocks = self.family.spec.blocks.get(target.component, ("",))
        return target.is_denoiser and not target.path.startswith(blocks)

    def _excluded(self, target: LoraTarget) -> str:
        """Why patterns or the family's own settings leave a layer out; "" where they do not."""
        name = target.kohya_name
        if target.is_denoiser and self.family.excludes_layer(self.config, name):
            return "they are in blocks that are not trained"
        included = any(compiled(pattern).is_in(name) for pattern in self.network.include_patterns)
        if not self.network.exclude_patterns:
            return "" if included or not self.network.include_patterns else "no entry of include_patterns matches them"
        excluded = any(compiled(pattern).is_in(name) for pattern in self.network.exclude_patterns)
        return "an entry of exclude_patterns matches them" if excluded and not included else ""

    def _size(self, target: LoraTarget) -> tuple[int | None, float | None, str]:
        """(rank, alpha, the setting that gives the rank) of a layer; None: as in the others."""
        name = target.kohya_name
        for pattern, own_rank in self._ranks.items():
            if compiled(pattern).is_in(name):
                return own_rank, None, "network_reg_dims"
        if not target.is_denoiser:
            return None, None, ""
        own = self.family.layer_rank(self.config, name)
        if own is not None:
            return own, None, f"[{self.family.name}]"
        table = self._blocks
        block = None if table is None else table.lists.index(name)
        if table is None or block is None:
            return None, None, ""
        wide = target.kind == "conv3x3"
        ranks, alphas = (table.conv_ranks, table.conv_alphas) if wide else (table.ranks, table.alphas)
        key = "conv_block_dims" if wide else "block_dims"
        rank = None if ranks is None else ranks[block]
        alpha = None if alphas is None else alphas[block] or rank or self._usual_rank(wide=wide)
        return rank, alpha, key

    def _usual_rank(self, *, wide: bool) -> int | None:
        return self.network.conv_rank if wide else self.network.network_dim

    def _group(self, target: LoraTarget) -> tuple[RateGroup | None, str]:
        """The group of a layer's learning rate, or why it has none."""
        for number, (pattern, rate) in enumerate(self._rates.items()):
            if compiled(pattern).is_in(target.kohya_name):
                if rate == 0:
                    return None, "their learning rate is 0 (network_reg_lrs)"
                return RateGroup(target.component, pattern=number, fixed=rate), ""
        weight, block = self._weight(target)
        if weight == 0:
            return None, "the factor on the learning rate of their blocks is 0"
        return RateGroup(target.component, block=block, weight=weight), ""

    def _weight(self, target: LoraTarget) -> tuple[float | None, int | None]:
        table = self._blocks
        if table is None or table.weights is None or not target.is_denoiser:
            return None, None
        block = table.lists.index(target.kohya_name)
        return (1.0, None) if block is None else (table.weights[block], block)


def select_of_run(run: ResolvedRun) -> Selection:
    """The choice of a run's layers before the model is loaded.

    Raises:
        UsageError: a pattern that no layer has, or nothing is left to be trained.
        ModelError: the checkpoint cannot be read.
    """
    selector, config = Selector(run.config, run.family), run.config
    targets = [layer.target for layer in listed_layers(run.family, run.recognition)]
    _require_matches(config.network, [target.kohya_name for target in targets])
    trained = [
        target
        for target in targets
        if why_untrained(config, denoiser=target.is_denoiser, component=target.component) is None
    ]
    selection = selector.select(trained)
    if not selector.is_plain:
        require_layers(selection)
    return selection


def _require_matches(network: NetworkTable, names: Sequence[str]) -> None:
    """Refuse a pattern that matches none of the model's layers."""
    by_name = {key: getattr(network, key) for key in ("network_reg_dims", "network_reg_lrs")}
    lists = {
        **{key: getattr(network, key) for key in ("include_patterns", "exclude_patterns")},
        **{key: [*block_values.pairs(text, float)] for key, text in by_name.items() if text},
    }
    for key, patterns in lists.items():
        for pattern in () if network.dim_from_weights and key != "network_reg_lrs" else patterns:
            if not any(compiled(pattern).is_in(name) for name in names):
                raise UsageError(
                    f"network.{key}: no layer of this model has a name in which {pattern!r} is found.",
                    f"The names are Kohya's, as {names[0]}: `lorasmith inspect` of a LoRA for this kind of model shows "
                    "some of them.",
                    code="pattern-without-layers",
                )


def require_layers(selection: Selection) -> None:
    """Refuse settings that leave nothing to be trained.

    Raises:
        UsageError: no layer is left.
    """
    if not selection.choices:
        raise UsageError(
            f"Nothing would be trained. {' '.join(selection.notes())}".strip(),
            "Change the settings that choose layers: preset, include_patterns, exclude_patterns, ranks and factors by "
            "block.",
            code="nothing-trained",
        )
