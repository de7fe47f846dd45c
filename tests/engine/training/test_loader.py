"""Batches that are prepared while the step before computes: the same bytes, the same errors, no thread left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from engine.config import RunConfig
from engine.errors import DataError
from engine.exit_codes import ExitCode
from engine.runs import RunDir
from engine.training.batch_source import Batch, Inputs
from engine.training.loader import BatchLoader
from engine.training.objective import Noise
from engine.training.seeds import generator
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_changes import during, setting
from tests.engine.training.test_train import Train, digest, events, losses, nan_at

UPDATES, MICRO = 3, 2


@dataclass
class Source:
    """Three updates of two micro-batches; what a batch has is its place, the settings and a random number."""

    version: int = 0
    rank: int = 0
    config: RunConfig = field(default_factory=RunConfig)
    pixels_only: bool = False
    missing: set[int] = field(default_factory=set)
    """Items whose latents are not cached."""
    fails: dict[int, Exception] = field(default_factory=dict)
    """By item."""
    read: list[tuple[int, str]] = field(default_factory=list)
    """Items, each with the thread that read it."""

    @property
    def plan(self) -> Any:
        return SimpleNamespace(max_train_steps=UPDATES)

    def micro_batches(self, step: int) -> list[list[int]]:
        return [[step * MICRO + micro] for micro in range(MICRO)]

    def is_cached(self, indices: list[int], step: int) -> bool:
        return self.missing.isdisjoint(indices)

    def inputs(self, indices: list[int], step: int) -> Inputs:
        (item,) = indices
        self.read.append((item, threading.current_thread().name))
        if item in self.fails:
            raise self.fails[item]
        content = torch.tensor([[[[float(item), float(self.version)]]]])
        moments, pixels = (None, content) if self.pixels_only else (content, None)
        return Inputs([], moments, pixels, [None], [str(item)], {}, {}, torch.ones(1), torch.zeros(1, 6))

    def batch(self, inputs: Inputs, numbers: torch.Generator, objective: object) -> Batch:
        if inputs.moments is None:
            self.read.append((-1, threading.current_thread().name))
        content = inputs.pixels if inputs.moments is None else inputs.moments
        assert content is not None
        noise = Noise(torch.rand(1, 1, 1, 2, generator=numbers), torch.tensor([5]))
        return Batch(content, noise, inputs.captions, {}, inputs.text, inputs.weights, None, inputs.sizes)


def loader_of(source: Source) -> BatchLoader:
    return BatchLoader(cast("Any", source), cast("Any", None), torch.device("cpu"))


def content(batch: Batch) -> list[float]:
    return [*batch.latents.flatten().tolist(), *batch.noise.noise.flatten().tolist()]


def expected(source: Source, step: int, micro: int) -> list[float]:
    numbers = generator(source.config.training.seed, "step", step, micro, 0)
    return [float(step * MICRO + micro), float(source.version), *torch.rand(2, generator=numbers).tolist()]


def ahead(loader: BatchLoader) -> None:
    """Wait for what is prepared."""
    assert loader._next is not None
    loader._next[1].exception()


def in_the_thread(source: Source) -> list[int]:
    return [item for item, thread in source.read if thread.startswith("batches")]


def test_every_batch_but_the_first_is_prepared_by_the_thread_and_once() -> None:
    source = Source()
    with loader_of(source) as loader:
        for step in range(UPDATES):
            for micro in range(MICRO):
                assert content(loader.load(step, micro)) == pytest.approx(expected(source, step, micro), abs=0)
        assert loader._next is None, "nothing follows the last one"
    assert [item for item, _ in source.read] == list(range(6)) and in_the_thread(source) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("jump", [(0, 1), (2, 0), (0, 0)])
def test_another_step_than_the_expected_one_is_read_anew(jump: tuple[int, int]) -> None:
    source = Source()
    with loader_of(source) as loader:
        loader.load(0, 0), loader.load(0, 1)
        ahead(loader)
        assert content(loader.load(*jump)) == expected(source, *jump)


def test_a_change_of_settings_throws_away_what_was_prepared_with_the_old_ones() -> None:
    source = Source()
    with loader_of(source) as loader:
        loader.load(0, 0)
        ahead(loader)
        source.version += 1
        assert content(loader.load(0, 1)) == expected(source, 0, 1)
    assert [item for item, _ in source.read].count(1) == 2


def test_latents_that_are_still_to_be_encoded_are_not_read_ahead() -> None:
    source = Source(missing={1})
    with loader_of(source) as loader:
        loader.load(0, 0)
        ahead(loader)
        source.missing.clear()
        assert content(loader.load(0, 1)) == expected(source, 0, 1)
        ahead(loader)
    assert 1 not in in_the_thread(source) and 2 in in_the_thread(source)


def test_an_error_of_the_thread_is_raised_in_the_step_that_needs_the_batch() -> None:
    error = DataError(
        "The cached latent of p1.png is missing or damaged.", "Start again.", code="cached-latent-missing"
    )
    source = Source(fails={1: error})
    with loader_of(source) as loader:
        loader.load(0, 0)
        ahead(loader)
        with pytest.raises(DataError) as raised:
            loader.load(0, 1)
        assert raised.value is error


def test_an_error_in_a_batch_that_is_not_needed_is_nobodys() -> None:
    source = Source(fails={1: OSError(12, "Cannot allocate memory")})
    with loader_of(source) as loader:
        loader.load(0, 0)
        assert content(loader.load(2, 0)) == expected(source, 2, 0)
        source.fails[5] = OSError(5, "Input/output error")
    assert not threads()


@pytest.mark.parametrize("error", [None, RuntimeError("the step failed")])
def test_the_thread_ends_with_the_loader(error: RuntimeError | None) -> None:
    try:
        with loader_of(Source()) as loader:
            loader.load(0, 0)
            assert threads()
            if error is not None:
                raise error
    except RuntimeError as raised:
        assert raised is error
    assert not threads() and loader._next is None


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_the_thread_stops_at_pixels_that_the_step_encodes() -> None:
    source = Source(pixels_only=True)
    with loader_of(source) as loader:
        for micro in range(MICRO):
            assert content(loader.load(0, micro)) == expected(source, 0, micro)
            ahead(loader)
    assert in_the_thread(source) == [1, 2]


class Card:
    """torch.cuda as far as the loader uses it; the tensors stay on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.inside = threading.local()
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Stream", lambda device: SimpleNamespace(record_event=self.record))
        monkeypatch.setattr(cuda, "current_device", lambda: 1)
        monkeypatch.setattr(cuda, "device", lambda device: self.within("device", device.index == 1))
        monkeypatch.setattr(cuda, "stream", lambda stream: self.within("stream"))
        monkeypatch.setattr(cuda, "current_stream", lambda device: SimpleNamespace(wait_event=self.wait, name="step's"))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: self.pin(tensor))
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: self.to(tensor, *args, **kwargs))
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: self.use(stream))

    @contextmanager
    def within(self, name: str, value: bool = True) -> Iterator[None]:
        setattr(self.inside, name, value)
        yield
        setattr(self.inside, name, False)

    def record(self) -> str:
        assert self.inside.stream and self.inside.device
        self.calls.append("recorded")
        return "copied"

    def wait(self, event: str) -> None:
        assert event == "copied" and not getattr(self.inside, "stream", False)
        self.calls.append("waited")

    def pin(self, tensor: torch.Tensor) -> torch.Tensor:
        self.calls.append("pinned")
        return tensor

    def to(self, tensor: torch.Tensor, device: torch.device, *, non_blocking: bool = False) -> torch.Tensor:
        assert device == torch.device("cuda", 1) and non_blocking and self.calls[-1] == "pinned"
        self.calls.append(f"copied on the {'own' if getattr(self.inside, 'stream', False) else 'step'}'s stream")
        return tensor

    def use(self, stream: Any) -> None:
        assert stream.name == "step's"
        self.calls.append("used")


