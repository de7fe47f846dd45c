"""The trigger word: a suggestion without a meaning to the model, and how a tokenizer splits a word."""

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
"""Letters; shorter strings are all tokens, mostly without a meaning."""


@dataclass(frozen=True)
class TriggerTokens:
    """How a tokenizer splits a trigger word."""

    word: str
    tokens: int
    pieces: tuple[str, ...]
    """The parts it is split into; fewer than `tokens` if a character takes several."""
    common_words: tuple[str, ...]
    """Words in it that are a single token: they were frequent in the tokenizer's training data, and the model has a
    meaning for most of them."""

    @property
    def split(self) -> bool:
        """Whether it takes more than one token."""
        return self.tokens > 1


def suggest(name: str) -> str:
    """A rare word from a name, with vowels (else consonants) replaced by digits: "Anna Smith" becomes "4nn4sm1th".

    CLIP's tokenizer never joins digits with letters, so the result has no common word.
    """
    plain = unicodedata.normalize("NFKD", name).lower()
    letters = "".join(character for character in plain if character.isalnum())
    changed = letters.translate(_VOWELS)
    return changed if changed != letters else letters.translate(_CONSONANTS)


def tokenize_trigger(word: str, model: str | Path = "") -> TriggerTokens:
    """Split `word` with the tokenizer of `model`.

    Args:
        model: a diffusers folder with its own tokenizer; otherwise CLIP's is used, that of SD 1.5 and SDXL.

    Raises:
        ModelError: the folder's tokenizer cannot be read.
    """
    encoding = _tokenizer(tokenizer_folder(model)).encode(word)
    common_words = tuple(
        word[start:end]
        for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True)
        if token.endswith(_WORD_END) and _is_word(word, start, end)
    )
    pieces = tuple(word[start:end] for start, end in dict.fromkeys(encoding.offsets))
    return TriggerTokens(word, len(encoding.ids), pieces, common_words)


def count_tokens(text: str, model: str | Path = "") -> int:
    """Tokens of `text`, without start and end, by the tokenizer of `tokenize_trigger`.

    Raises:
        ModelError: the folder's tokenizer cannot be read.
    """
    return len(_tokenizer(tokenizer_folder(model)).encode(text).ids)


def tokenizer_folder(model: str | Path) -> Path:
    """The folder with the vocab.json and merges.txt of a model."""
    own = Path(model).expanduser() / "tokenizer" if model else CLIP
    return own if (own / "vocab.json").is_file() and (own / "merges.txt").is_file() else CLIP


def kept_trigger(config: RunConfig) -> dict[str, Any]:
    """Settings (dotted keys) that keep the trigger word and prompts when a run is copied under another name.

    A trigger word derived from the name is made explicit. If numbered folders give uncaptioned images another word,
    that word stays, and the trigger word is only written into the sample prompts.

    Args:
        config: of the copied run. The result is empty if it has no name or an explicit trigger word.
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
    """The names in the `<repeats>_<name>` training folders."""
    from engine.dataset.folders import find_sources

    if not config.dataset.train_data_dir:
        return set()
    try:
        sources = find_sources(Path(config.dataset.train_data_dir).expanduser(), "")[0]
    except DataError:
        return set()
    return {source.name for source in sources if source.name}


def _is_word(word: str, start: int, end: int) -> bool:
    """Whether the letters from `start` to `end` are a separate word, long enough to have a meaning."""
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
        raise ModelError(
            f"The tokenizer in {printable(folder)} cannot be read: {error}.", code="tokenizer-unreadable"
        ) from error
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
