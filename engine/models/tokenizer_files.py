"""The files of a tokenizer, checked before a library reads them. Loads no torch and no transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.errors import ModelError
from engine.reading import read_text
from engine.text import printable

_LIMIT = 64 * 2**20
"""Bytes of a file."""
_SHORTEST = 3
"""Start, a token, end."""
_FETCH = "Fetch the folder again, or remove the tokenizer's folder: CLIP's comes with the program."


def check_tokenizer(folder: Path, vocab_size: int | None) -> None:
    """Refuse a broken tokenizer; a missing folder is accepted.

    Args:
        folder: with tokenizer.json, or vocab.json and merges.txt; of other files only JSON is read.
        vocab_size: of the text encoder: ids must be below it. None: not compared.

    Raises:
        ModelError: names the file and the fault.
    """
    if not folder.is_dir():
        return
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"):
        path = folder / name
        table = _table(path) if path.is_file() else {}
        if name == "tokenizer_config.json" and "model_max_length" in table:
            _check_length(path, table["model_max_length"])
        if name == "added_tokens.json":
            _check_ids(path, table, vocab_size)
        if name == "tokenizer.json" and table:
            _check_tokenizer_json(path, table, vocab_size)
    if (folder / "vocab.json").is_file():
        _check_ids(folder / "vocab.json", _table(folder / "vocab.json"), vocab_size)
        if not (folder / "merges.txt").is_file() and not (folder / "tokenizer.json").is_file():
            raise ModelError(
                f"{printable(folder)} has a vocab.json but no merges.txt.", _FETCH, code="tokenizer-incomplete"
            )


def _table(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path, _LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ModelError(
            f"{printable(path)} cannot be read as JSON: {printable(reason)}.", _FETCH, code="tokenizer-unreadable"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{printable(path)} holds no table.", _FETCH, code="tokenizer-wrong")
    return value


def _check_length(path: Path, value: Any) -> None:
    """Tokenizers without a limit have 10^30 there, so there is no upper one."""
    if type(value) not in (int, float) or not value >= _SHORTEST:
        raise ModelError(
            f"{printable(path)}: model_max_length is {printable(str(value)[:60])}, and must be a number from "
            f"{_SHORTEST} on.",
            _FETCH,
            code="tokenizer-max-length-wrong",
        )


def _check_ids(path: Path, vocabulary: Any, vocab_size: int | None) -> None:
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else ("none",)
    if not set(map(type, numbers)) <= {int} or min(numbers, default=0) < 0:
        message = f"{printable(path)} is not a table of tokens and their numbers."
        raise ModelError(message, _FETCH, code="tokenizer-wrong")
    largest = max(numbers, default=0)
    if vocab_size is not None and largest >= vocab_size:
        raise ModelError(
            f"{printable(path)} has the token number {largest}, and the text encoder knows {vocab_size} tokens.",
            "The tokenizer belongs to another text encoder: fetch the folder again.",
            code="tokenizer-of-other-text-encoder",
        )


def _check_tokenizer_json(path: Path, table: dict[str, Any], vocab_size: int | None) -> None:
    """tokenizer.json: the model's vocabulary, a table or a list, and its added tokens."""
    model = table.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):
        vocabulary = {str(number): number for number in range(len(vocabulary))}
    _check_ids(path, vocabulary, vocab_size)
    added = table.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ModelError(f"{printable(path)}: added_tokens is not a list of tokens.", _FETCH, code="tokenizer-wrong")
    _check_ids(path, {str(number): token.get("id") for number, token in enumerate(added)}, vocab_size)
