"""Training on from a file: of an epoch of the run, and of another program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import RunConfig, load_config
from engine.dataset.scan import scan
from engine.exit_codes import ExitCode
from engine.results.of_run import lora_of_run
from engine.results.train_on import described, find_file, new_run
from engine.results.what_now import snippet
from engine.runs import RunDir, prepare_run
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_changes import QUICK
from tests.engine.training.test_train import Train, events


def started(run: RunDir, file: str, **typed: Any) -> tuple[RunConfig, list[str]]:
    lora_file = find_file(run, file)
    values = {**new_run(run, lora_file), **typed}
    config = load_config(str(run.config_path), (), {key: ("--from", value) for key, value in values.items()})
    return config, described(run, lora_file, config)


def roles(config: RunConfig) -> dict[str, bool]:
    """Name of each image to whether it is set aside for validation."""
    return {image.path.name: subset.is_validation for subset in scan(config).subsets for image in subset.images}


@pytest.fixture
def run(make_run: MakeRun, train_here: Train) -> RunDir:
    """Two epochs of two steps, with a third of the images set aside and a rate that changes after the first epoch."""
    lora = make_run(
        "zed/results_current",
        **{**QUICK, "training__changes": '["2: training.unet_lr=2e-4", "3: training.unet_lr=1e-4"]'},
        dataset__validation_split=0.34,
    )
    assert train_here(lora) == ExitCode.DONE
    return lora


def generated(program: str) -> Any:
    """What a program for diffusers draws, on the CPU, in two steps and without writing a file."""
    for there, here in (("to('cuda')", "to('cpu')"), ("float16", "float32"), ("steps=28", "steps=2")):
        assert there in program
        program = program.replace(there, here)
    names: dict[str, Any] = {}
    exec(program.rpartition("\n")[0].replace("num_inf", "height=64, width=64, num_inf"), names)
    return names["image"]


def test_from_an_epoch_and_from_another_programs_file(run: RunDir, train_here: Train, tmp_path: Path) -> None:
    config, texts = started(run, "zed-000001.safetensors", **{"training.max_train_epochs": 1})
    step = events(run, "saved")[0].data["step"]
    assert texts[0].startswith(f"A new run, zed-2, begins with zed-000001.safetensors, epoch 1, step {step} of zed and")
    assert "zed-2-000001.safetensors, …, zed-2.safetensors. The trigger word is zed." in texts[1]
    assert (config.training.changes, config.training.unet_lr) == ([], 2e-4 if step >= 2 else None)
    old = load_config(run.config_path)
    assert roles(config) == roles(old) and sum(roles(config).values()) == 2, "the same images are set aside"
    new = prepare_run(config)
    assert new.path == run.path.parent.with_name("zed-2") / "results_current" and new.name == "zed-2"
    assert train_here(new) == ExitCode.DONE
    assert [event.data["step"] for event in events(new, "step")] == list(range(1, step + 1)), "counted from 1"
    assert [path.name for path in new.path.glob("*.safetensors")] == ["zed-2.safetensors"]
    assert run.lora_path(epoch=1).is_file() and run.lora_path().is_file(), "old files stay"

    image = generated(snippet(lora_of_run(run, run.lora_path(epoch=1))))
    assert image.size == (64, 64), "what the screen says about diffusers works"

    foreign = tmp_path / "theirs.safetensors"
    tensors = {
        name: value[:2].clone() if "lora_down" in name else value for name, value in load_file(run.lora_path()).items()
    }
    tensors = {name: value[:, :2].clone() if "lora_up" in name else value for name, value in tensors.items()}
    tensors = {name: torch.tensor(1.0) if name.endswith("alpha") else value for name, value in tensors.items()}
    theirs = {"ss_network_dim": "2", "ss_network_alpha": "1.0", "ss_tag_frequency": json.dumps({"8_ohwx": {"hat": 4}})}
    save_file(tensors, foreign, theirs)
    config, texts = started(run, str(foreign), **{"training.max_train_epochs": 1})
    assert "taken from the file" in texts[2] and "names the trigger word ohwx; to train on that: --set" in texts[3]
    new = prepare_run(config, restart=True)
    assert train_here(new) == ExitCode.DONE
    lora = load_file(new.lora_path())
    assert {name: value.shape for name, value in lora.items()} == {name: value.shape for name, value in tensors.items()}
    assert {float(value) for name, value in lora.items() if name.endswith("alpha")} == {1.0}
    assert any(not torch.equal(lora[name], tensors[name].to(lora[name].dtype)) for name in lora), "it was trained"
