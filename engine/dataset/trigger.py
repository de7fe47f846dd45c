"""The trigger word: a suggestion that no model has a meaning for, and how a tokenizer sees a word."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import DataError, ModelError
from engine.paths import ASSETS
from engine.text import printable

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from engine.config import RunConfig

CLIP = ASSETS / "clip_tokenizer"
_VOWELS = str.maketrans("aeio", "4310")
_CONSONANTS = str.maketrans("stzbg", "57289")
_WORD_END = "</w>"
_SHORTEST_WORD = 3
"""Letters; every shorter string is a token, and most of those mean nothing."""


@dataclass(frozen=True)
class Verdict:
    """How a tokenizer sees a trigger word."""

    word: str
    tokens: int
    pieces: tuple[str, ...]
    """The parts it is split into; fewer than `tokens` where one character takes several."""
    known: tuple[str, ...]
    """Whole words in it that are one token: they were frequent where the tokenizer was made, and the model has a
    meaning for most of them."""

    @property
    def split(self) -> bool:
        """Whether it takes more than one token."""
        return self.tokens > 1


def suggest(name: str) -> str:
    """A rare word from a name, letters to digits: "Anna Smith" becomes "4nn4sm1th"; the vowels do where there are any.

    Digits are never joined with letters by CLIP's tokenizer, so that no known word comes out.
    """
    plain = unicodedata.normalize("NFKD", name).lower()
    letters = "".join(character for character in plain if character.isalnum())
    changed = letters.translate(_VOWELS)
    return changed if changed != letters else letters.translate(_CONSONANTS)


def judge(word: str, model: str | Path = "") -> Verdict:
    """How the tokenizer of `model` sees `word`.

    Args:
        model: a diffusers folder with a tokenizer of its own; for anything else CLIP's, which SD 1.5 and SDXL have.

    Raises:
        ModelError: the folder's tokenizer cannot be read.
    """
    encoding = _tokenizer(tokenizer_folder(model)).encode(word)
    known = tuple(
        word[start:end]
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        if token.endswith(_WORD_END) and _whole(word, start, end)
    )
    pieces = tuple(word[start:end] for start, end in dict.fromkeys(encoding.offsets))
    return Verdict(word, len(encoding.ids), pieces, known)


def count_tokens(text: str, model: str | Path = "") -> int:
    """Tokens of `text`, without start and end, for the tokenizer that `judge` uses.

    Raises:
        ModelError: the folder's tokenizer cannot be read.
    """
    return len(_tokenizer(tokenizer_folder(model)).encode(text).ids)


def tokenizer_folder(model: str | Path) -> Path:
    """The folder with vocab.json and merges.txt that belongs to a model."""
    own = Path(model).expanduser() / "tokenizer" if model else CLIP
    return own if (own / "vocab.json").is_file() and (own / "merges.txt").is_file() else CLIP


def kept_trigger(config: RunConfig) -> dict[str, Any]:
    """Settings (dotted keys) with which a copy of a run under another name keeps its trigger word and its prompts.

    A trigger word that comes from the name is written down. Where numbered folders give images without a caption
    another word, that word stays theirs, and only the sample prompts get the trigger word in writing.

    Args:
        config: of the run that is copied. Empty is returned where it has no name, or a trigger word of its own.
    """
    if config.dataset.class_tokens or not config.saving.output_name:
        return {}
    word, prompts = config.trigger, config.sampling.sample_prompts
    if _folder_words(config) <= {word}:
        return {"dataset.class_tokens": word}
    if isinstance(prompts, list):
        return {"sampling.sample_prompts": [prompt.replace("{trigger}", word) for prompt in prompts]}
    return {}


def _folder_words(config: RunConfig) -> set[str]:
    """The names behind the numbers of the folders that are trained on."""
    from engine.dataset.folders import find_sources

    if not config.dataset.train_data_dir:
        return set()
    try:
        sources = find_sources(Path(config.dataset.train_data_dir).expanduser(), "")[0]
    except DataError:
        return set()
    return {source.name for source in sources if source.name}


def _whole(word: str, start: int, end: int) -> bool:
    """Whether the letters from `start` to `end` are a word of their own, long enough to have a meaning."""
    before, after = word[start - 1 : start], word[end : end + 1]
    return end - start >= _SHORTEST_WORD and word[start:end].isalpha() and not (before + after).isalpha()


@lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    """CLIP's byte-level tokenizer, without its start and end tokens."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    try:
        pieces = BPE.from_file(
            str(folder / "vocab.json"), str(folder / "merges.txt"),
            end_of_word_suffix=_WORD_END, unk_token="<|endoftext|>",
        )  # fmt: skip
    except Exception as error:  # the library raises a bare Exception
        raise ModelError(f"The tokenizer in {printable(folder)} cannot be read: {error}.") from error
    tokenizer = Tokenizer(pieces)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer
