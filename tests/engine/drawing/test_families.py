"""Of every family: a file at strength 1 draws what the trainer's own layers draw, at strength 0 what the base draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from engine.adapters.applied import AppliedLoras
from engine.adapters.kinds.lora import Lora
from engine.adapters.network import AdapterNetwork
from engine.config import RunConfig
from engine.config.schema import NetworkTable
from engine.families.base import Model
from engine.families.registry import family_named, recognise
from engine.lowmem.frozen import FrozenLayer
from engine.types import SampleRequest
from tests.tiny_flux import tiny_folder
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

REQUEST = SampleRequest("a zed, blue", "dull", 64, 64, seed=3, steps=2, scale=3.0)
MAKERS: dict[str, Callable[[Path], Path]] = {"sd15": tiny_sd15, "sdxl": tiny_sdxl, "flux": tiny_folder}


@pytest.fixture(scope="module", params=list(MAKERS))
def load(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Model]:
    """load(): the family's tiny model, anew each time."""
    place = MAKERS[request.param](tmp_path_factory.mktemp(request.param))
    config = RunConfig().changed(model={"pretrained_model_name_or_path": str(place), "t5xxl_max_token_length": 32})
    return lambda: family_named(request.param).load(config, recognise(place), "cpu", "fp32", lambda _: None)


def in_training(model: Model) -> tuple[bytes, dict[str, torch.Tensor]]:
    """What the trainer's layers draw with values that were drawn at random, and those values in Kohya's names."""
    network = AdapterNetwork.attach(
        Lora(), model.trainable, model.lora_targets(conv=False),
        network=NetworkTable(network_dim=4, network_alpha=2), folds_alpha=model.reader.folds_alpha, log=lambda _: None,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.generate(REQUEST).tobytes(), network.state()


def test_the_image_is_the_trainers(load: Callable[[], Any], tmp_path: Path) -> None:
    with_lora, state = in_training(load())
    file, text_only = tmp_path / "a.safetensors", tmp_path / "text.safetensors"
    save_file(state, file)
    save_file({key: tensor for key, tensor in state.items() if key.startswith("lora_te")}, text_only)
    model = load()
    base = model.generate(REQUEST).tobytes()
    applied = AppliedLoras(model, [file, text_only], family_named(model.recognition.family).spec.lora_base, print)
    drawn = {}
    for strengths in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.0)):
        applied.set_strengths(strengths)
        drawn[strengths] = model.generate(REQUEST).tobytes()
    assert drawn[0.0, 0.0] == base
    assert drawn[1.0, 0.0] == with_lora != base
    assert len(set(drawn.values())) == 4, "a text encoder's LoRA alone changes the image too"


def test_a_quantised_base_takes_a_lora_and_a_dora(tmp_path: Path) -> None:
    """DoRA needs the weight itself, which is there only as codes; with the base's own lengths and an empty LoRA it
    changes next to nothing."""
    place = tiny_sd15(tmp_path / "model")
    config = RunConfig().changed(model={"pretrained_model_name_or_path": str(place)}, memory={"base_precision": "int8"})
    model: Any = family_named("sd15").load(config, recognise(place), "cpu", "fp32", lambda _: None)
    targets = [(target, model.trainable[target.component].get_submodule(target.path)) for target in
               model.lora_targets(conv=False)]  # fmt: skip
    target, layer = next(pair for pair in targets if isinstance(pair[1], FrozenLayer))
    name, weight = target.kohya_name, layer.dequantize(torch.float32).clone()
    down, up = torch.ones(1, weight.shape[1]), torch.zeros(len(weight), 1)
    empty = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    files = [tmp_path / f"{number}.safetensors" for number in range(3)]
    save_file({**empty, f"{name}.dora_scale": weight.norm(dim=1, keepdim=True)}, files[0])
    save_file({**empty, f"{name}.dora_scale": 2 * weight.norm(dim=1, keepdim=True)}, files[1])
    save_file({**empty, f"{name}.lora_up.weight": up + 0.5}, files[2])
    applied, x = AppliedLoras(model, files, "SD 1.5", print), torch.randn(3, weight.shape[1])
    outputs = []
    with torch.no_grad():
        for strengths in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
            applied.set_strengths(strengths)
            outputs.append(layer(x))
    base, same, doubled, plain = outputs
    torch.testing.assert_close(same, base)
    torch.testing.assert_close(doubled, base + x @ weight.T)
    torch.testing.assert_close(plain, base + 0.5 * x.sum(dim=1, keepdim=True))
