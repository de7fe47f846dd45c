"""Where a captioning model is: a folder, the program's own place for models, or the hub's cache; online if asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from engine.atomic import read_json
from engine.errors import ModelError
from engine.paths import user_cache
from engine.text import listing, printable

FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
"""What one fetches by hand."""
_PATTERNS = ["*.json", "*.txt", "*.safetensors"]
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_ALTERNATIVES = {
    "config.json": ("config.json",),
    "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer.json": ("tokenizer.json", "vocab.txt"),
    "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
}


def own_place(model: str) -> Path:
    """Where a model that was fetched by hand is looked for."""
    return user_cache() / "models" / Path(model).name


def find_model(model: str, model_type: str, *, allow_download: bool, say: Callable[[str], None]) -> Path:
    """The folder of a model, whole and of the right type.

    Args:
        model: a folder, or "owner/name" on the hub.
        model_type: what its config.json must say.
        allow_download: fetch it where it is not on this machine.
        say: told about a download.

    Raises:
        ModelError: it is not there, lacks files, or is another model; the hint says what to fetch and where to put it.
    """
    given = Path(model).expanduser()
    if given.is_dir():
        return _checked(given, model_type, "Give the folder of a whole model, with these files.")
    if given.exists():
        raise ModelError(f"{printable(given)} is a file, not the folder of a model.", "Give its folder.")
    if own_place(model).is_dir():
        return _checked(own_place(model), model_type, _by_hand(model))
    if not _HUB_ID.fullmatch(model):
        raise ModelError(f"The folder {printable(given)} does not exist.", "Give the folder of a captioning model.")
    return _checked(_from_hub(model, allow_download, say), model_type, _by_hand(model))


def _from_hub(model: str, allow_download: bool, say: Callable[[str], None]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, local_files_only=True, allow_patterns=_PATTERNS))
    except Exception as error:  # not found in the cache; the library has several kinds of that
        if not allow_download:
            raise ModelError(f"The captioning model {model} is not on this machine.", _by_hand(model)) from error
    say(f"Downloading {model} (only what is missing; about 2 GB).")
    try:
        return Path(snapshot_download(model, allow_patterns=_PATTERNS))
    except Exception as error:  # no network, no such model, no space: each library below has its own kinds
        reason = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
        raise ModelError(f"The captioning model {model} cannot be downloaded: {reason}", _by_hand(model)) from error


def _by_hand(model: str) -> str:
    return (
        f"Allow the download, or fetch it on another machine: from {model} on the Hugging Face hub take "
        f"{', '.join(FILES)} and put them into {printable(own_place(model))}, where they are found without more. "
        f"Or put them anywhere and type that folder as Model."
    )


def _checked(folder: Path, model_type: str, hint: str) -> Path:
    missing = [name for name, others in _ALTERNATIVES.items() if not any((folder / one).is_file() for one in others)]
    if missing:
        pickled = "model.safetensors" in missing and (folder / "pytorch_model.bin").is_file()
        more = " Its pytorch_model.bin is pickled and is never opened." if pickled else ""
        raise ModelError(f"The captioning model in {printable(folder)} lacks {listing(missing)}.{more}", hint)
    config = read_json(folder / "config.json")
    found = config.get("model_type") if isinstance(config, dict) else None
    if found != model_type:
        what = f"a model of type {printable(str(found))}" if found else "no model that can be recognised"
        raise ModelError(f"{printable(folder)} holds {what}, not {model_type}.", "Choose a BLIP captioning model.")
    return folder
