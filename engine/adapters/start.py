"""Checks header and values of the LoRA that a run starts from (`network_weights`), and of those that are merged into
its base (`base_weights`). Loads no torch.

The commands that check a run and the trainer use it, so that they refuse the same files with the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.adapters.defects import check_file, check_merged_file
from engine.adapters.formats import KOHYA, Format, with_article
from engine.adapters.keys import Module, Shapes
from engine.adapters.kinds.lora import Lora
from engine.adapters.kinds.registry import companion, kind_named, trained_kind
from engine.adapters.kinds.trainable import TrainableKind
from engine.adapters.naming import addresses
from engine.adapters.selection import Selector
from engine.adapters.startable import EMBEDDINGS, other_way
from engine.config.network import NetworkTable
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.errors import ModelError
from engine.families.base import Family
from engine.families.layer_names import Address
from engine.families.listing import layer_named
from engine.families.registry import specs
from engine.models.header import Header, read_header, readable
from engine.models.lora_names import DOWN, by_module
from engine.paths import expanded
from engine.reading import open_file
from engine.text import listing, plural, printable

_TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")
"""The trainable text encoders; T5's modules (`lora_te3_`) are in no run."""


def check_start(config: RunConfig, family: Family | None) -> list[str]:
    """Refuse a file that the run cannot start from.

    Args:
        config: as it will run, after `resolve`; without `network_weights` there is nothing to check.
        family: of the model; None where it is unknown.

    Returns:
        Sentences about a file in other names than Kohya's, or with more than a LoRA.

    Raises:
        ModelError: unreadable, of another format or family, incomplete, of other ranks, or with NaN or infinity.
    """
    if config.network.network_weights is None:
        return []
    path, kind = Path(config.network.network_weights).expanduser(), trained_kind(config.network)
    base = None if family is None else family.spec.lora_base
    lora = check_file(path, base)
    foreign = [name for name in lora.kinds if name not in (kind.name, *kind.also) and not kind_named(name).is_companion]
    if foreign:
        way = other_way(lora) if kind.name == Lora.name else None
        other = "another file" if way is None else f"a LoRA that {way} makes of it, with its loss"
        raise ModelError(
            f"network.network_weights: {printable(path)} is {with_article(lora.kind)}, and this run trains "
            f"{kind.trained_name(config.network)}.",
            f"Set network.algo and network.dora_wd to the kind of the file, or start from {other}.",
            code="lora-of-other-kind",
        )
    header = read_header(path)
    if is_in_kohyas_format(lora, kind):
        _check_modules(config, by_module(header.shapes, _ends(kind)), family)
        return []
    placed = addresses(lora, base or lora.base)
    modules = _in_kohyas_names(lora, kind, placed, header, path)
    if modules:  # else only the loaded model shows what they are
        _check_modules(config, modules, family)
    return _notes(lora, placed, modules)


def check_base_weights(config: RunConfig, base: str | None) -> None:
    """Refuse a file that cannot be merged into the base (`model.base_weights`).

    Args:
        base: the kind of model (`FamilySpec.lora_base`); None where it is unknown.

    Raises:
        ModelError: missing, unreadable, no LoRA, for another model, damaged, or of a kind that cannot be merged.
    """
    for name, _ in config.model.merged:
        path = expanded(name)
        if not path.exists():
            raise ModelError(
                f"model.base_weights: there is no file {printable(path)}.",
                "Check the path.",
                code="merged-file-missing",
            )
        check_merged_file(path, base)


def is_in_kohyas_format(lora: Format, kind: TrainableKind) -> bool:
    """Whether a file of this kind has Kohya's names throughout, and nothing else."""
    ends = {f".{end}" for end in _ends(kind)}
    keys = [key.removeprefix(name) for name, module in lora.modules.items() for key in module.parts.values()]
    return list(lora.namings) == [KOHYA] and not lora.strange and ends.issuperset(keys)


def _ends(kind: TrainableKind) -> tuple[str, ...]:
    """Ends of the keys of a file that a run of this kind writes, with those of norm layers."""
    return (*kind.written.values(), *companion().written.values())


