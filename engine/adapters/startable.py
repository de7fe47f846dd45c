"""Whether a training can start from a file (`network.network_weights`), judged by its keys. Loads no torch."""

from __future__ import annotations

from collections import Counter

from engine.adapters.bases import UNKNOWN
from engine.adapters.formats import BFL, Format, with_article
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import kind_named
from engine.adapters.kinds.trainable import TrainableKind
from engine.adapters.naming import addresses
from engine.families.layer_names import Address
from engine.families.registry import family_of_lora, specs
from engine.text import listing, plural, printable

EMBEDDINGS = "bundle_emb."
"""Keys of embeddings inside a LoRA file, of A1111 and OneTrainer; a training leaves them out."""


def why_no_start(lora: Format) -> str | None:
    """Why a training cannot start from the file; None where it can."""
    kinds = [kind_named(name) for name in lora.kinds]
    if len(kinds) > 1 or not isinstance(kinds[0], TrainableKind):
        return f"it is {with_article(lora.kind)}, and only a plain LoRA can be trained here"
    if lora.base != UNKNOWN and family_of_lora(lora.base) is None:
        trained = listing([spec.lora_base for spec in specs()], 9)
        return f"it is for {lora.base}, and only LoRAs for {trained} are trained here"
    biases = [module for module in lora.modules.values() if {"bias", "diff_b"} & module.parts.keys()]
    if biases:
        control = f" (as LoRAs for {lora.base}'s Control models do)" if lora.naming == BFL else ""
        return f"it also changes biases, of {plural(len(biases), 'layer')}, which no LoRA here can hold{control}"
    extra = [
        key
        for module in lora.modules.values()
        for part, key in module.parts.items()
        if part not in kinds[0].factors | {"alpha", "scale"}
    ]
    rest = extra + [key for key in lora.strange if not key.startswith(EMBEDDINGS)]
    if rest:
        return f"{len(rest)} of its tensors belong to no plain LoRA ({listing([printable(key) for key in rest], 1)})"
    return _why_not_joined(lora, kinds[0])


def _why_not_joined(lora: Format, kind: TrainableKind) -> str | None:
    """Layers that have several modules, or modules of parts that cannot be joined."""
    placed = [address for address in addresses(lora, lora.base).values() if address is not None]
    twice = sorted(layer for layer, parts in _by_layer(placed).items() if _overlap(parts))
    if twice:
        return f"it has {len(twice)} layers twice, in two namings ({listing(twice, 1)})"
    parts = [address.layer for address in placed if address.members > 1]
    if parts and kind.name != Lora.name:
        return (
            f"it has {with_article(kind.name)} for each part of {len(set(parts))} layers ({listing(parts, 1)}), and "
            "only LoRAs of parts can be joined"
        )
    return None


def _by_layer(placed: list[Address]) -> dict[str, list[Address]]:
    layers: dict[str, list[Address]] = {}
    for address in placed:
        layers.setdefault(address.layer, []).append(address)
    return layers


def _overlap(parts: list[Address]) -> bool:
    """Whether several modules cover the same rows."""
    if len(parts) > 1 and any(address.members == 1 for address in parts):
        return True
    counts = Counter(number for part in parts for number in range(part.member, part.member + part.count))
    return any(count > 1 for count in counts.values())


def other_way(lora: Format) -> str | None:
    """The command that makes a LoRA of a file that a training cannot start from; None if there is none."""
    kinds = [kind_named(name) for name in lora.kinds]
    if not all(kind.factors and not kind.needs_weight for kind in kinds) or family_of_lora(lora.base) is None:
        return None
    if any({"bias", "diff_b"} & module.parts.keys() for module in lora.modules.values()):
        return None
    plain = len(kinds) == 1 and kinds[0].name == Lora.name
    return None if plain else "lorasmith lora resize FILE --rank 32 -o NEW.safetensors"
