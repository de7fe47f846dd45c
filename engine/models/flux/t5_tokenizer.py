"""Where T5's tokenizer is on this machine. Loads no torch and never asks the network."""

from __future__ import annotations

from pathlib import Path

from engine.config.schema import ModelTable
from engine.errors import ModelError
from engine.models.base import Recognition
from engine.models.tokenizer_files import check_tokenizer
from engine.runs.layout import expanded
from engine.text import printable

CACHED = (
    ("google/t5-v1_1-xxl", ""),
    ("black-forest-labs/FLUX.1-dev", "tokenizer_2/"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer_2/"),
)
"""Where it may be in the Hugging Face cache: repository, and the folder inside it. They are the same tokenizer."""
FILES = ("tokenizer.json", "spiece.model")
FETCH = "Fetch it once where there is a network: lorasmith fetch t5-tokenizer. Or set model.t5_tokenizer to its folder."


def find_t5_tokenizer(table: ModelTable, recognition: Recognition) -> Path:
    """Its folder: `model.t5_tokenizer`, the diffusers folder's own, or one in the local cache.

    Raises:
        ModelError: there is none.
    """
    if table.t5_tokenizer:
        folder = expanded(table.t5_tokenizer)
        if not any((folder / name).is_file() for name in FILES):
            raise ModelError(
                f"model.t5_tokenizer: {printable(folder)} has neither tokenizer.json nor spiece.model.", FETCH
            )
        check_tokenizer(folder, None)
        return folder
    own = recognition.path / "tokenizer_2"
    if recognition.layout == "diffusers" and any((own / name).is_file() for name in FILES):
        return own
    from huggingface_hub import try_to_load_from_cache

    for name in FILES:
        for repository, inside in CACHED:
            found = try_to_load_from_cache(repository, inside + name)
            if isinstance(found, str):
                return Path(found).parent
    raise ModelError("The tokenizer of the text encoder T5 is not on this machine.", FETCH)
