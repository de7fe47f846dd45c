"""The report of a tool, with each layer's loss as a share of the Frobenius norm. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class LayerLoss:
    """A layer before and after."""

    name: str
    component: str
    norm: float
    """‖ΔW‖ (Frobenius) of the exact change."""
    lost: float
    """‖ΔW − ΔW'‖, where ΔW' is the result's change, rounding included."""
    rank: int | None = None
    """The result's rank."""

    @property
    def share(self) -> float:
        """‖ΔW − ΔW'‖ / ‖ΔW‖; 0 for a layer of zeros."""
        return self.lost / self.norm if self.norm else (0.0 if not self.lost else math.inf)

    @property
    def kept(self) -> float:
        """√(1 − share²): for a cut of singular values, what sd-scripts calls the Frobenius norm retained."""
        return math.sqrt(max(0.0, 1 - self.share**2))


@dataclass(frozen=True)
class Loss:
    """Several layers together."""

    layers: int
    worst: float
    """The largest share that a layer lost."""
    worst_layer: str
    mean: float
    total: float
    """√(Σ lost²) / √(Σ norm²)."""

    @classmethod
    def of(cls, layers: Iterable[LayerLoss]) -> Loss | None:
        """None for no layers."""
        items = list(layers)
        if not items:
            return None
        worst = max(items, key=lambda layer: layer.share)
        norm = math.sqrt(sum(layer.norm**2 for layer in items))
        lost = math.sqrt(sum(layer.lost**2 for layer in items))
        mean = sum(layer.share for layer in items) / len(items)
        return cls(len(items), worst.share, worst.name, mean, lost / norm if norm else 0.0)


@dataclass
class ToolReport:
    """What `--json` prints."""

    verb: str
    inputs: list[str]
    output: str | None
    """None: nothing was written."""
    base: str = ""
    """"SD 1.5", "SDXL", "FLUX", …"""
    naming: str = ""
    size: int = 0
    """Bytes written."""
    layers: list[LayerLoss] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """Layers of the input that the result lacks."""
    unmapped: list[str] = field(default_factory=list)
    """Modules that have no name in the other naming."""
    notes: list[str] = field(default_factory=list)

    @property
    def loss(self) -> Loss | None:
        """The loss over all layers."""
        return Loss.of(self.layers)

    @property
    def components(self) -> dict[str, Loss]:
        """The loss by component."""
        names = dict.fromkeys(layer.component for layer in self.layers)
        losses = {name: Loss.of(layer for layer in self.layers if layer.component == name) for name in names}
        return {name: loss for name, loss in losses.items() if loss is not None}

    @property
    def ranks(self) -> dict[str, int]:
        """Rank to number of layers."""
        counts: dict[str, int] = {}
        for layer in sorted(self.layers, key=lambda layer: layer.rank or 0):
            if layer.rank is not None:
                counts[str(layer.rank)] = counts.get(str(layer.rank), 0) + 1
        return counts

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, with the sums."""
        loss = self.loss
        return {
            **asdict(self),
            "layers": [{**asdict(layer), "share": layer.share, "kept": layer.kept} for layer in self.layers],
            "loss": asdict(loss) if loss else None,
            "components": {name: asdict(part) for name, part in self.components.items()},
            "ranks": self.ranks,
        }

    @classmethod
    def restored(cls, value: Mapping[str, Any]) -> ToolReport:
        """From `as_json`."""
        own = {key: value[key] for key in cls.__dataclass_fields__}
        names = LayerLoss.__dataclass_fields__
        own["layers"] = [LayerLoss(**{key: layer[key] for key in names}) for layer in value["layers"]]
        return cls(**own)
