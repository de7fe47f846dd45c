"""Where T5's tokenizer is on this machine. Loads no torch and never asks the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.config.flux import FluxTable
from engine.errors import ModelError
from engine.models.spiece import read_spiece
from engine.models.tokenizer_files import check_tokenizer
from engine.paths import expanded
from engine.text import printable
from engine.types import Recognition

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CACHED = (
    ("google/t5-v1_1-xxl", ""),
    ("black-forest-labs/FLUX.1-dev", "tokenizer_2/"),
    ("black-forest-labs/FLUX.1-schnell", "tokenizer_2/"),
)
"""Where it may be in the Hugging Face cache: repository, and the folder inside it. They are the same tokenizer."""
FILES = ("tokenizer.json", "spiece.model")
FETCH = "Fetch it once where there is a network: lorasmith fetch t5-tokenizer. Or set flux.t5_tokenizer to its folder."


def find_t5_tokenizer(table: FluxTable, recognition: Recognition) -> Path:
    """Its folder: `flux.t5_tokenizer`, the diffusers folder's own, or one in the local cache.

    Raises:
        ModelError: there is none.
    """
    if table.t5_tokenizer:
        folder = expanded(table.t5_tokenizer)
        if not any((folder / name).is_file() for name in FILES):
            raise ModelError(
                f"flux.t5_tokenizer: {printable(folder)} has neither tokenizer.json nor spiece.model.",
                FETCH,
                code="tokenizer-incomplete",
            )
        check_tokenizer(folder, None)
        return folder
    own = recognition.path / "tokenizer_2"
    if recognition.layout == "diffusers" and any((own / name).is_file() for name in FILES):
        return own
    from huggingface_hub import try_to_load_from_cache

    for name in FILES:
        for repository, inside in CACHED:
            cached_file = try_to_load_from_cache(repository, inside + name)
            if isinstance(cached_file, str):
                return Path(cached_file).parent
    raise ModelError("The tokenizer of the text encoder T5 is not on this machine.", FETCH, code="t5-tokenizer-missing")


def read_t5(folder: Path) -> Tokenizer:
    """T5's tokenizer from tokenizer.json, else from spiece.model.

    Raises:
        ModelError: it cannot be read.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    try:
        if (folder / "tokenizer.json").is_file():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        vocabulary, table = read_spiece(folder / "spiece.model")
        tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
        if table:
            tokenizer.normalizer = normalizers.Precompiled(table)
        pieces = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", prepend_scheme="always")]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
        return tokenizer
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(
            f"The tokenizer in {printable(folder)} cannot be read: {error}.",
            "Fetch it again.",
            code="tokenizer-unreadable",
        ) from error