@pytest.mark.parametrize("pixels_only", [False, True])
def test_on_a_gpu_batches_are_pinned_and_copied_on_a_stream_of_their_own(
    pixels_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(monkeypatch)
    source = Source(pixels_only=pixels_only)
    with BatchLoader(cast("Any", source), cast("Any", None), torch.device("cuda")) as loader:
        loader.load(2, 0)
        ahead(loader)
        card.calls.clear()
        loader.load(2, 1)
    copies = ["pinned", f"copied on the {'step' if pixels_only else 'own'}'s stream"] * 5
    assert card.calls == (["waited", *copies, *["used"] * 5] if pixels_only else ["waited", *["used"] * 5])


def without_looking_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BatchLoader, "_following", lambda self, place: None)


LIVE: dict[str, tuple[dict[str, object], Callable[[pytest.MonkeyPatch], None]]] = {
    "an epoch's end, accumulation": (
        {"training__gradient_accumulation_steps": 2, "training__train_batch_size": 1, "dataset__shuffle_caption": True,
         "dataset__flip_aug": True},
        lambda patch: None,
    ),
    "a live change": (
        {"training__max_train_steps": 8},
        lambda patch: during(
            patch,
            {2: setting("dataset.caption_dropout_rate", 1.0), 4: setting("dataset.caption_dropout_rate", 0.0),
             6: setting("training.max_train_steps", 7)},
        ),
    ),
    "a roll back": (
        {"training__max_train_steps": 10, "dataset__shuffle_caption": True}, lambda patch: nan_at({5, 6, 7}, patch, 1)
    ),
    "pixels": ({"dataset__color_aug": True, "training__noise_offset": 0.05}, lambda patch: None),
    "cached on disk": (
        {"memory__cache_latents_to_disk": True, "network__network_train_unet_only": True,
         "memory__cache_text_encoder_outputs": True, "memory__cache_text_encoder_outputs_to_disk": True},
        lambda patch: None,
    ),
}  # fmt: skip


