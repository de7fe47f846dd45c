"""CPU, memory, disk and container, read from files as a system has them."""

from __future__ import annotations

import os

import psutil
import pytest

from engine.hardware import system


def _write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_this_machine():
    seen = system.read_system()
    assert seen.cpu
    assert seen.os
    assert 1 <= seen.threads <= (os.cpu_count() or 1)
    assert seen.cores >= 1
    assert 0 <= seen.memory_free <= seen.memory_total <= psutil.virtual_memory().total


def test_cpu_name(tmp_path):
    _write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name\t: AMD  Ryzen 7\nmodel name\t: other\n")
    assert system.cpu_name(tmp_path) == "AMD Ryzen 7"
    assert system.cpu_name(tmp_path / "none")


@pytest.mark.parametrize(
    ("path", "text", "container"),
    [
        (".dockerenv", "", True),
        ("run/.containerenv", "", True),
        ("proc/1/cgroup", "0::/kubepods/pod1\n", True),
        ("proc/1/cgroup", "0::/init.scope\n", False),
    ],
)
def test_container(tmp_path, path, text, container):
    _write(tmp_path, path, text)
    assert system.in_container(tmp_path) == container


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000\n", "memory.current": "400\n"}, (1000, 400)),
        ({"memory.max": "max\n", "memory.current": "400\n"}, (None, None)),
        ({"memory/memory.limit_in_bytes": "2000\n", "memory/memory.usage_in_bytes": "1\n"}, (2000, 1)),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_memory_limit(tmp_path, files, expected):
    for path, text in files.items():
        _write(tmp_path, f"sys/fs/cgroup/{path}", text)
    assert system._container_memory(tmp_path) == expected


def test_a_container_has_its_own_memory(monkeypatch):
    monkeypatch.setattr(system, "_container_memory", lambda: (2**20, 2**19))
    seen = system.read_system()
    assert (seen.memory_total, seen.memory_free) == (2**20, 2**19)


def test_disk_free_of_a_folder_that_is_not_yet_there(tmp_path):
    assert system.disk_free(tmp_path / "a/b") == pytest.approx(system.disk_free(tmp_path), rel=0.2)
    assert system.disk_free(tmp_path) > 0
