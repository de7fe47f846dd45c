"""The cache of compiled blocks: the second process finds what the first one compiled, in a folder that is safe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.lowmem import compile_cache
from engine.lowmem.compile_cache import VARIABLE, cache_folder, keep_compiled, shrink

COMPILING = """
import json, os, sys, torch
import torch._dynamo
assert "/torchinductor_" in os.environ["TORCHINDUCTOR_CACHE_DIR"], "torch does not choose a folder when it is imported"
from engine.lowmem.compile_cache import keep_compiled
from engine.lowmem.compiled import why_broken
keep_compiled(sys.exit)
assert not why_broken(torch.device("cpu"))
counters = torch._dynamo.utils.counters["inductor"]
print(json.dumps([counters["fxgraph_cache_miss"], counters["fxgraph_cache_hit"]]))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)


def test_a_second_process_compiles_nothing_again() -> None:
    runs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-P", "-c", COMPILING], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    (misses, hits), (again, hits_again) = runs
    assert misses > 0 and hits == 0
    assert again == 0 and hits_again == misses
    assert any(cache_folder().iterdir())


def test_the_cache_is_the_users_own(tmp_path: Path) -> None:
    messages: list[str] = []
    keep_compiled(messages.append)
    assert os.environ[VARIABLE] == str(cache_folder()) and not messages
    assert cache_folder().is_relative_to(tmp_path) and cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_folder_that_the_environment_names_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "elsewhere"))
    keep_compiled(pytest.fail)
    assert os.environ[VARIABLE] == str(tmp_path / "elsewhere") and not cache_folder().exists()


def _writable_by_all(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o777)


def _a_link(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.symlink_to(place.parent)


def _a_file(place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.touch()


@pytest.mark.parametrize("unsafe", [_writable_by_all, _a_link, _a_file])
def test_what_others_may_have_written_is_not_executed(unsafe: object, monkeypatch: pytest.MonkeyPatch) -> None:
    unsafe(cache_folder())  # type: ignore[operator]
    at_the_end: list[tuple[object, ...]] = []
    monkeypatch.setattr(compile_cache.atexit, "register", lambda *call, **_: at_the_end.append(call))
    messages: list[str] = []
    keep_compiled(messages.append)
    place = Path(os.environ[VARIABLE])
    assert place != cache_folder() and place.is_dir() and place.stat().st_mode & 0o777 == 0o700
    assert messages[0].startswith("Compiled blocks are not kept for the next run: ")
    ((remove, removed),) = at_the_end
    assert removed == place
    remove(place)  # type: ignore[operator]
    assert not place.exists()


def test_what_was_not_used_for_the_longest_time_is_removed(tmp_path: Path) -> None:
    now = time.time()
    ages = {"a/old": 30, "b/older": 90, "b/newer": 3, "today": 0}
    for name, days in ages.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 100)
        os.utime(path, (now - days * 86400, now - 100 * 86400))

    def left() -> set[str]:
        return {name for name in ages if (tmp_path / name).exists()}

    shrink(tmp_path, 400)
    assert left() == set(ages)
    shrink(tmp_path, 250)
    assert left() == {"b/newer", "today"}
    shrink(tmp_path, 0)
    assert left() == {"today"}
