"""Checks header and values of the LoRA that a run starts from (`network_weights`), and of those that are merged into
its base (`base_weights`). Loads no torch.

The commands that check a run and the trainer use it, so that they refuse the same files with the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.adapters.defects import check_file, check_merged_file
from engine.adapters.formats import with_article
from engine.adapters.kinds.registry import companion, kind_named, trained_kind
from engine.adapters.selection import Selector
from engine.config.network import NetworkTable
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.errors import ModelError
from engine.families.base import Family
from engine.families.listing import layer_named
from engine.families.registry import specs
from engine.models.header import Header, read_header
from engine.models.lora_names import DOWN, by_module, is_peft
from engine.paths import expanded
from engine.text import listing, printable

_TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")
"""The trainable text encoders; T5's modules (`lora_te3_`) are in no run."""


def check_start(config: RunConfig, family: Family | None) -> None:
    """Refuse a file that the run cannot start from.

    Args:
        config: as it will run, after `resolve`; without `network_weights` there is nothing to check.
        family: of the model; None where it is unknown.

    Raises:
        ModelError: unreadable, of another format or family, incomplete, of other ranks, or with NaN or infinity.
    """
    if config.network.network_weights is None:
        return
    path = Path(config.network.network_weights).expanduser()
    lora = check_file(path, None if family is None else family.spec.lora_base)
    kind = trained_kind(config.network)
    other = [name for name in lora.kinds if name not in (kind.name, *kind.also) and not kind_named(name).is_companion]
    if other:
        raise ModelError(
            f"network.network_weights: {printable(path)} is {with_article(lora.kind)}, and this run trains "
            f"{kind.trained_name(config.network)}.",
            "Set network.algo to the kind of the file, or start from another file.",
            code="lora-of-other-kind",
        )
    header = read_header(path)
    if not is_peft(header.tensors):
        ends = [*kind.written.values(), *companion().written.values()]
        _check_modules(config, by_module(header.tensors, ends), header, family)


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


def _check_modules(
    config: RunConfig, modules: Mapping[str, Mapping[str, object]], header: Header, family: Family | None
) -> None:
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
    tables = {} if family is None else _own_tables(config, trained, header, family)
    for name in trained:
        if tables and name not in tables:
            continue  # its layer is not trained
        if network.conv_rank is None and not any(mark in name for mark in always):
            continue  # only the loaded model shows whether it exists in this run
        own = norm if norm.marks & modules[name].keys() else kind
        shapes = {end: header.shapes[f"{name}.{end}"] for end in modules[name]}
        own.check_start(name, shapes, tables.get(name, network))


def _own_tables(config: RunConfig, names: Sequence[str], header: Header, family: Family) -> dict[str, NetworkTable]:
    """`[network]` for each of these modules that the run trains; empty where no setting chooses layers or ranks.

    A module of layers that are trained separately may have the rank of one, or that of all together.
    """
    selector = Selector(config, family)
    if selector.is_plain:
        return {}
    named = {name: layer_named(family.spec, name, header.shapes.get(f"{name}.{DOWN}", ())) for name in names}
    in_file = {layer.target.kohya_name: name for name, layer in named.items() if layer is not None}
    tables = {}
    for choice in selector.select([layer.target for layer in named.values() if layer is not None]).choices:
        table, name = choice.table(config.network), in_file[choice.target.kohya_name]
        rank = header.shapes.get(f"{name}.{DOWN}", (0,))[0]
        together = rank == table.network_dim * len(choice.target.paths) and choice.target.is_split
        tables[name] = table.of_size(rank, None) if together else table
    return tables
