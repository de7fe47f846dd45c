"""The numbers of an out-of-memory, and its sentence."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import psutil
import pytest

from engine.hardware.system import memory
from engine.memory.shortage import Shortage, measure

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
    found = measure(REFUSED, phase="train", step=7)
    assert (found.phase, found.step, found.device, found.total) == ("train", 7, "cpu", limited)
    assert found.requested == 99999999999999
    assert found.free is not None and found.reserved is not None and found.free + found.reserved == limited
    assert found.allocated is not None and 0 < found.allocated < found.reserved


def test_without_a_limit_it_is_the_machine_that_is_full() -> None:
    if resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        pytest.skip("the tests themselves run under an address-space limit")
    found = measure(REFUSED, phase="cache", step=0)
    assert found.total == memory()[0] <= psutil.virtual_memory().total


def test_what_was_given_back_before_the_look_does_not_count_as_free(limited: int) -> None:
    found = measure(RuntimeError("can't allocate memory: you tried to allocate 4096 bytes"), phase="train", step=1)
    assert found.requested == 4096 and found.free is None and found.total == limited


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
