"""The numbers of an out-of-memory, and its sentence."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest

from engine.hardware.system import memory
from engine.oom.shortage import measure
from engine.runs.shortage import Shortage

REFUSED = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999999 bytes")


@pytest.fixture
def limited() -> Iterator[int]:
    """This process may use 64 GiB of address space."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = 64 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_under_an_address_space_limit(limited: int) -> None:
    shortage = measure(REFUSED, phase="train", step=7)
    assert (shortage.phase, shortage.step, shortage.device, shortage.total) == ("train", 7, "cpu", limited)
    assert shortage.requested == 99999999999999
    assert shortage.free is not None and shortage.reserved is not None and shortage.free + shortage.reserved == limited
    assert shortage.allocated is not None and 0 < shortage.allocated < shortage.reserved


def test_without_a_limit_it_is_the_machine_that_is_full() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("the tests themselves run under an address-space limit")
    shortage = measure(REFUSED, phase="cache", step=0)
    assert shortage.total == memory()[0] <= psutil.virtual_memory().total


def test_what_was_given_back_before_the_look_does_not_count_as_free(limited: int) -> None:
    shortage = measure(RuntimeError("can't allocate memory: you tried to allocate 4096 bytes"), phase="train", step=1)
    assert shortage.requested == 4096 and shortage.free is None and shortage.total == limited


def test_an_error_without_words() -> None:
    assert measure(MemoryError(), phase="load", step=0).message == "MemoryError"


def test_sentences() -> None:
    full = Shortage("train", 57, "no", "cuda:0", requested=2**31, free=2**29, total=2**34)
    assert full.sentence() == (
        "Memory ran out while training on cuda:0, after step 57: 2.0 GiB more were asked for, 512.0 MiB of 16.0 GiB "
        "were free."
    )
    some = Shortage("cache", 0, "no", "cpu", total=2**34)
    assert some.sentence() == "Memory ran out while caching on cpu, after step 0: 16.0 GiB is all there is."
    bare = Shortage("start", 0, "std::bad_alloc", "cpu")
    assert bare.sentence() == "Memory ran out while starting on cpu, after step 0: std::bad_alloc."
    assert full.as_event()["reserved"] is None


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


def card(**answers: object) -> SimpleNamespace:
    """What stands for torch on a machine with two cards."""
    usual = {
        "is_initialized": lambda: True,
        "current_device": lambda: 1,
        "memory_stats": lambda _: {"allocated_bytes.all.current": 5, "reserved_bytes.all.current": 7},
        "mem_get_info": lambda _: (1, 9),
    }
    return SimpleNamespace(cuda=SimpleNamespace(**{**usual, **answers}))


def test_on_a_card_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", card())
    shortage = measure(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), phase="train", step=3)
    assert shortage == Shortage(
        "train",
        3,
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "cuda:1",
        2 * 2**30,
        1,
        9,
        allocated=5,
        reserved=7,
    )


def test_the_message_knows_better_what_was_free_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", card())
    message = "Tried to allocate 20.00 MiB. GPU 1 has a total capacity of 8.00 GiB of which 6.00 MiB is free."
    shortage = measure(OutOfMemoryError(message), phase="train", step=3)
    assert (shortage.free, shortage.total, shortage.allocated) == (6 * 2**20, 8 * 2**30, 5)


def test_a_card_that_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def dead(_: int) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setitem(sys.modules, "torch", card(memory_stats=dead))
    shortage = measure(OutOfMemoryError("CUDA error: out of memory"), phase="train", step=3)
    assert (shortage.device, shortage.free, shortage.total, shortage.allocated) == ("cuda:1", None, None, None)
