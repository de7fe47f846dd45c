"""The GPU suite's logic, on a tiny model and the CPU: what it measures, and the rows that it prints."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_out_of_memory
from benchmarks.gpu import Case, Row
from engine.config import resolve
from engine.estimate.plan import GIB
from engine.families.registry import family_named, recognise
from engine.runs.events import EventLog, RetryEvent
from engine.runs.layout import RunDir
from tests.tiny_flux import tiny_folder
from tests.tiny_models import tiny_sd15


def test_every_model_batch_and_rung() -> None:
    every = list(gpu.cases(Namespace(models="sd15,sdxl,flux", batches="1,4", rungs="")))
    assert len(every) == (1 + 1 + 2) * 2 * len(gpu.RUNGS)
    some = list(gpu.cases(Namespace(models="sd15", batches="4", rungs="none,split")))
    assert some == [Case("sd15", 512, 4, "none"), Case("sd15", 512, 4, "split")]


@pytest.mark.parametrize("rung", gpu.RUNGS)
def test_each_rung_is_a_configuration(rung: str) -> None:
    config = Case("sd15", 512, 1, rung).config(blocks=9)
    resolve(config)
    assert config.memory.checkpointed_blocks == (4 if rung == "half checkpointed" else None)


@pytest.mark.parametrize("rung", ["none", "all"])
def test_steps_are_measured(rung: str, tmp_path: Path) -> None:
    case = Case("sd15", 64, 2, rung)
    row = gpu.measure(case.config(), recognise(tiny_sd15(tmp_path)), "cpu", steps=1, warm_up=1)
    assert row.seconds > 0 and row.operations > 1e6


def test_flux_is_measured_without_a_tokenizer_of_t5(tmp_path: Path) -> None:
    known = replace(family_named("flux").reference_model(), path=tiny_folder(tmp_path))
    row = gpu.measure(Case("flux", 64, 1, "split fp8").config(5), known, "cpu", steps=1, warm_up=1)
    assert row.seconds > 0 and row.operations > 1e6


def test_a_row() -> None:
    row = Row(seconds=0.5, operations=10**12, allocated=4 * GIB, reserved=5 * GIB)
    row_text = gpu.line(Case("sdxl", 1024, 4, "none"), row, 10**13, 3 * GIB)
    assert row_text == "| sdxl | 1024 | 4 | none | 0.500 | 8.00 | 20% | 4.00 | 5.00 | 3.00 | -25.0% |"
    assert row_text.count("|") == gpu.HEAD.count("|")
    lost = gpu.line(Case("sdxl", 1024, 4, "none"), "out of memory", 10**13, 3 * GIB)
    assert lost.count("|") == gpu.HEAD.count("|") and "out of memory" in lost


def test_a_run_that_remedies_brought_to_its_end(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.private.mkdir(parents=True)
    log = EventLog(run.events_path)
    for name in ("smaller_batch", "gradient_checkpointing"):
        log.emit(RetryEvent(remedy=name))
    assert (
        gpu_out_of_memory.run_line("sd15", 8, tmp_path, 0, 90)
        == "| sd15 | 8 GB | smaller_batch, gradient_checkpointing | 0 | 1.5 |"
    )


def test_a_random_checkpoint_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tiny demo base's configurations: real ones take minutes."""
    from engine.families.unet import load
    from engine.paths import ASSETS

    place = tmp_path / "configurations" / "sd15"
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        (place / part).mkdir(parents=True)
        for file in (ASSETS / "demo_base" / part).glob("*.json"):
            (place / part / file.name).write_bytes(file.read_bytes())
    (place / "model_index.json").write_bytes((ASSETS / "demo_base" / "model_index.json").read_bytes())
    monkeypatch.setattr(load, "CONFIGURATIONS", place.parent)
    known = recognise(gpu_out_of_memory.random_checkpoint("sd15", tmp_path))
    assert known.family == "sd15" and known.dtype == "bf16"
