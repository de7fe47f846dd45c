"""The list of GPUs against a stand-in driver: what is reported, and what is missing, broken or forbidden."""

from __future__ import annotations

import sys

import psutil
import pynvml
import pytest

from engine.hardware import gpu as module
from engine.hardware import gpu_number, gpu_of
from engine.hardware.gpu import Gpu, GpuReport, list_gpus
from engine.hardware.nvml import driver_version


@pytest.fixture(autouse=True)
def _no_container(monkeypatch):
    monkeypatch.setattr(module, "in_container", lambda: False)


def test_everything_that_a_working_card_reports(fake_nvml, make_card, make_process):
    programs = [make_process(11, 2**30), make_process(12, 3 * 2**30)]
    graphics = [make_process(2**30, None)]
    nvml = fake_nvml([make_card(ComputeRunningProcesses=programs, GraphicsRunningProcesses=graphics)],
                     names={11: "/usr/bin/firefox -x", 12: "C:\\My Games\\game.exe"})  # fmt: skip
    report = list_gpus()
    assert (report.problem, report.driver, report.cuda) == (None, "580.65.06", "13.0")
    (card,) = report.gpus
    assert (card.index, card.name, card.uuid) == (0, "NVIDIA GeForce RTX 3060", "GPU-aaaa1111-0000")
    assert (card.total, card.used, card.free) == (12 * 2**30, 2 * 2**30, 10 * 2**30)
    assert (card.compute_capability, card.temperature, card.power) == ((8, 6), 41, 35.5)
    assert (card.power_limit, card.utilization, card.cores, card.clock_max) == (170.0, 7, 3584, 2100)
    assert not card.mig
    assert not card.unified
    assert [(program.pid, program.name, program.bytes) for program in card.programs] == [
        (12, "game.exe", 3 * 2**30), (11, "firefox", 2**30), (2**30, None, None),
    ]  # fmt: skip
    assert nvml.closed == 1


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "No NVIDIA driver is installed"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "installed but not loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "was updated while it was running"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "This user may not use"),
        (pynvml.NVML_ERROR_TIMEOUT, "does not answer: Timeout"),
    ],
)
def test_a_driver_that_does_not_start(fake_nvml, code, error, sentence):
    fake_nvml(init=code(error))
    report = list_gpus()
    assert report.gpus == []
    assert sentence in report.problem
    assert driver_version() is None


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert list_gpus().problem == "The Python package nvidia-ml-py is not installed, so no GPU can be looked up."


def test_a_driver_without_a_gpu(fake_nvml, code):
    fake_nvml()
    assert "reports no GPU" in list_gpus().problem
    fake_nvml(count=code(pynvml.NVML_ERROR_UNKNOWN))
    assert "reports no GPU" in list_gpus().problem


def test_one_lost_gpu_hides_no_other(fake_nvml, make_card, code):
    fake_nvml([code(pynvml.NVML_ERROR_GPU_IS_LOST), make_card()])
    report = list_gpus()
    assert [card.index for card in report.gpus] == [1]
    assert report.problem == "GPU 0 does not answer: GPU is lost."


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION,
                                   pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_UNKNOWN])  # fmt: skip
def test_a_card_that_reports_nothing(fake_nvml, make_card, code, error):
    fake_nvml([{question: code(error) for question in make_card()}])
    (card,) = list_gpus().gpus
    assert card.name == "GPU 0"
    assert (card.uuid, card.compute_capability, card.temperature, card.power, card.programs) == (None,) * 4 + ((),)
    assert (card.power_limit, card.utilization, card.cores, card.clock_max) == (None,) * 4
    assert (card.total is not None) == card.unified == (error == pynvml.NVML_ERROR_NOT_SUPPORTED)


def test_shared_memory_is_the_machines(fake_nvml, make_card, code):
    fake_nvml([make_card(MemoryInfo=code(pynvml.NVML_ERROR_NOT_SUPPORTED), Name="NVIDIA GB10")])
    (card,) = list_gpus().gpus
    assert card.unified
    assert card.total == psutil.virtual_memory().total == card.used + card.free


def test_a_split_card(fake_nvml, make_card, code):
    fake_nvml([make_card(MigMode=[1, 1], MemoryInfo=code(pynvml.NVML_ERROR_NOT_SUPPORTED))])
    (card,) = list_gpus().gpus
    assert card.mig
    assert (card.total, card.unified) == (None, False)


def test_in_a_container_the_hosts_process_numbers_get_no_names(fake_nvml, make_card, make_process, monkeypatch):
    monkeypatch.setattr(module, "in_container", lambda: True)
    fake_nvml([make_card(ComputeRunningProcesses=[make_process(1, 2**30)])], names={1: "/sbin/init"})
    (program,) = list_gpus().gpus[0].programs
    assert (program.pid, program.name, program.bytes) == (1, None, 2**30)


def test_a_name_that_only_the_system_knows(fake_nvml, make_card, make_process):
    own = psutil.Process()
    fake_nvml([make_card(ComputeRunningProcesses=[make_process(own.pid, 1)])])
    assert list_gpus().gpus[0].programs[0].name == own.name()


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2]), ("", []), ("1", [1]), ("2,0", [2, 0]), (" 1 , 2 ", [1, 2]), ("-1", []), ("1,7,0", [1]),
        ("GPU-bb", [1]), ("GPU-cc,GPU-aa", [2, 0]), ("GPU-", []), ("1,1", [1]), ("all", []),
    ],
)  # fmt: skip
def test_what_cuda_will_see(value, indices):
    report = GpuReport([Gpu(index, "x", uuid=f"GPU-{letter * 4}") for index, letter in enumerate("abc")])
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert [card.index for card in report.visible(environment)] == indices


@pytest.mark.parametrize(
    ("device", "number"), [("cpu", None), ("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:12", 12)]
)
def test_the_gpu_that_a_device_means(device: str, number: int | None) -> None:
    cards = [Gpu(4, "first that CUDA counts"), Gpu(2, "second")]
    assert gpu_number(device) == number
    assert gpu_of(device, cards) == (cards[number] if number is not None and number < 2 else None)
