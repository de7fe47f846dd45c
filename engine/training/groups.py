"""Which layers of a model are trained, and with which learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.adapters.network import AdapterNetwork
from engine.config.schema import RunConfig
from engine.config.trained import why_untrained
from engine.config.training import TrainingTable
from engine.errors import UsageError
from engine.types import Log, LoraTarget


def trained_targets(targets: Sequence[LoraTarget], config: RunConfig, log: Log) -> list[LoraTarget]:
    """The layers of the parts that are trained.

    Args:
        targets: layers that may take an adapter.
        log: called with a sentence about each part that is left out.

    Raises:
        UsageError: nothing would be trained.
    """
    trained, reasons = set(), []
    for name, denoiser in {target.component: target.is_denoiser for target in targets}.items():
        why = why_untrained(config, denoiser=denoiser)
        if why is None:
            trained.add(name)
        else:
            title = f"the {name.replace('unet', 'UNet')}" if denoiser else "the text encoder"
            reasons.append(f"No LoRA in {title}: {why}.")
    reasons = list(dict.fromkeys(reasons))
    if not trained:
        raise UsageError(
            " ".join(["Nothing would be trained.", *reasons]),
            "Raise unet_lr or text_encoder_lr, or unset network_train_unet_only or network_train_text_encoder_only.",
            code="nothing-trained",
        )
    for reason in reasons:
        log(reason)
    return [target for target in targets if target.component in trained]


def parameter_groups(network: AdapterNetwork, training: TrainingTable) -> list[dict[str, Any]]:
    """The optimizer's groups, the text encoder first (as Kohya logs them): params, lr, name."""
    return [
        {"params": parameters, "lr": training.rate_of(name), "name": name}
        for name, parameters in network.groups().items()
    ]
