"""Where a captioning model is: a folder, the program's own place for models, or the hub's cache; online if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from engine.atomic import read_json
from engine.errors import ModelError
from engine.models.fetch import Progress, fetch, make_plan
from engine.models.hub.cache import cached_folder, is_hub_id
from engine.models.hub.files import TAGGER_FILES
from engine.paths import user_cache
from engine.text import listing, printable, shell_word, size_text

FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "tokenizer.json", "model.safetensors")
"""What one fetches by hand."""
_ALTERNATIVES: Mapping[str, tuple[str, ...]] = {
    "config.json": ("config.json",),
    "preprocessor_config.json": ("preprocessor_config.json", "processor_config.json"),
    "tokenizer.json": ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model"),
    "model.safetensors": ("model.safetensors", "model.safetensors.index.json"),
}


def own_place(model: str) -> Path:
    """Where a model that was fetched by hand is looked for."""
    return user_cache() / "models" / Path(model).name


def find_model(model: str, model_type: str, *, title: str, allow_download: bool, say: Callable[[str], None]) -> Path:
    """The folder of a model of transformers, whole and of the right type.

    Args:
        model: a folder, or "owner/name" on the hub.
        model_type: what its config.json must say; "": anything.
        title: the captioner's, for the sentences.
        allow_download: fetch it where it is not on this machine.
        say: told about a download.

    Raises:
        ModelError: it is not there, lacks files, or is another model; the hint says what to fetch and where to put it.
    """
    folder = _find(model, FILES, allow_download, say)
    config = read_json(folder / "config.json")
    found = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(found, str) or model_type not in ("", found):
        what = f"a model of type {printable(found)}" if found else "no model that can be recognised"
        wanted = f", not {model_type}" if model_type else ""
        raise ModelError(
            f"{printable(folder)} holds {what}{wanted}.", f"Choose another captioner, or a model for {title}."
        )
    return folder


def find_tagger(model: str, *, allow_download: bool, say: Callable[[str], None]) -> Path:
    """The folder of a tagger: model.onnx and selected_tags.csv. Arguments and errors as for `find_model`."""
    return _find(model, TAGGER_FILES, allow_download, say)


def _find(model: str, files: Sequence[str], allow_download: bool, say: Callable[[str], None]) -> Path:
    """The folder, with all of `files` or what may stand for them."""
    given = Path(model).expanduser()
    if given.is_dir():
        return _whole(given, files, "Give the folder of a whole model, with these files.")
    if given.exists():
        raise ModelError(f"{printable(given)} is a file, not the folder of a model.", "Give its folder.")
    by_hand = _by_hand(model, files)
    if own_place(model).is_dir():
        return _whole(own_place(model), files, by_hand)
    if not is_hub_id(model):
        raise ModelError(f"The folder {printable(given)} does not exist.", "Give the folder of a captioning model.")
    return _whole(_from_hub(model, files, allow_download, say), files, by_hand)


def _from_hub(model: str, files: Sequence[str], allow_download: bool, say: Callable[[str], None]) -> Path:
    folder = cached_folder(model)
    if folder is not None and not _missing(folder, files):
        return folder
    if not allow_download:
        raise ModelError(f"The captioning model {model} is not on this machine.", _by_hand(model, files))
    try:
        plan = make_plan(model)
        say(f"Downloading {model}: {size_text(plan.to_come)}.")
        return fetch(plan, _Tenths(say))
    except ModelError as error:
        raise ModelError(f"The captioning model cannot be downloaded: {error}", _by_hand(model, files)) from error


class _Tenths:
    """Says each further tenth of a download."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._said = 0

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if tenth > self._said:
            self._said = tenth
            rate = f", {size_text(progress.rate)}/s" if progress.rate else ""
            self._say(f"Downloaded {size_text(progress.done)} of {size_text(progress.total)}{rate}.")


def _by_hand(model: str, files: Sequence[str]) -> str:
    return (
        f"Allow the download (--download), or run `lorasmith fetch {shell_word(model)}`. By hand: from {model} on the "
        f"Hugging Face hub take {', '.join(files)} and put them into {printable(own_place(model))}, or anywhere and "
        "give that folder as the model."
    )


def _missing(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not any((folder / one).is_file() for one in _ALTERNATIVES.get(name, (name,)))]


def _whole(folder: Path, files: Sequence[str], hint: str) -> Path:
    missing = _missing(folder, files)
    if missing:
        pickled = "model.safetensors" in missing and any(folder.glob("pytorch_model*.bin"))
        more = " Its pytorch_model.bin is pickled and is never opened." if pickled else ""
        raise ModelError(f"The captioning model in {printable(folder)} lacks {listing(missing)}.{more}", hint)
    return folder
