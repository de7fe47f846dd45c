"""The list of GPUs through pynvml's own calls into a shared library (tests/nvml)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pynvml
import pytest

from engine.hardware import choose_precision, list_gpus
from engine.hardware.gpu import Gpu
from tests.nvml.fake import environment, playing

Play = Callable[..., None]


def only(play: Play, machine: str) -> Gpu:
    play(machine)
    report = list_gpus()
    assert report.problem is None
    (gpu,) = report.gpus
    return gpu


def test_a_desktop_card(nvml: Play) -> None:
    gpu = only(nvml, "rtx2060")
    assert (gpu.name, gpu.total, gpu.used, gpu.free) == (
        "NVIDIA GeForce RTX 2060", 6 * 2**30, 1303 * 2**20, (6144 - 1303) * 2**20,
    )  # fmt: skip
    assert (gpu.temperature, gpu.power, gpu.power_limit, gpu.utilization) == (44, 18.4, 160.0, 4)
    assert (gpu.cores, gpu.clock_max, gpu.mig, gpu.unified) == (1920, 2100, False, False)
    assert [(program.name, program.bytes) for program in gpu.programs] == [
        ("blender", 512 * 2**20), ("firefox", 403 * 2**20), ("Xorg", 322 * 2**20),
    ]  # fmt: skip
    report = list_gpus()
    assert (report.driver, report.cuda) == ("580.95.05", "13.0")


@pytest.mark.parametrize(
    ("machine", "precision"),
    [("rtx2060", "fp16"), ("rtx4060ti", "bf16"), ("h200", "bf16"), ("unified", "bf16"), ("unsupported", "no")],
)
def test_which_precision_follows(nvml: Play, machine: str, precision: str) -> None:
    assert choose_precision("auto", only(nvml, machine)).value == precision


def test_two_cards_and_one_that_is_lost(nvml: Play) -> None:
    nvml("two")
    assert [gpu.name[-4:] for gpu in list_gpus().gpus] == ["0 Ti", "2060"]
    nvml("one_lost")
    report = list_gpus()
    assert [gpu.index for gpu in report.gpus] == [1]
    assert report.problem == "GPU 0 does not answer: GPU is lost."


def test_what_is_not_reported_is_none(nvml: Play) -> None:
    old = only(nvml, "unsupported")
    assert (old.temperature, old.power, old.power_limit, old.utilization, old.programs) == (None,) * 4 + ((),)
    assert old.total == 4041 * 2**20
    split = only(nvml, "mig")
    assert (split.mig, split.total, split.used, split.free) == (True, None, None, None)
    assert only(nvml, "unified").unified


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        ("none", "No NVIDIA driver is installed"),
        ("no_driver", "installed but not loaded"),
        ("mismatch", "was updated while it was running"),
        ("no_permission", "This user may not use"),
        ("no_gpu", "reports no GPU"),
    ],
)
def test_no_card(nvml: Play, machine: str, sentence: str) -> None:
    nvml(machine)
    report = list_gpus()
    assert report.gpus == [] and report.problem is not None and sentence in report.problem


def test_the_library_is_found_by_its_name(nvml: Play) -> None:
    program = (
        "import json; from engine.hardware import list_gpus; print(json.dumps([g.name for g in list_gpus().gpus]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment("two")}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout) == ["NVIDIA GeForce RTX 4060 Ti", "NVIDIA GeForce RTX 2060"]


def test_pynvml_is_as_before_afterwards(nvml: Play) -> None:
    before = pynvml.nvmlLib
    with playing("h200"):
        assert pynvml.nvmlLib is not before and list_gpus().gpus
    assert pynvml.nvmlLib is before
