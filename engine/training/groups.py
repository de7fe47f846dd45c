"""Which parts of a model are trained, and the optimizer's groups with their learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from engine.adapters.network import AdapterNetwork
from engine.config.rates import RateGroup
from engine.config.schema import RunConfig
from engine.config.trained import why_untrained
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
        why = why_untrained(config, denoiser=denoiser, component=name)
        if why is None:
            trained.add(name)
        else:
            title = f"the {name.replace('unet', 'U-Net')}" if denoiser else "the text encoder"
            if not denoiser and len(config.training.text_rates) > 1:
                title = f"the {name.replace('_', ' ')}"
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


def rate_groups(network: AdapterNetwork, config: RunConfig) -> dict[RateGroup, list[nn.Parameter]]:
    """The optimizer's groups with their parameters: the text encoders first, as in Kohya; named layers before the
    others, blocks in their order, LoRA+'s faster matrices behind the others of the same layers."""
    groups: dict[RateGroup, list[nn.Parameter]] = {}
    for module in network.modules:
        group, ratio = network.group_of(module), config.network.plus_ratio(denoiser=module.target.is_denoiser)
        faster = set() if ratio is None else set(map(id, module.plus))
        for parameter in module.parameters:
            key = group.plus(ratio) if ratio is not None and id(parameter) in faster else group
            groups.setdefault(key, []).append(parameter)
    components = list(dict.fromkeys(group.component for group in groups))
    return dict(sorted(groups.items(), key=lambda entry: (components.index(entry[0].component), entry[0].order)))


def parameter_groups(network: AdapterNetwork, config: RunConfig) -> list[dict[str, Any]]:
    """The groups as the optimizer takes them: params, lr, name."""
    return [
        {"params": parameters, "lr": group.rate(config.training), "name": group.name}
        for group, parameters in rate_groups(network, config).items()
    ]
