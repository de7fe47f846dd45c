"""The models that were used last, kept between starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from engine.atomic import read_json, write_text
from engine.errors import StorageError
from engine.paths import user_state

MOST = 12


def recent_models() -> list[str]:
    """Paths and hub ids as they were entered, the newest first."""
    found = read_json(_path())
    return [one for one in found if isinstance(one, str) and one][:MOST] if isinstance(found, list) else []


def remember_model(model: str) -> str | None:
    """Put a model first; a sentence when that cannot be kept."""
    models = list(dict.fromkeys([model, *recent_models()]))[:MOST]
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        write_text(_path(), json.dumps(models, indent=1))
    except (OSError, StorageError) as error:
        return f"The list of models is not kept for the next start: {error}"
    return None


def gone(models: Iterable[str]) -> set[str]:
    """Those whose file or folder cannot be found now; may wait for a network drive. Hub ids are never gone."""
    # Not Path.exists, which raises for a folder that may not be read.
    return {model for model in models if Path(model).is_absolute() and not os.path.exists(model)}  # noqa: PTH110


def _path() -> Path:
    return user_state() / "models.json"
