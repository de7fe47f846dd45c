"""Finding a captioning model: a folder, the program's models folder, the hub's cache, or a download if allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.atomic import read_json
from engine.errors import ModelError
from engine.families.fetch import Progress, fetch, make_plan
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.models.hub.files import TAGGER_FILES
from engine.paths import user_cache
from engine.text import listing, printable, shell_word, size_text

FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
"""Files to download by hand."""
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "config.json": ("config.json",),
    "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer.json": ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model"),
    "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
}


def models_folder(model: str) -> Path:
    """The folder for a model downloaded by hand."""
    return user_cache() / "models" / Path(model).name


def find_model(model: str, model_type: str, *, title: str, allow_download: bool, log: Callable[[str], None]) -> Path:
    """The folder of a transformers model, complete and of the right type.

    Args:
        model: a folder, or "owner/name" on the hub.
        model_type: required in its config.json; "": any.
        title: of the captioner, for messages.
        allow_download: download it if it is not on this machine.
        log: called about a download.

    Raises:
        ModelError: it is missing, incomplete, or another model; the hint has the files and where to put them.
    """
    folder = _find(model, FILES, allow_download, log)
    config = read_json(folder / "config.json")
    actual_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(actual_type, str) or model_type not in ("", actual_type):
        what = f"a model of type {printable(actual_type)}" if actual_type else "no known model"
        expected = f", not {model_type}" if model_type else ""
        raise ModelError(
            f"{printable(folder)} has {what}{expected}.",
            f"Choose another captioner, or a model for {title}.",
            code="captioner-of-other-kind",
        )
    return folder


def find_tagger(model: str, *, allow_download: bool, log: Callable[[str], None]) -> Path:
    """The folder of a tagger: model.onnx and selected_tags.csv. Arguments and errors as for `find_model`."""
    return _find(model, TAGGER_FILES, allow_download, log)


def _find(model: str, files: Sequence[str], allow_download: bool, log: Callable[[str], None]) -> Path:
    """The folder with all of `files`, or their alternatives."""
    path = Path(model).expanduser()
    if path.is_dir():
        return _complete(path, files, "Give the folder of a complete model, with these files.")
    if path.exists():
        raise ModelError(
            f"{printable(path)} is a file, not a model folder.", "Give its folder.", code="captioner-folder-is-a-file"
        )
    by_hand = _by_hand(model, files)
    if models_folder(model).is_dir():
        return _complete(models_folder(model), files, by_hand)
    if not is_hub_id(model):
        raise ModelError(
            f"The folder {printable(path)} does not exist.",
            "Give the folder of a captioning model.",
            code="captioner-folder-missing",
        )
    return _complete(_from_hub(model, files, allow_download, log), files, by_hand)


def _from_hub(model: str, files: Sequence[str], allow_download: bool, log: Callable[[str], None]) -> Path:
    folder = cached_folder(model)
    if folder is not None and not _missing(folder, files):
        return folder
    if not allow_download:
        raise ModelError(
            f"The captioning model {model} is not on this machine.", _by_hand(model, files), code="captioner-not-here"
        )
    try:
        plan = make_plan(model)
        log(f"Downloading {model}: {size_text(plan.remaining)}.")
        return fetch(plan, _TenthsLogger(log))
    except ModelError as error:
        raise ModelError(
            f"The captioning model cannot be downloaded: {error}", _by_hand(model, files), code=error.code
        ) from error


class _TenthsLogger:
    """Logs each tenth of a download."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._logged = 0

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if tenth > self._logged:
            self._logged = tenth
            rate = f", {size_text(progress.rate)}/s" if progress.rate else ""
            self._log(f"Downloaded {size_text(progress.done)} of {size_text(progress.total)}{rate}.")


def _by_hand(model: str, files: Sequence[str]) -> str:
    return (
        f"Allow the download (--download), or run `lorasmith fetch {shell_word(model)}`. By hand: from {model} on the "
        f"Hugging Face hub download {', '.join(files)} to {printable(models_folder(model))}, or to any folder and set "
        "it as the model."
    )


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [
        name
        for name in files
        if not any((folder / alternative).is_file() for alternative in _ALTERNATIVES.get(name, (name,)))
    ]


def _complete(folder: Path, files: Sequence[str], hint: str) -> Path:
    missing = _missing(folder, files)
    if missing:
        pickled = "model.safetensors" in missing and any(folder.glob("pytorch_model*.bin"))
        more = " Its pytorch_model.bin is pickled and never opened." if pickled else ""
        raise ModelError(
            f"The captioning model in {printable(folder)} lacks {listing(missing)}.{more}",
            hint,
            code="captioner-incomplete",
        )
    return folder
