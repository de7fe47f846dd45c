"""Checks the header and values of the LoRA that a run starts from (`network_weights`). Loads no torch.

The commands that check a run and the trainer use it, so that they refuse the same files with the same messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.adapters.defects import check_file
from engine.adapters.formats import with_article
from engine.adapters.kinds.registry import companion, kind_named, trained_kind
from engine.config.schema import RunConfig
from engine.config.trained import is_trained
from engine.errors import ModelError
from engine.families.registry import specs
from engine.models.header import Header, read_header
from engine.models.lora_names import by_module, is_peft
from engine.text import listing, printable

_TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")
"""The trainable text encoders; T5's modules (`lora_te3_`) are in no run."""


def check_start(config: RunConfig, base: str | None) -> None:
    """Refuse a file that the run cannot start from.

    Args:
        config: as it will run, after `resolve`; without `network_weights` there is nothing to check.
        base: the kind of model (`FamilySpec.lora_base`); None where it is unknown.

    Raises:
        ModelError: unreadable, of another format or family, incomplete, of other ranks, or with NaN or infinity.
    """
    if config.network.network_weights is None:
        return
    path = Path(config.network.network_weights).expanduser()
    lora, kind = check_file(path, base), trained_kind(config.network)
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
        _check_modules(config, by_module(header.tensors, ends), header)


def _check_modules(config: RunConfig, modules: Mapping[str, Mapping[str, object]], header: Header) -> None:
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
    for name in trained:
        if network.conv_rank is None and not any(mark in name for mark in always):
            continue  # only the loaded model shows whether it exists in this run
        own = norm if norm.marks & modules[name].keys() else kind
        own.check_start(name, {end: header.shapes[f"{name}.{end}"] for end in modules[name]}, network)