@pytest.mark.usefixtures("unread_files", "commands_at_once")
@pytest.mark.parametrize("case", LIVE)
def test_a_run_that_looks_ahead_is_the_one_that_does_not(
    case: str, make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, live = LIVE[case]
    runs, used = [], []
    prepared = BatchLoader._prepared

    def counted(self: BatchLoader, place: Any) -> Any:
        finish = prepared(self, place)
        used.append(finish is not None)
        return finish

    for name in ("ahead", "alone"):
        run = make_run(name, **{"sampling__sample_every_n_steps": 0, **settings})
        with monkeypatch.context() as patch:
            live(patch)
            if name == "alone":
                without_looking_ahead(patch)
            else:
                patch.setattr(BatchLoader, "_prepared", counted)
            assert train_here(run) == ExitCode.DONE
        runs.append(run)
    assert losses(runs[0]) == losses(runs[1]) and digest(runs[0]) == digest(runs[1])
    read_anew = {"a live change": 4, "a roll back": 2}.get(case, 1)
    assert used.count(False) == read_anew and used.count(True) >= 3
    assert not threads()


@pytest.mark.usefixtures("unread_files")
def test_out_of_memory_in_the_thread_is_out_of_memory(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(sampling__sample_every_n_steps=0, saving__save_state_every_n_steps=50)
    prepare = BatchLoader._prepare

    def short(self: BatchLoader, place: Any) -> Any:
        if place.step == 3:
            assert threading.current_thread().name.startswith("batches")
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return prepare(self, place)

    monkeypatch.setattr(BatchLoader, "_prepare", short)
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    (event,) = events(run, "oom")
    assert (event.data["phase"], event.data["step"], event.data["requested"]) == ("train", 3, 9)
    assert saved_steps(run) == [0, 3] and not threads(), "the last good step is kept"


def saved_steps(run: RunDir) -> list[int]:
    return [event.data["step"] for event in events(run, "state_saved")]
