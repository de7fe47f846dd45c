"""Kohya's caption pipeline, in its order: prefix, dropout, wildcards, shuffling, tag dropout."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from engine.config.dataset import DatasetTable
from engine.config.schema import RunConfig

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Placeholders for `{{` and `}}` while wildcards are replaced: private-use characters, which no caption has."""


@dataclass(frozen=True)
class CaptionRules:
    """The caption settings of `[dataset]`, under their own names."""

    caption_prefix: str | None = None
    caption_suffix: str | None = None
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    enable_wildcard: bool = False
    shuffle_caption: bool = False
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0
    keep_tokens: int = 0
    keep_tokens_separator: str | None = None
    caption_separator: str = ","
    secondary_separator: str | None = None
    kohya_exact: bool = False
    """Tags are joined by ", " whatever the separator in the file, as in Kohya's scripts."""

    @classmethod
    def from_config(cls, config: RunConfig) -> CaptionRules:
        """The rules of a configuration."""
        return cls.from_table(config.dataset, kohya_exact=config.training.kohya_exact)

    @classmethod
    def from_table(cls, table: DatasetTable, *, kohya_exact: bool = False) -> CaptionRules:
        """The rules of dataset settings."""
        names = (name for name in cls.__dataclass_fields__ if name != "kohya_exact")
        return cls(**{name: getattr(table, name) for name in names}, kohya_exact=kohya_exact)

    @property
    def varies(self) -> bool:
        """Whether the caption of an image varies during training."""
        return (
            self.edits_tags
            or self.enable_wildcard
            or self.caption_dropout_rate > 0
            or bool(self.caption_dropout_every_n_epochs)
        )

    @property
    def is_refused_by_kohyas_cache(self) -> bool:
        """Whether Kohya's scripts refuse to cache text encoder outputs with these rules."""
        return self.edits_tags or self.caption_dropout_rate > 0

    @property
    def edits_tags(self) -> bool:
        """Whether the caption is split into tags."""
        return self.shuffle_caption or self.token_warmup_step > 0 or self.caption_tag_dropout_rate > 0


def caption_rng(seed: int, epoch: int, index: int) -> random.Random:
    """The random stream of one item's caption in one epoch; the same on every machine and after every resume."""
    return random.Random(f"caption {seed} {epoch} {index}")


def compose(text: str, rules: CaptionRules, rng: random.Random, *, epoch: int, step: int, max_train_steps: int) -> str:
    """The caption that the text encoder gets.

    Args:
        text: the image's caption or its class tokens.
        rng: used only by steps that are switched on.
        epoch: counted from 1.
        step: optimizer updates done so far.
        max_train_steps: updates of the run; a fraction in `token_warmup_step` is a fraction of it.
    """
    caption = _framed(text, rules)
    if rules.caption_dropout_rate > 0 and rng.random() < rules.caption_dropout_rate:
        return ""
    if rules.caption_dropout_every_n_epochs > 0 and epoch % rules.caption_dropout_every_n_epochs == 0:
        return ""
    caption = _pick_wildcards(caption, rng) if rules.enable_wildcard else caption.split("\n")[0]
    if rules.edits_tags:
        caption = _edit_tags(caption, rules, rng, step, max_train_steps)
    return _joined_groups(caption, rules)


def deterministic(text: str, rules: CaptionRules) -> str:
    """The caption without randomness, for validation: prefix, suffix and separators; the first of wildcards and lines;
    nothing dropped, shuffled or warmed up."""
    caption = _framed(text, rules).split("\n")[0]
    if rules.enable_wildcard:
        caption = _replace_wildcards(caption, lambda choices: choices[0])
    if rules.edits_tags:
        fixed, flexible, suffix = _split_tags(caption, rules)
        caption = _joint(caption, rules).join(fixed + flexible + suffix)
    return _joined_groups(caption, rules)


def _framed(text: str, rules: CaptionRules) -> str:
    if rules.caption_prefix:
        text = f"{rules.caption_prefix} {text}"
    if rules.caption_suffix:
        text = f"{text} {rules.caption_suffix}"
    return text


def _joined_groups(caption: str, rules: CaptionRules) -> str:
    return caption.replace(rules.secondary_separator, rules.caption_separator) if rules.secondary_separator else caption


def _pick_wildcards(caption: str, rng: random.Random) -> str:
    if "\n" in caption:
        caption = rng.choice(caption.split("\n"))
    return _replace_wildcards(caption, rng.choice)


def _replace_wildcards(caption: str, choose: Callable[[list[str]], str]) -> str:
    """Replace `{a|b}` by the choice of `choose`, verbatim, and `{{` and `}}` by single braces."""
    caption = caption.replace("{{", _OPEN).replace("}}", _CLOSE)
    pieces, place = [], 0
    while (start := caption.find("{", place)) >= 0 and (end := caption.find("}", start)) >= 0:
        if end == start + 1:  # empty braces stay
            pieces.append(caption[place : end + 1])
        else:
            pieces += [caption[place:start], choose(caption[start + 1 : end].split("|"))]
        place = end + 1
    pieces.append(caption[place:])
    return "".join(pieces).replace(_OPEN, "{").replace(_CLOSE, "}")


def _split_tags(caption: str, rules: CaptionRules) -> tuple[list[str], list[str], list[str]]:
    """(fixed, flexible, fixed suffix) tags. Blank ones stay only if `keep_tokens` counts them, as in Kohya."""
    separator = rules.keep_tokens_separator
    if separator and separator in caption:
        fixed, rest = caption.split(separator, 1)
        flexible, _, suffix = rest.partition(separator)
        first, middle, last = (
            [tag for piece in part.split(rules.caption_separator) if (tag := piece.strip())]
            for part in (fixed, flexible, suffix)
        )
        return first, middle, last
    tags = [tag.strip() for tag in caption.strip().split(rules.caption_separator)]
    return tags[: rules.keep_tokens], tags[rules.keep_tokens :], []


def _edit_tags(caption: str, rules: CaptionRules, rng: random.Random, step: int, max_train_steps: int) -> str:
    fixed, flexible, suffix = _split_tags(caption, rules)
    warmup = rules.token_warmup_step
    if 0 < warmup < 1:
        warmup = math.floor(warmup * max_train_steps)
    if step < warmup:
        grown = step * (
            (len(flexible) - rules.token_warmup_min) / warmup
        )  # in Kohya's order of operations: the result is rounded down
        flexible = flexible[: math.floor(grown) + rules.token_warmup_min]
    if rules.shuffle_caption:
        rng.shuffle(flexible)
    if rules.caption_tag_dropout_rate > 0:
        flexible = [tag for tag in flexible if rng.random() >= rules.caption_tag_dropout_rate]
    return _joint(caption, rules).join(fixed + flexible + suffix)


def _joint(caption: str, rules: CaptionRules) -> str:
    """The separator for joining tags, with a space on each side where the caption has one."""
    separator = rules.caption_separator
    if separator == "," or rules.kohya_exact:
        return ", "
    if not separator.strip():
        return separator
    before, after = (" " if spaced in caption else "" for spaced in (f" {separator}", f"{separator} "))
    return f"{before}{separator}{after}"
