"""Versions are reported without importing what they are of."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys

import pytest

from engine import __version__
from engine.hardware.packages import torch_cuda, versions


def test_versions(fake_nvml):
    fake_nvml()
    table = versions()
    assert list(table) == ["lorasmith", "python", "torch", "diffusers", "peft", "transformers", "accelerate", "cuda",
                          "driver"]  # fmt: skip
    assert (table["lorasmith"], table["python"], table["driver"]) == (
        __version__,
        platform.python_version(),
        "580.65.06",
    )
    assert table["peft"] == importlib.metadata.version("peft")


def test_a_package_that_is_missing(monkeypatch):
    monkeypatch.setattr("engine.hardware.packages.PACKAGES", ("torch", "no-such-package"))
    assert versions()["no-such-package"] is None


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("from typing import Optional\ncuda: Optional[str] = '13.0'\n", "13.0"),
        ("cuda = '12.8'\n", "12.8"),
        ("cuda: str | None = None\n", None),
        ("other = '1'\n", None),
        ("this is no python", None),
    ],
)
def test_cuda_of_the_torch_build(tmp_path, text, cuda):
    (tmp_path / "version.py").write_text(text)
    assert torch_cuda(tmp_path) == cuda


def test_cuda_of_a_folder_without_torch(tmp_path):
    assert torch_cuda(tmp_path) is None


def test_hardware_imports_nothing_heavy():
    program = (
        "import sys, engine.hardware; from engine.hardware.system import read_system; from engine.hardware "
        "import versions; engine.hardware.list_gpus(); read_system(); versions(); "
        "print(*({'torch', 'numpy', 'textual', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
