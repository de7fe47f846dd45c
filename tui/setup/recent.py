"""What was used last, kept between starts: models, and the folder where finished files go."""

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
    stored = read_json(_path())
    return [model for model in stored if isinstance(model, str) and model][:MOST] if isinstance(stored, list) else []


def record_model(model: str) -> str | None:
    """Put a model first in the list; a sentence where that fails."""
    models = list(dict.fromkeys([model, *recent_models()]))[:MOST]
    return _keep(_path(), models, "The list of models")


def models_folder() -> str:
    """Where finished files were copied last; empty at first."""
    stored = read_json(_folder_path())
    return stored if isinstance(stored, str) else ""


def record_models_folder(folder: str) -> str | None:
    """Keep it for the next file; a sentence where that fails."""
    return _keep(_folder_path(), folder, "The models folder")


def _keep(path: Path, value: object, what: str) -> str | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(value, indent=1))
    except (OSError, StorageError) as error:
        return f"{what} is not kept for the next start: {error}"
    return None


def gone(models: Iterable[str]) -> set[str]:
    """The models whose file or folder does not exist now; may wait for a network drive. Hub ids are never gone."""
    # Not Path.exists, which raises for a folder that may not be read.
    return {model for model in models if Path(model).is_absolute() and not os.path.exists(model)}  # noqa: PTH110


def _path() -> Path:
    return user_state() / "models.json"


def _folder_path() -> Path:
    return user_state() / "models-folder.json"
