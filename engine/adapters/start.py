"""The LoRA that a run starts from (`network_weights`): everything that its header and values tell. Loads no torch.

The commands that check a run and the trainer ask this, so that they refuse the same files with the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.adapters.defects import check_file
from engine.adapters.names import DOWN, PARTS, UP, by_module, is_peft
from engine.config.schema import RunConfig
from engine.errors import ModelError
from engine.models.header import Header, read_header
from engine.text import listing

_TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")
"""Those that can be trained; T5's modules (`lora_te3_`) are left out of any run."""
_ALWAYS = ("transformer_blocks_", "_proj_in", "_proj_out", "_text_model_encoder_layers_", "double_blocks_",
           "single_blocks_")  # fmt: skip
"""Parts of the names of layers that have a LoRA in every run of their family."""


def check_start(config: RunConfig, base: str | None) -> None:
    """Refuse a file that the run cannot start from.

    Args:
        config: as it will run, after `resolve`; without `network_weights` there is nothing to check.
        base: what the model is (`Family.lora_base`); None where the model is not known.

    Raises:
        ModelError: unreadable, of another format or family, incomplete, of other ranks, or with values that are not
            numbers.
    """
    if config.network.network_weights is None:
        return
    path = Path(config.network.network_weights).expanduser()
    check_file(path, base)
    header = read_header(path)
    if not is_peft(header.tensors):
        _check_modules(config, by_module(header.tensors), header)


def _check_modules(config: RunConfig, modules: Mapping[str, Mapping[str, object]], header: Header) -> None:
    network, (unet_rate, text_rate) = config.network, config.training.rates
    unet = unet_rate > 0 and not network.network_train_text_encoder_only
    text = text_rate > 0 and not network.network_train_unet_only
    prefixes = (*(("lora_unet_",) if unet else ()), *(_TEXT_ENCODERS if text else ()))
    wanted = [name for name in modules if name.startswith(prefixes)]
    if not wanted:
        raise ModelError(
            f"The LoRA to start from has no module of a part that is trained; it has {listing(sorted(modules), 3)}.",
            "It was made for parts that are not trained here: change the learning rates or network_train_unet_only.",
        )
    for name in wanted:
        if network.conv_dim is None and not any(mark in name for mark in _ALWAYS):
            continue  # whether it has a place in this run only the model tells
        for part in PARTS[:2]:
            if part not in modules[name]:
                raise ModelError(f"The LoRA to start from is incomplete: {name}.{part} is missing.")
        down, up = header.shapes[f"{name}.{DOWN}"], header.shapes[f"{name}.{UP}"]
        rank = network.conv_dim if down[2:] not in ((), (1, 1)) else network.network_dim
        rank = down[0] if network.dim_from_weights or rank is None else rank
        for part, given, expected in ((DOWN, down, (rank, *down[1:])), (UP, up, (*up[:1], rank, *up[2:]))):
            if given != expected:
                raise ModelError(
                    f"{name}.{part} of the LoRA to start from has the shape {list(given)}, here it is "
                    f"{list(expected)}.",
                    "Set network_dim and conv_dim to that file's ranks, or set dim_from_weights; another kind of model "
                    "does not fit at all.",
                )
