"""What may be loaded where, seen in a fresh process; import-linter sees the same in the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {"torch", "numpy", "diffusers", "transformers", "peft", "accelerate", "textual", "rich"}
TORCH = {"torch", "diffusers", "transformers", "peft", "accelerate", "textual"}


def loaded(code: str) -> set[str]:
    """Top-level modules in a fresh process after `code`."""
    command = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import engine.config, engine.runs, engine.hardware", HEAVY),
        ("import engine.dataset.scan, engine.dataset.arithmetic, engine.dataset.captions", HEAVY),
        ("import engine.families.registry, engine.adapters.inspect", TORCH),
        ("import engine.dataset.report.process, engine.dataset.report.checking", HEAVY),
        ("import engine.dataset.report.__main__", TORCH),
        ("import engine.adapters.tools.process, engine.adapters.tools.requests", HEAVY),
        ("import engine.adapters.tools.edit, engine.adapters.naming, engine.adapters.layout", TORCH),
        ("import engine.results.record, engine.results.report, engine.results.compare_page", TORCH | {"rich"}),
        ("import engine.training.session, engine.training.loggers", HEAVY),
        ("import engine.training.run_reader", TORCH),
        ("import engine.config.loggers, engine.runs.loggers", HEAVY),
        ("import engine.loggers.__main__, engine.loggers.following", TORCH | {"tensorboard", "wandb", "trackio"}),
        ("import engine.results.trying, engine.results.base_choice, engine.results.png_info", HEAVY),
        ("import engine.drawing.__main__", HEAVY),
        ("import engine.results.similarity", HEAVY),
        ("import engine.queue.__main__, engine.queue.local, engine.queue.ray_tasks", HEAVY | {"ray"}),
        ("import tui.main, tui.cli", HEAVY),
        ("from tui.main import run; run(['presets']); run(['--version'])", HEAVY),
    ],
)
def test_light_modules_stay_light(code: str, forbidden: set[str]) -> None:
    assert not loaded(code) & forbidden


def test_the_trainer_loads_no_screen() -> None:
    assert not loaded("import engine.training.trainer") & {"textual", "tui"}
