"""How long a caption is for the text encoder that reads it. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.dataset.trigger import count_tokens
from engine.errors import ModelError
from engine.models.flux.t5_tokenizer import find_t5_tokenizer
from engine.text import printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from engine.config import RunConfig
    from engine.models.base import Recognition

_T5_LENGTHS = {"dev": 512, "schnell": 256}


@dataclass(frozen=True)
class TokenCounter:
    """Counts with the tokenizer that a run would use."""

    count: Callable[[str], int]
    limit: int
    """Tokens that are used, start and end apart."""

    @classmethod
    def of(cls, config: RunConfig, recognition: Recognition | None) -> TokenCounter | None:
        """The counter of a run, CLIP's where no family is known; None where its tokenizer is not on this machine.

        Raises:
            ModelError: a tokenizer cannot be read.
        """
        model = config.model
        if recognition is None or recognition.family != "flux":
            folder = model.pretrained_model_name_or_path
            return cls(lambda text: count_tokens(text, folder), model.max_token_length)
        try:
            place = find_t5_tokenizer(model, recognition)
        except ModelError:
            return None
        t5 = read_t5(place)
        limit = model.t5xxl_max_token_length or _T5_LENGTHS[recognition.details.get("variant", "dev")]
        return cls(lambda text: len(t5.encode(text, add_special_tokens=False).ids), limit - 1)  # one is the end


def read_t5(folder: Path) -> Tokenizer:
    """T5's tokenizer from tokenizer.json, else from spiece.model.

    Raises:
        ModelError: it cannot be read.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    from engine.models.spiece import read_spiece

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
        raise ModelError(f"The tokenizer in {printable(folder)} cannot be read: {error}.", "Fetch it again.") from error
