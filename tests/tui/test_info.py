"""`lorasmith info` on machines that are not there: what keeps a GPU unused, in the words of the step Hardware."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.hardware import list_gpus
from engine.hardware.torch_build import TorchBuild
from engine.paths import ASSETS
from tests.nvml.fake import CUDA_TORCH, MACHINES
from tests.refusals import refused
from tui.main import run
from tui.setup.configuration import read
from tui.setup.preflight import preflight
from tui.text.hardware import MIG, Surroundings, headline, place_facts, places, warnings
from tui.text.vram_text import used_card

CPU_ONLY, OLD_CUDA, ROCM = TorchBuild("2.13.0+cpu", None), TorchBuild("2.13.0", "14.0"), TorchBuild("2.13.0+rocm", None)
Play = Callable[..., None]


def info(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["info", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("machine", ["rtx2060", "rtx4060ti", "h200", "two", "one_lost", "mig", "unified"])
@pytest.mark.parametrize("build", [CPU_ONLY, OLD_CUDA, ROCM])
def test_a_pytorch_that_leaves_the_gpu_unused_is_reported(
    nvml: Play, capsys: pytest.CaptureFixture[str], machine: str, build: TorchBuild
) -> None:
    nvml(machine, torch=build)
    obstacle = build.obstacle(list_gpus())
    assert obstacle is not None
    lines = info(capsys)
    assert f"! {' '.join(obstacle)}\n" in lines
    assert "Precision: fp32 (bf16 has no benefit on a CPU)" in lines and "bf16 (compute" not in lines
    report = json.loads(info(capsys, "--json"))
    assert report["warnings"] == [" ".join(obstacle)] and report["precision"]["value"] == "no"


@pytest.mark.parametrize("machine", ["rtx2060", "rtx4060ti", "h200", "two", "unified"])
def test_a_pytorch_that_fits_is_no_matter(nvml: Play, capsys: pytest.CaptureFixture[str], machine: str) -> None:
    nvml(machine, torch=CUDA_TORCH)
    lines = info(capsys)
    assert "! " not in lines and "compute capability" in lines
    assert json.loads(info(capsys, "--json"))["warnings"] == []


@pytest.mark.parametrize("machine", ["no_gpu", "none", "no_driver"])
def test_without_a_gpu_there_is_nothing_to_leave_unused(
    nvml: Play, capsys: pytest.CaptureFixture[str], machine: str
) -> None:
    nvml(machine, torch=CPU_ONLY)
    assert "leaves the GPU unused" not in info(capsys)


def test_instances_shared_memory_and_hidden_gpus_are_reported(
    nvml: Play, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvml("mig", torch=CUDA_TORCH)
    assert MIG in info(capsys)
    nvml("unified", torch=CUDA_TORCH)
    assert "shared with the machine, the GPU has none of its own" in info(capsys)
    nvml("two", torch=CUDA_TORCH)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert "hidden by CUDA_VISIBLE_DEVICES" in info(capsys)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("build", [CUDA_TORCH, CPU_ONLY, OLD_CUDA, ROCM])
def test_info_and_the_step_hardware_report_the_same(
    nvml: Play, capsys: pytest.CaptureFixture[str], machine: str, build: TorchBuild
) -> None:
    nvml(machine, torch=build)
    report, around = list_gpus(), Surroundings.read()
    lines = info(capsys).splitlines()
    top = headline(report, build)
    assert lines[0].startswith(top[0]) or not warnings(report, build), "what leaves the GPU unused comes first"
    assert all(any(line.startswith(text) for line in lines) for text in top)
    single = [place for place in places(report, build, "auto") if not place.together]  # that is a choice, no hardware
    facts = [fact for place in single for fact in place_facts(place, "auto", report, around)]
    texts = [text for title, text in facts if title not in ("Speed", "bf16", "Precision")]
    printed = "\n".join(lines)
    assert all(text.removeprefix("! ") in printed for text in texts)
    assert bool(warnings(report, build)) == ("pip install" in printed) == ("uv pip" in printed)


@pytest.mark.parametrize("build", [CPU_ONLY, OLD_CUDA])
def test_a_run_that_asks_for_that_gpu_does_not_start_and_automatic_reports_it(
    nvml: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: TorchBuild
) -> None:
    monkeypatch.chdir(tmp_path)
    nvml("h200", torch=build)
    demo = read("demo", ["dataset.min_images=1"], images=str(ASSETS / "demo_pictures"))
    with refused("device-not-usable", "memory.device=cuda:0", "PyTorch", "memory.device=cpu"):
        preflight(demo.changed(memory={"device": "cuda:0"}))
    automatic = preflight(demo.changed(memory={"device": "auto"}))
    assert [note for note in automatic.changes if note.startswith("PyTorch")]
    assert "on a CPU" in automatic.precision and used_card(automatic.config) is None


@pytest.mark.parametrize(
    ("machine", "precision", "better"),
    [
        ("rtx2060", "fp8_w8a8", "to int8_w8a8, or to fp8"),
        ("rtx2060", "int8_w8a8", ""),
        ("rtx4060ti", "fp8_w8a8", ""),
        ("h200", "int8_w8a8", ""),
    ],
)
def test_products_that_the_card_lacks_are_refused_before_the_start(
    nvml: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, precision: str, better: str
) -> None:
    monkeypatch.chdir(tmp_path)
    nvml(machine, torch=CUDA_TORCH)
    demo = read("demo", ["dataset.min_images=1"], images=str(ASSETS / "demo_pictures"))
    memory = {"device": "cuda:0", "base_precision": precision}
    asked = demo.changed(memory=memory, training={"num_processes": 1})
    if not better:
        assert "compute capability" in preflight(asked).precision
        return
    with refused("products-not-possible", "memory.base_precision", precision, "7.5", better):
        preflight(asked)
