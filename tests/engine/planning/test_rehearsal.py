"""The planner's process on models: what grows a plan, what shrinks it, and that it takes no memory itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.errors import ModelError
from engine.memory import planner
from engine.memory.plan import GIB, PHASES, Need
from engine.memory.planner_process import needs_in
from engine.models.registry import family_named, recognise
from tests.tiny_models import tiny_sd15

TINY: dict[str, dict[str, Any]] = {
    "base": {},
    "batch": {"training": {"train_batch_size": 4}},
    "checkpointing": {"training": {"train_batch_size": 4}, "memory": {"gradient_checkpointing": True}},
    "split": {
        "dataset": {"resolution": 128},
        "memory": {"split_mode": True, "cache_text_encoder_outputs": True, "cache_latents": False},
        "network": {"network_train_unet_only": True},
        "training": {"optimizer_type": "AdamW8bit", "gradient_accumulation_steps": 2},
    },
}
LOWEST = {
    "memory": {
        "gradient_checkpointing": True, "cpu_offload_checkpointing": True, "split_mode": True,
        "cache_text_encoder_outputs": True,
    },
    "network": {"network_train_unet_only": True},
    "dataset": {"resolution": 512},
    "model": {"family": "sd15"},
}  # fmt: skip


class Answers:
    """What one planner's process said to several requests, and the most memory that it took."""

    def __init__(self, requests: dict[str, planner.Request]) -> None:
        command = [sys.executable, "-m", "engine.planning"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None and process.stdout is not None
            for request in requests.values():
                process.stdin.write(json.dumps(request.as_json()) + "\n")
            process.stdin.close()
            lines = process.stdout.read().splitlines()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        self.resident = usage.ru_maxrss * 1024
        self.said = dict(zip(requests, map(json.loads, lines), strict=True))

    def need(self, name: str, phase: str = "train") -> Need:
        return next(need for need in needs_in(self.said[name]) if need.phase == phase)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    recognition = recognise(tiny_sd15(tmp_path_factory.mktemp("model")))
    small = {"resolution": 64, "enable_bucket": False, "validation_split": 0.1}
    requests = {}
    for name, tables in TINY.items():
        dataset = {**small, **tables.get("dataset", {})}
        config = RunConfig().changed(**{**tables, "dataset": dataset})
        phases = PHASES if name == "base" else ("train",)
        requests[name] = planner.request_for(config, recognition, phases=phases)
    lowest = RunConfig().changed(**LOWEST)
    requests["sd15"] = planner.request_for(lowest, family_named("sd15").of_real_size(), phases=("train",))
    broken = recognition.__class__(**{**vars(recognition), "path": Path("nowhere")})
    requests["broken"] = planner.request_for(RunConfig().changed(dataset=small), broken, phases=("train",))
    return Answers({name: request for name, request in requests.items() if request is not None})


def test_every_phase_of_a_run(answers: Answers) -> None:
    needs = needs_in(answers.said["base"])
    assert [need.phase for need in needs] == ["load", "cache", "train", "sample", "frugal", "validate", "save"]
    for need in needs:
        assert sum(need.breakdown.values()) == need.allocated <= need.reserved


def test_the_weights_are_those_of_unet_and_text_encoder(answers: Answers) -> None:
    from tests.tiny_models import tiny_parts

    parts = tiny_parts()
    sizes = [parameter.numel() * 2 for name in ("unet", "text_encoder") for parameter in parts[name].parameters()]
    assert answers.need("base").breakdown["weights"] == pytest.approx(sum(sizes), rel=0.05)  # and buffers, rounded


def test_adam_keeps_two_numbers_for_each_of_the_adapter(answers: Answers) -> None:
    """And for each of its 120 tensors the number of the step, in a block of 512 bytes."""
    save = answers.need("base", "save").breakdown
    assert save["optimizer"] == 2 * save["adapter"] + 120 * 512


def test_it_grows_with_the_batch_and_falls_with_checkpointing(answers: Answers) -> None:
    one, four, recomputed = (answers.need(name).breakdown["activations"] for name in ("base", "batch", "checkpointing"))
    assert 3 * one < four < 4.2 * one
    assert recomputed < 0.6 * four


def test_split_mode_and_eight_bits_at_a_higher_resolution(answers: Answers) -> None:
    base, split = answers.need("base").breakdown, answers.need("split").breakdown
    assert split["activations"] > 3 * base["activations"]
    assert split["slots"] > 0 and split["optimizer"] < base["optimizer"]


def test_stable_diffusion_fits_two_gigabytes(answers: Answers) -> None:
    """The lowest rungs of the ladder at 512 px: the project's target is 1.7 GiB."""
    need = answers.need("sd15")
    assert 0.3 * GIB < need.allocated <= 1.7 * GIB


def test_the_planner_itself_takes_no_such_memory(answers: Answers) -> None:
    """SD 1.5 has 2 GiB of weights in bf16, twice that in fp32: the process has the libraries, and little else."""
    assert answers.resident < 1.5 * GIB


def test_a_model_that_is_not_there(answers: Answers) -> None:
    with pytest.raises(ModelError):
        needs_in(answers.said["broken"])
