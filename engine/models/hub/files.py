"""Chooses the files of a repository to fetch: no pickles, no second number format, nothing for other programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ModelError
from engine.models.files import weight_stem
from engine.text import listing, printable

OTHER_WEIGHTS = ("vae", "text_encoder", "text_encoder_2")
_WITHOUT_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "vocab.json",
    "merges.txt",
)
TAGGER_FILES = ("model.onnx", "selected_tags.csv")
"""A tagger's graph and its tags."""
_SMALL = (".json", ".txt", ".model")
_INDEX = ".safetensors.index.json"


@dataclass(frozen=True)
class RemoteFile:
    """A file as the hub lists it."""

    name: str
    size: int
    """Bytes."""
    blob: str
    """Its name in the cache: the SHA-256 of a large file, git's id of a small one."""
    sha256: str | None = None
    """For large files only."""


def needed_files(
    repository: str, files: Sequence[RemoteFile], denoisers: Sequence[str], name: str | None = None
) -> list[RemoteFile]:
    """The files to fetch.

    Args:
        repository: "owner/name", for messages.
        files: all files in it.
        denoisers: possible names of a denoiser's folder.
        name: the only file to fetch; None for all files of the model.

    Raises:
        ModelError: it holds no usable model; the message lists what it holds.
    """
    names = {file.name for file in files}
    if name is not None:
        chosen = [_named(repository, names, name)]
    elif "model_index.json" in names:
        chosen = _diffusers(repository, names, denoisers)
    elif set(TAGGER_FILES) <= names:
        chosen = list(TAGGER_FILES)
    elif "config.json" in names and names & {"preprocessor_config.json", "processor_config.json"}:
        chosen = _transformers(repository, names)
    else:
        chosen = [_checkpoint(repository, names)]
    return [file for file in files if file.name in set(chosen)]


def tokenizer_only(repository: str, files: Sequence[RemoteFile]) -> list[RemoteFile]:
    """The files of the tokenizer at the top of a repository.

    Raises:
        ModelError: there are none.
    """
    chosen = [file for file in files if file.name in TOKENIZER_FILES]
    if not any(file.name in ("tokenizer.json", "spiece.model", "vocab.json") for file in chosen):
        raise ModelError(f"{repository} holds no tokenizer.", code="hub-without-tokenizer")
    return chosen


def _named(repository: str, names: set[str], name: str) -> str:
    if name not in names:
        contents = listing(sorted(file for file in names if file.endswith(".safetensors"))) or "no .safetensors file"
        raise ModelError(
            f"{repository} has no file {printable(name)}.", f"It holds {printable(contents)}.", code="hub-file-unknown"
        )
    return name


def _diffusers(repository: str, names: set[str], denoisers: Sequence[str]) -> list[str]:
    denoiser = next((part for part in denoisers if f"{part}/config.json" in names), None)
    if denoiser is None:
        raise ModelError(
            f"{repository} has a model_index.json, but neither a unet nor a transformer.", code="hub-without-denoiser"
        )
    chosen = ["model_index.json"]
    for part in (denoiser, *OTHER_WEIGHTS):
        if f"{part}/config.json" in names:
            chosen += [f"{part}/config.json", *_weights(repository, names, part)]
    return chosen + [
        name for name in names if name.partition("/")[0] in _WITHOUT_WEIGHTS and name.endswith(_SMALL)
    ]  # fmt: skip


def _weights(repository: str, names: set[str], part: str) -> list[str]:
    """The fp16 variant where one exists, half the size; a part in several files comes with its index."""
    stem = f"{part}/{weight_stem(part)}"
    for single in (f"{stem}.fp16.safetensors", f"{stem}.safetensors"):
        if single in names:
            return [single]
    shards = [name for name in names if re.fullmatch(re.escape(stem) + r"-\d+-of-\d+\.safetensors", name)]
    if stem + _INDEX in names and shards:
        return [stem + _INDEX, *shards]
    raise _no_safetensors(f"{repository} has its {part}", names, f"{part}/")


def _transformers(repository: str, names: set[str]) -> list[str]:
    top = [name for name in names if "/" not in name]
    weights = [name for name in top if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)]
    if not weights:
        raise _no_safetensors(f"{repository} has its weights", names, "")
    return weights + [name for name in top if name.endswith((*_SMALL, ".jinja"))]


def _checkpoint(repository: str, names: set[str]) -> str:
    files = sorted(name for name in names if name.endswith(".safetensors"))
    if len(files) == 1:
        return files[0]
    if files:
        raise ModelError(
            f"{repository} holds {len(files)} .safetensors files and no model_index.json.",
            f"Name one of them, as {repository}/{printable(files[0])}. It holds {printable(listing(files))}.",
            code="hub-file-ambiguous",
        )
    raise _no_safetensors(f"{repository} has what it holds", names, "")


def _no_safetensors(what: str, names: set[str], inside: str) -> ModelError:
    if any(name.startswith(inside) and name.endswith((".bin", ".ckpt", ".pt", ".pth")) for name in names):
        return ModelError(
            f"{what} as Python pickles only, which are never opened.",
            "Look for the same model as .safetensors.",
            code="hub-pickles-only",
        )
    return ModelError(
        f"{what} in no .safetensors file.", "Look for the same model as .safetensors.", code="hub-without-safetensors"
    )
