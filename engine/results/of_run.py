"""A run's file as a LoRA to use, from the run's records."""

from __future__ import annotations

from pathlib import Path

from engine.results.what_now import Lora, lora_of
from engine.runs.layout import RunDir


def lora_of_run(run_dir: RunDir, path: Path) -> Lora:
    """The LoRA of a run's file; if the base is gone, its family is "unknown" unless the settings name it.

    Raises:
        UsageError, ConfigError: the run's configuration cannot be read.
    """
    from engine.config import load_config
    from engine.config.changes import at_the_end
    from engine.families.resolved import family_of_settings, resolve_without_model

    config = at_the_end(load_config(run_dir.config_path))
    run = resolve_without_model(config)
    is_known = run.recognition.layout != "configurations" or family_of_settings(config) is not None
    return lora_of(run, path, run.recognition.family if is_known else "unknown")
