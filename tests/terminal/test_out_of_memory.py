"""Out of memory for real, in a terminal: shown with its numbers, and one key lets the run finish."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.paths import ASSETS
from engine.runs import RunDir, prepare_run, true_state
from tests.forked import ForkedTrainer
from tests.memory_limit import STEADY_MALLOC, peak_address_space
from tui.setup.draft import Draft

Start = Callable[..., Any]
NEXT, QUIT, ENTER = "\x0e", "\x11", "\r"
BATCH = 64
HEADROOM = 192 * 2**20
"""Above what a batch of one needs; a batch of 64 needs about twice that."""


def demo(name: str, batch: int) -> Draft:
    """The demo with one short step, no samples, and a batch size; as the wizard leaves it before the review."""
    draft = Draft(preset="demo", step="review", done=["hardware", "model", "folders", "captions", "parameters"])
    for key, value in {
        "model.pretrained_model_name_or_path": str(ASSETS / "demo_base"),
        "dataset.train_data_dir": str(ASSETS / "demo_pictures"),
        "training.train_batch_size": batch,
        "training.num_processes": 1,
        "training.max_train_steps": 1,
        "training.validate_every_n_steps": None,
        "sampling.sample_every_n_steps": 0,
        "saving.output_name": name,
        "saving.output_dir": str(Path.cwd() / name / "results_current"),
    }.items():
        draft.set(key, value)
    return draft


@pytest.mark.slow  # three trainers, one after the other
@pytest.mark.timeout(600)
def test_one_key_takes_the_remedy_and_the_run_ends_well(start: Start, place: Path) -> None:
    small = prepare_run(demo("small", 1).config())
    limit = peak_address_space(ForkedTrainer(small)) + HEADROOM
    assert true_state(small).state == "finished", small.log_path.read_text()[-3000:]

    assert demo("smithy", BATCH).save() is None
    limited = ["sh", "-c", f'ulimit -v {limit // 1024}; exec "$0" -m tui.main "$@"', sys.executable]
    terminal = start("--no-mouse", term="xterm", command=limited, **STEADY_MALLOC)
    terminal.until_shown("n  Continue setting up smithy")
    terminal.send("n")
    terminal.until_shown("Continue at Review")
    terminal.send(ENTER)
    terminal.until_shown("Ready", "Start training")
    terminal.send(NEXT)
    terminal.until_shown("Out of memory", "requested", "allocated by", "1 Batch 1 with accumulation", seconds=120)
    run_dir = RunDir(place / "smithy" / "results_current")
    assert "ran out of memory" in terminal.text and true_state(run_dir).state == "failed"

    terminal.send("1")
    terminal.until_shown("✓ finished", seconds=240)
    training = load_config(run_dir.config_path).training
    assert (training.train_batch_size, training.gradient_accumulation_steps) == (1, BATCH)
    assert true_state(run_dir).step == 1 and not inspect_lora(run_dir.lora_path()).problems
    terminal.send(QUIT)
    assert terminal.wait() == 0 and terminal.restored
