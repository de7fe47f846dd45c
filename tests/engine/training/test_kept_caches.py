"""Which caches stay on the GPU, whose memory is played; what is read from them is the same to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from engine.config import RunConfig
from engine.config.changes import unchanged
from engine.dataset.store import TensorStore
from engine.estimate.plan import GIB, Need, Plan
from engine.exit_codes import ExitCode
from engine.training import kept_caches, trainer
from engine.training.kept_caches import fitting, keep_small_caches, room_of
from engine.training.prepare import Prepared
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_train import Train, digest, losses

MIB = 2**20


def plan(gib: float) -> Plan:
    return Plan("cuda", "bf16", (Need("train", 0, int(gib * GIB)), Need("load", 0, GIB)))


@pytest.mark.parametrize(
    ("total", "free", "reserved", "known", "room"),
    [
        (8, 4, 3, None, 8 * GIB // 50),  # 2 % of the card
        (80, 60, 3, None, 256 * MIB),
        (80, 0.125, 3, None, 128 * MIB),  # not more than is free
        (10, 6.3, 3, 5.0, 2 * GIB),  # 6.3 less the driver's 0.3 and the 2 that are still to come, half of that
        (10, 6.3, 6, 5.0, 3 * GIB),  # the plan's peak is behind us
        (10, 2.2, 3, 5.0, 0),
        (10, 0.1, 3, 5.0, 0),  # other programs took it
    ],
)
def test_the_room(total: float, free: float, reserved: float, known: float | None, room: int) -> None:
    of_plan = None if known is None else plan(known)
    result = room_of(int(total * GIB), int(free * GIB), int(reserved * GIB), of_plan)
    assert result == pytest.approx(room, abs=2)


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({}, []),
        ({"texts": 60, "latents": 40}, ["latents", "texts"]),
        ({"texts": 61, "latents": 40}, ["latents"]),
        ({"texts": 10, "latents": 101}, ["texts"]),
        ({"texts": 101, "latents": 102}, []),
    ],
)
def test_the_smallest_that_fit_together(sizes: Mapping[str, int], names: list[str]) -> None:
    assert fitting(sizes, 100) == names


class Cache:
    """A cache of some bytes."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes

    def on_device(self, device: torch.device) -> str:
        return f"on {device}"


@pytest.mark.parametrize(
    ("device", "texts", "latents", "training", "kept"),
    [
        ("cuda:0", 30, 70, {}, ("on cuda:0", "on cuda:0", 100)),
        ("cuda:0", 30, 900, {}, ("on cuda:0", None, 30)),
        ("cuda:0", None, 70, {}, (None, "on cuda:0", 70)),
        ("cuda:0", 30, 70, {"adaptive_noise_scale": 0.1, "noise_offset": 0.1}, ("on cuda:0", None, 30)),
        ("cpu", 30, 70, {}, (None, None, 0)),
    ],
)
def test_what_a_run_keeps(
    device: str,
    texts: int | None,
    latents: int,
    training: dict[str, float],
    kept: tuple[str | None, str | None, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (9 * GIB, 10 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: GIB)
    monkeypatch.setattr(kept_caches, "_known_plan", lambda *_: plan(9.5 - 400 * MIB / GIB))
    batches = SimpleNamespace(
        latents=Cache(latents * MIB), texts=None if texts is None else Cache(texts * MIB), kept_latents=None,
        kept_texts=None,
    )  # fmt: skip
    prepared = cast("Any", SimpleNamespace(batches=batches, accelerator=SimpleNamespace(device=torch.device(device))))
    notes: list[str] = []
    size = keep_small_caches(prepared, unchanged(RunConfig().changed(training=training)), notes.append)
    assert (batches.kept_texts, batches.kept_latents, size // MIB) == kept
    assert bool(notes) == bool(size) and all("MiB, stay on the GPU" in note for note in notes)


@pytest.mark.usefixtures("unread_files")
def test_batches_of_kept_caches_are_the_same_and_read_once(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU as the device: only where the tensors are differs."""
    settings = {
        "memory__cache_latents_to_disk": True, "memory__cache_text_encoder_outputs": True,
        "memory__cache_text_encoder_outputs_to_disk": True, "network__network_train_unet_only": True,
        "sampling__sample_every_n_steps": 0, "dataset__flip_aug": True,
    }  # fmt: skip
    loaded: list[str] = []
    load = TensorStore.load

    def counted(self: TensorStore, key: str) -> Any:
        loaded.append(key)
        return load(self, key)

    def keep(prepared: Prepared, *_: object) -> int:
        batches = prepared.batches
        assert batches.latents is not None and batches.texts is not None
        images = {item.image.path: item for item in batches.items}.values()
        moments = [batches.latents.get(item, flip)[0] for item in images for flip in (False, True)]
        assert batches.latents.nbytes == sum(tensor.nbytes for tensor in moments) and batches.texts.nbytes > 0
        batches.kept_latents = batches.latents.on_device(batches.device)
        batches.kept_texts = batches.texts.on_device(batches.device)
        loaded.clear()
        return 0

    runs = [make_run(place, **settings) for place in ("copied", "kept")]
    assert train_here(runs[0]) == ExitCode.DONE
    monkeypatch.setattr(trainer, "keep_small_caches", keep)
    monkeypatch.setattr(TensorStore, "load", counted)
    monkeypatch.setattr("engine.training.checks.Checks.losses", lambda *_: None)
    monkeypatch.setattr("engine.training.checks.Checks.measures", lambda *_: None)
    assert train_here(runs[1]) == ExitCode.DONE
    assert losses(runs[0]) == losses(runs[1]) and digest(runs[0]) == digest(runs[1])
    assert loaded and len(set(loaded)) == len(loaded)
