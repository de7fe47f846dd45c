"""What the step of the hardware says of each kind of machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.hardware import Gpu, GpuReport, list_gpus
from engine.hardware.gpu import Program
from engine.hardware.system import System
from engine.hardware.torch_build import TorchBuild
from tui.text.hardware import Surroundings, headline, machine_facts, place_facts, places

Play = Callable[..., None]
CUDA = TorchBuild("2.13.0", "13.0")
CPU_ONLY = TorchBuild("2.13.0+cpu", None)
GIB = 2**30


def around(build: TorchBuild = CUDA, logout: str | None = None, container: bool = False) -> Surroundings:
    system = System("Linux 6", "Some CPU", 8, 16, 32 * GIB, 20 * GIB, container)
    return Surroundings(system, build, Path("/work"), 100 * GIB, logout)


def facts(device: str, build: TorchBuild = CUDA, precision: str = "auto") -> dict[str, str]:
    """The facts about a place of the played machine."""
    report = list_gpus()
    place = next(place for place in places(report, build, device) if place.device == device)
    return dict(place_facts(place, precision, report, around(build)))  # type: ignore[arg-type]


def test_a_card_without_bf16(nvml: Play) -> None:
    nvml("rtx2060")
    lines = facts("cuda:0")
    assert lines["VRAM"].startswith("6.0 GiB, 1.3 GiB used, 4.7 GiB free")
    assert lines["Now"] == "44 °C, 18 of 160 W, 4 % busy"
    assert lines["Programs"] == "blender 512.0 MiB, firefox 403.0 MiB, Xorg 322.0 MiB"
    assert lines["Compute"] == "compute capability 7.5, 1920 CUDA cores, up to 2100 MHz"
    assert lines["bf16"] == "not supported (it needs compute capability 8.0, this is 7.5)"
    assert lines["Precision"] == "fp16 (compute capability 7.5, bf16 needs 8.0)"
    assert "PyTorch" not in lines
    assert facts("cuda:0", precision="bf16")["Precision"].startswith("! memory.mixed_precision is bf16, but")


def test_cards_with_bf16(nvml: Play) -> None:
    for machine, total in (("rtx4060ti", "16.0 GiB"), ("h200", "140.4 GiB")):
        nvml(machine)
        lines = facts("auto")
        assert lines["VRAM"].startswith(total) and lines["bf16"].startswith("supported ")
        assert lines["Precision"].startswith("bf16 (")
    assert lines["Programs"] == "no other program is using it"


def test_what_the_driver_does_not_report(nvml: Play) -> None:
    nvml("unsupported")
    lines = facts("cuda:0")
    assert lines["Now"] == "temperature unknown, power unknown, use unknown"
    assert lines["Precision"] == "fp32 (compute capability 5.0, fp16 needs 5.3)"
    assert "Install a build for CUDA 12.6" in lines["PyTorch"]
    assert headline(list_gpus(), CUDA)[0].startswith("! GPU 0: PyTorch") and headline(list_gpus(), None)[0][0] == "N"
    nvml("mig")
    lines = facts("cuda:0")
    assert lines["VRAM"] == "unknown: the driver does not report it" and "one instance" in lines["MIG"]
    nvml("unified")
    assert "shared with the machine" in facts("cuda:0")["VRAM"]
    bare = GpuReport([Gpu(0, "GPU 0", programs=(Program(7, None, None),))])
    lines = dict(place_facts(places(bare, CUDA, "auto")[1], "auto", bare, None))
    assert lines["bf16"].startswith("unknown: ") and lines["Programs"] == "process 7 unknown"


@pytest.mark.parametrize("machine", ["none", "no_driver", "mismatch", "no_permission", "no_gpu"])
def test_without_a_gpu_the_cpu_stays(nvml: Play, machine: str) -> None:
    nvml(machine)
    report = list_gpus()
    assert headline(report, CUDA) == [f"! {report.problem}"]
    assert [place.device for place in places(report, CUDA, "auto")] == ["auto", "cpu"]
    lines = facts("auto")
    assert "hours to days" in lines["Speed"] and lines["Precision"].startswith("fp32 (") and "PyTorch" not in lines


def test_one_of_two_is_lost(nvml: Play) -> None:
    nvml("one_lost")
    assert headline(list_gpus(), CUDA) == [
        "! GPU 0 does not answer: GPU is lost.", "NVIDIA driver 580.95.05, CUDA up to 13.0"
    ]  # fmt: skip


def test_a_torch_for_the_cpu_next_to_a_gpu(nvml: Play) -> None:
    nvml("rtx4060ti")
    assert places(list_gpus(), CPU_ONLY, "auto")[0].title == "Automatic: the CPU"
    assert places(list_gpus(), CUDA, "auto")[0].title == "Automatic: GPU 0"
    for device in ("auto", "cuda:0", "cpu"):
        assert "pip install --force-reinstall torch --index-url" in facts(device, CPU_ONLY)["PyTorch"]


def test_what_is_hidden_or_chosen(nvml: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml("two")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    report = list_gpus()
    assert [(place.device, place.title[:14]) for place in places(report, CUDA, "auto")][1:2] == [
        ("cuda:0", "GPU 1: NVIDIA ")
    ]
    assert "GPU 0 is hidden by CUDA_VISIBLE_DEVICES." in headline(report, CUDA)
    assert [place.device for place in places(report, CUDA, "cuda")] == ["auto", "cuda", "cpu"]
    gone = places(report, CUDA, "cuda:1")[-1]
    assert (gone.device, gone.here) == ("cuda:1", False)
    assert "not here" in dict(place_facts(gone, "auto", report, None))[""]


def test_the_machine() -> None:
    lines = dict(machine_facts(around(logout="Ends at logout.", container=True), 16 * GIB, 9 * GIB))
    assert lines == {
        "CPU": "Some CPU, 8 cores, 16 threads",
        "RAM": "16.0 GiB, 9.0 GiB free (of this container)",
        "Disk": "100.0 GiB free in /work",
        "PyTorch": "2.13.0, built for CUDA 13.0",
        "Logout": "! Ends at logout.",
    }
    assert dict(machine_facts(around(TorchBuild(None, None)), GIB, GIB))["PyTorch"].startswith("! not installed")
