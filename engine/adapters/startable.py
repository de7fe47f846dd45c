"""Whether a training can start from a file (`network.network_weights`), judged by its keys. Loads no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from engine.adapters.bases import UNKNOWN
from engine.adapters.formats import BFL, KOHYA_OFT, Format, with_article
from engine.adapters.kinds.base import AdapterKind
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import kind_named
from engine.adapters.kinds.trainable import TrainableKind
from engine.adapters.naming import addresses
from engine.families.layer_names import Address
from engine.families.registry import family_of_lora, specs
from engine.text import listing, plural, printable

EMBEDDINGS = "bundle_emb."
"""Keys of embeddings inside a LoRA file, of A1111 and OneTrainer; a training leaves them out."""
_BIASES = {"bias", "diff_b"}


def why_no_start(lora: Format) -> str | None:
    """Why a training cannot start from the file; None where it can."""
    kinds = [kind_named(name) for name in lora.kinds if not kind_named(name).is_companion]
    chief = next((kind for kind in kinds if all(other is kind or other.name in kind.also for other in kinds)), None)
    if not isinstance(chief, TrainableKind):
        return f"it is {with_article(lora.kind)}, which cannot be trained here"
    if KOHYA_OFT in lora.namings:
        return "it is an OFT of sd-scripts, whose numbers are not those of LyCORIS"
    if lora.base != UNKNOWN and family_of_lora(lora.base) is None:
        trained = listing([spec.lora_base for spec in specs()], 9)
        return f"it is for {lora.base}, and only LoRAs for {trained} are trained here"
    known = {role for name in lora.kinds for role in _roles(kind_named(name))}
    known |= {"scale"} if "alpha" in known else set()
    biases = [module for module in lora.modules.values() if _BIASES & module.parts.keys() - known]
    if biases:
        control = f" (as LoRAs for {lora.base}'s Control models do)" if lora.naming == BFL else ""
        layers = plural(len(biases), "layer")
        return f"it also changes biases, of {layers}, which no {chief.name} here can hold{control}"
    extra = [key for module in lora.modules.values() for part, key in module.parts.items() if part not in known]
    rest = extra + [key for key in lora.strange if not key.startswith(EMBEDDINGS)]
    if rest:
        names = listing([printable(key) for key in rest], 1)
        return f"{len(rest)} of its tensors belong to no plain {chief.name} ({names})"
    return _why_not_joined(lora, chief)


def _roles(kind: AdapterKind) -> Iterable[str]:
    """Of the tensors that a training of the kind writes."""
    return kind.written if isinstance(kind, TrainableKind) else ()


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
    """The command that makes a LoRA of a file of another kind; None if there is none."""
    kinds = [kind_named(name) for name in lora.kinds]
    if not all(kind.factors and not kind.is_companion for kind in kinds) or family_of_lora(lora.base) is None:
        return None
    if any(_BIASES & module.parts.keys() for module in lora.modules.values()):
        return None
    plain = len(kinds) == 1 and kinds[0].name == Lora.name
    base = "" if all(kind.from_file_alone for kind in kinds) else "--base MODEL "
    return None if plain else f"lorasmith lora resize FILE {base}--rank 32 -o NEW.safetensors"
