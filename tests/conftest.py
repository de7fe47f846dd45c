"""What holds for every test: accelerate keeps its state in the process, and a trainer expects a process of its own."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

with suppress(ImportError):  # the tests on a GPU run without it
    from hypothesis import settings

    # A busy machine is no failure, and the same examples are tried each time.
    settings.register_profile("tests", deadline=None, derandomize=True)
    settings.load_profile("tests")

# Where this is set, as in many containers, every process that a test starts would compile all its modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it again and again, nor look so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Every error that a command of this process showed, the newest last."""
    from tui.shell import output

    errors: list[Exception] = []
    show = output.show_error
    monkeypatch.setattr(output, "show_error", lambda error: (errors.append(error), show(error)))
    return errors


@pytest.fixture
def nvml() -> Iterator[Callable[..., None]]:
    """nvml("rtx2060", load=97, torch=...): from now on this process has that machine's GPUs (tests/nvml)."""
    from tests.nvml.fake import NoCompiler, library, playing

    try:
        library()
    except NoCompiler as reason:
        pytest.skip(str(reason))
    with ExitStack() as stack:
        yield lambda machine, **options: stack.enter_context(playing(machine, **options))