def _check_modules(config: RunConfig, modules: Mapping[str, Shapes], family: Family | None) -> None:
    """Refuse a file without a trained module, or with one that does not fit the settings.

    Args:
        modules: Kohya's names to the shapes of the tensors, by the ends of their keys.
    """
    network, kind = config.network, trained_kind(config.network)
    unet, text = is_trained(config, denoiser=True), is_trained(config, denoiser=False)
    prefixes = (*(("lora_unet_",) if unet else ()), *(_TEXT_ENCODERS if text else ()))
    trained = [name for name in modules if name.startswith(prefixes)]
    if not trained:
        raise ModelError(
            f"The LoRA to start from has no module of a part that is trained; it has {listing(sorted(modules), 3)}.",
            "It was made for parts that are not trained here: change the learning rates or network_train_unet_only.",
            code="lora-without-trained-modules",
        )
    norm = companion()
    always = {mark for spec in specs() for mark in spec.always_adapted}
    tables = {} if family is None else _own_tables(config, trained, modules, family)
    for name in trained:
        if tables and name not in tables:
            continue  # its layer is not trained
        if network.conv_rank is None and not any(mark in name for mark in always):
            continue  # only the loaded model shows whether it exists in this run
        own = norm if norm.marks & modules[name].keys() else kind
        own.check_start(name, modules[name], tables.get(name, network))


def _own_tables(
    config: RunConfig, names: Sequence[str], modules: Mapping[str, Shapes], family: Family
) -> dict[str, NetworkTable]:
    """`[network]` for each of these modules that the run trains; empty where no setting chooses layers or ranks.

    A module of layers that are trained separately may have the rank of one, or that of all together.
    """
    selector = Selector(config, family)
    if selector.is_plain:
        return {}
    named = {name: layer_named(family.spec, name, modules[name].get(DOWN, ())) for name in names}
    in_file = {layer.target.kohya_name: name for name, layer in named.items() if layer is not None}
    tables = {}
    for choice in selector.select([layer.target for layer in named.values() if layer is not None]).choices:
        table, name = choice.table(config.network), in_file[choice.target.kohya_name]
        rank = modules[name].get(DOWN, (0,))[0]
        factor = table.rank_factor
        together = rank == factor * table.network_dim * len(choice.target.paths) and choice.target.is_split
        tables[name] = table.of_size(rank // factor, None) if together else table
    return tables


def _in_kohyas_names(
    lora: Format, kind: TrainableKind, placed: Mapping[str, Address | None], header: Header, path: Path
) -> dict[str, Shapes]:
    """The modules as `_check_modules` takes them; those that are no layer of the family are left out."""
    parts: dict[str, list[Module]] = {}
    modules: dict[str, Shapes] = {}
    for name, address in placed.items():
        module = lora.modules[name]
        if address is None:
            continue
        if address.members > 1:
            parts.setdefault(address.layer, []).append(module)
        shapes = module.shapes(header.shapes)
        modules[address.layer] = {end: shapes[role] for role, end in kind.written.items() if role in shapes}
    down, up = kind.written.get("down", ""), kind.written.get("up", "")
    for layer, members in parts.items():  # only LoRAs have parts
        shapes = {"down": members[0].shape("down", header.shapes), "up": members[0].shape("up", header.shapes)}
        rank = _joined_rank(members, header, path)
        rows = sum(member.shape("up", header.shapes)[0] for member in members)
        modules[layer] = {down: (rank, *shapes["down"][1:]), up: (rows, rank, *shapes["up"][2:])}
    return modules


def _joined_rank(members: Sequence[Module], header: Header, path: Path) -> int:
    """The rank of LoRAs that become one: that of each where they share their down matrix, else the sum."""
    ranks = [member.shape("down", header.shapes)[0] for member in members]
    with readable(path), open_file(path) as file:
        matrices = set()
        for member in members:
            first, last = header.places[member.parts["down"]]
            file.seek(first)
            matrices.add(file.read(last - first))
    return ranks[0] if len(matrices) == 1 else sum(ranks)


def _notes(lora: Format, placed: Mapping[str, Address | None], modules: Mapping[str, Shapes]) -> list[str]:
    notes = []
    if lora.naming != KOHYA and modules:
        here = sum(address is not None for address in placed.values())
        joined = f", which are {plural(len(modules), 'layer')} here" if len(modules) != here else ""
        notes.append(f"The LoRA to start from is in {lora.naming} names: {plural(here, 'module')}{joined}.")
    norms = {role for name in lora.kinds if not kind_named(name).in_tables for role in kind_named(name).marks}
    unknown = [
        printable(name)
        for name, address in placed.items()
        if address is None and norms.isdisjoint(lora.modules[name].parts)
    ]
    if unknown and modules:
        notes.append(
            f"{plural(len(unknown), 'module')} of the LoRA to start from: none of this family's layers, skipped: "
            f"{listing(unknown, 3)}."
        )
    embeddings = sorted({key.split(".")[1] for key in lora.strange if key.startswith(EMBEDDINGS)})
    if embeddings:
        notes.append(
            f"Embeddings in the LoRA to start from are left out, only its modules are trained on: "
            f"{listing([printable(name) for name in embeddings], 3)}."
        )
    return notes
