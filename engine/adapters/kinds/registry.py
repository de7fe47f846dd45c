"""All kinds of adapter, and the recognition of a module's kind. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from engine.adapters.kinds.base import AdapterKind, RoleShapes
from engine.adapters.kinds.dora import ENDS as DORA_ENDS
from engine.adapters.kinds.dora import MAGNITUDE, Decomposed, TrainedDecomposed
from engine.adapters.kinds.full import Full, ReplacementWeight
from engine.adapters.kinds.glora import Glora
from engine.adapters.kinds.ia3 import Ia3, Ia3OfPeft
from engine.adapters.kinds.loha import Loha
from engine.adapters.kinds.lokr import Lokr
from engine.adapters.kinds.lora import Lora, Tucker
from engine.adapters.kinds.norm import Norm
from engine.adapters.kinds.oft import Boft, Oft, OftOfPeft
from engine.adapters.kinds.tlora import Tlora
from engine.adapters.kinds.trainable import TrainableKind
from engine.config.network import NetworkTable
from engine.plugins import load_plugins

PLUGINS = "lorasmith.adapters"
"""The entry points of installed packages that provide a kind: each names a subclass of `AdapterKind`."""
_OWN = (
    *(Lora, Tucker, Loha, Lokr, Full, Ia3, Glora, Tlora),
    *(Oft, Boft, OftOfPeft, Ia3OfPeft, Norm, ReplacementWeight),
)
_COMMON_ENDS = {end: end for end in ("alpha", "scale", "scalar", "reshape_weight")}
"""Ends of keys that several kinds have."""


@dataclass(frozen=True)
class Kinds:
    """The kinds, with tables derived from all of them."""

    all: tuple[AdapterKind, ...]
    """In the order of messages."""
    ends: Mapping[str, tuple[str, AdapterKind | None]] = field(init=False)
    """End of a key to the tensor's role and kind; None: of several kinds."""
    paired_ends: Mapping[str, tuple[str, str]] = field(init=False)
    """`AdapterKind.paired_ends` of all."""
    styles: tuple[tuple[str, str], ...] = field(init=False)
    """`AdapterKind.styles` of all."""
    decomposed: Mapping[str, Decomposed] = field(init=False)
    """Each kind's name to that kind with DoRA."""

    def __post_init__(self) -> None:
        common = {end: (part, None) for end, part in {**_COMMON_ENDS, **DORA_ENDS}.items()}
        own = {end: (part, kind) for kind in self.all for end, part in kind.ends.items()}
        object.__setattr__(self, "ends", {**common, **own})
        paired = {end: pair for kind in self.all for end, pair in kind.paired_ends.items()}
        object.__setattr__(self, "paired_ends", paired)
        object.__setattr__(self, "styles", tuple(style for kind in self.all for style in kind.styles))
        object.__setattr__(self, "decomposed", {kind.name: _decomposed(kind) for kind in self.all})

    def recognise(self, parts: RoleShapes) -> AdapterKind | None:
        """The kind of a module with these tensors; None where they are no adapter."""
        ordered = sorted(self.all, key=lambda kind: kind.is_secondary)
        match = next((kind for kind in ordered if kind.recognises(parts)), None)
        return self.decomposed[match.name] if match is not None and MAGNITUDE in parts else match

    def named(self, name: str) -> AdapterKind:
        """The kind with that `AdapterKind.name`."""
        return next(kind for kind in (*self.all, *self.decomposed.values()) if kind.name == name)


@cache
def kinds() -> Kinds:
    """Every kind: ours, then those of installed packages.

    Raises:
        UsageError: an installed package provides one that cannot be loaded.
    """
    return Kinds((*(own() for own in _OWN), *load_plugins(PLUGINS, AdapterKind, "adapter kind")))


def _decomposed(kind: AdapterKind) -> Decomposed:
    if isinstance(kind, TrainableKind) and kind.can_be_decomposed:
        return TrainedDecomposed(kind)
    return Decomposed(kind)


def kind_named(name: str) -> AdapterKind:
    """The kind with this name."""
    return kinds().named(name)


def exact_ends() -> tuple[str, ...]:
    """Ends of the keys of tensors that a file has in float32 whatever its number format is. (Norms of weights: in bf16
    their rounding would be as large as what a DoRA learns.)"""
    return tuple(f".{end}" for end in DORA_ENDS)


def companion() -> TrainableKind:
    """The kind of norm layers, which are trained beside another kind."""
    return next(kind for kind in kinds().all if isinstance(kind, TrainableKind) and kind.is_companion)


def trained_kind(network: NetworkTable) -> TrainableKind:
    """The kind that a run with these settings trains; kinds of installed packages come before ours."""
    trainable = [kind for kind in reversed(kinds().all) if isinstance(kind, TrainableKind)]
    kind = next(kind for kind in trainable if kind.is_chosen(network))
    if network.is_decomposed and kind.can_be_decomposed:
        return TrainedDecomposed(kind, by_outputs=network.wd_on_output)
    return kind
