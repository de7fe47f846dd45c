"""`lorasmith` with the fake trainer instead of the real one: FAKE_TRAINER="STEPS SECONDS [MODE]"."""

import os
import sys
from pathlib import Path

import tui.commands.run
from engine.runs import RunDir, launch, prepare_run
from tui.main import main

ROOT = Path(__file__).resolve().parents[2]


def command(run_dir: RunDir) -> list[str]:
    fake = ROOT / "tests" / "engine" / "runs" / "fake_trainer.py"
    return [sys.executable, str(fake), str(run_dir.path), *os.environ["FAKE_TRAINER"].split()]


launch.trainer_command = command
tui.commands.run.prepare = lambda config, restart=False: prepare_run(config, restart=restart)
main()
