"""Norm layers in the size on disk: as many parameters as the network of the run has, also where settings choose
layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.estimate.disk import lora_parameters
from engine.families.registry import recognise
from engine.families.resolved import resolve_run
from engine.training.prepare import build_network
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

MAKERS: dict[str, Callable[[Path], Path]] = {
    "SD 1.5 file": lambda folder: tiny_sd15(folder, ldm=True),
    "SD 1.5 folder": tiny_sd15,
    "SDXL file": lambda folder: tiny_sdxl(folder, file=True),
    "SDXL folder": tiny_sdxl,
}
LYCORIS = {"network_module": "lycoris.kohya", "algo": "loha"}
SETTINGS: list[dict[str, Any]] = [
    LYCORIS,
    {**LYCORIS, "preset": "unet-convblock-only"},
    {"algo": "lokr", "exclude_patterns": ["norm1", "fc2$", "in_layers_0"]},
    {"algo": "loha", "include_patterns": ["down_blocks_0", "input_blocks_4", "lora_te"], "conv_dim": 2},
    {"algo": "loha", "network_reg_dims": "norm=0"},
    {"algo": "loha", "network_reg_lrs": "norm3=1e-3", "network_train_unet_only": True},
    {"algo": "loha", "block_lr_zero_threshold": 0.1, "network_train_text_encoder_only": True},
]


@pytest.mark.parametrize("model", MAKERS)
def test_the_parameters_are_those_of_the_run(model: str, tmp_path: Path) -> None:
    path = MAKERS[model](tmp_path)
    recognition, counted, without = recognise(path), [], []
    for settings in SETTINGS:
        base = RunConfig().changed(
            model={"pretrained_model_name_or_path": str(path)},
            memory={"device": "cpu"},
            training={"text_encoder_lr": 1e-4},
            network={"network_dim": 2, "train_norm": True, **settings},
        )
        run = resolve_run(base, recognition)
        loaded = run.family.load(run.config, run.recognition, "cpu", "fp32", lambda _: None)
        network = build_network(run.config, loaded, lambda _: None)
        assert lora_parameters(run) == sum(parameter.numel() for parameter in network.parameters()), settings
        counted.append(lora_parameters(run))
        without.append(lora_parameters(resolve_run(base.changed(network={"train_norm": False}), recognition)))
    norms = [own - other for own, other in zip(counted, without, strict=True)]
    assert all(0 <= chosen <= norms[0] for chosen in norms) and norms[0] > 0 == norms[-1]
    assert len(set(norms[1:-1])) > 2, "what is chosen counts"
