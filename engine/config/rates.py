"""The learning rate of each group of parameters: of a part, of its blocks, of named layers, of LoRA+'s faster matrices.

The groups and their order are those of Kohya's scripts (facts: `prepare_optimizer_params` in the modules of sd-scripts'
`networks`), except that each text encoder has its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from engine.config.training import TrainingTable

_NAME = re.compile(r"(\S+?)(_block\d+)?( reg_lr_\d+)?( plus)?")


@dataclass(frozen=True)
class RateGroup:
    """One group of the optimizer."""

    component: str
    """"unet", "text_encoder", ...: whose learning rate it is a multiple of, unless it is `fixed`."""
    block: int | None = None
    """Of the block in Kohya's lists, where blocks have factors."""
    weight: float | None = None
    """The block's factor."""
    pattern: int | None = None
    """Of the entry of `network_reg_lrs` whose layers these are."""
    fixed: float | None = None
    """The rate of that entry."""
    ratio: float | None = None
    """LoRA+: the factor of the outer matrices, whose group it is."""

    @property
    def name(self) -> str:
        """In events and messages: "unet", "unet_block5 plus", "transformer reg_lr_0"."""
        return self._described(self.component)

    def description(self, *, numbered: bool) -> str:
        """Kohya's, as its scripts log it (without their double blanks): "unet_block5 plus", "textencoder 1 reg_lr_0".

        Args:
            numbered: whether text encoders have rates of their own, as in some of Kohya's scripts.
        """
        if not self.component.startswith("text_encoder"):
            return self._described("unet")
        number = self.component.removeprefix("text_encoder").strip("_") or "1"
        return self._described(f"textencoder {number}" if numbered else "textencoder")

    def _described(self, part: str) -> str:
        block = "" if self.block is None else f"_block{self.block}"
        pattern = "" if self.pattern is None else f" reg_lr_{self.pattern}"
        return f"{part}{block}{pattern}{'' if self.ratio is None else ' plus'}"

    def plus(self, ratio: float) -> RateGroup:
        """The group of the outer matrices of the same layers."""
        return RateGroup(self.component, self.block, self.weight, self.pattern, self.fixed, ratio)

    def rate(self, training: TrainingTable) -> float:
        """Its learning rate at the start of the schedule."""
        rate = training.rate_of(self.component) if self.fixed is None else self.fixed
        for factor in (self.weight, self.ratio):
            rate = rate if factor is None else rate * factor
        return rate

    @property
    def order(self) -> tuple[object, ...]:
        """Sort key among the groups of one part: named layers before the others, by their number as text, and the
        blocks in their order, each before its faster matrices."""
        named = (0, str(self.pattern)) if self.pattern is not None else (1, "")
        return (*named, -1 if self.block is None else self.block, self.ratio is not None)


def by_component(rates: Mapping[str, float]) -> dict[str, list[float]]:
    """The rates of the groups, by name, of each component."""
    parts: dict[str, list[float]] = {}
    for name, rate in rates.items():
        parts.setdefault(component_of(name), []).append(rate)
    return parts


def component_of(name: str) -> str:
    """The component in a group's name; of a name of another form the name itself."""
    match = _NAME.fullmatch(name)
    return name if match is None else match[1]
