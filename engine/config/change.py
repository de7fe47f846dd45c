"""One setting that changes in the middle of a run: a text of `training.changes`, as "200: training.unet_lr=5e-05"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config.literals import parse_value, written
from engine.config.moved import present_key

CHANGES = "training.changes"
"""Key of their list."""
RATE_KEYS = ("training.learning_rate", "training.unet_lr", "training.text_encoder_lr")
LENGTH_KEYS = ("training.max_train_epochs", "training.max_train_steps")
CAPTION_KEYS = (
    "dataset.caption_dropout_rate", "dataset.caption_dropout_every_n_epochs", "dataset.caption_tag_dropout_rate",
)  # fmt: skip
OUTPUT_KEYS = (
    "sampling.sample_every_n_steps", "sampling.sample_every_n_epochs", "sampling.sample_prompts",
    "saving.save_every_n_steps", "saving.save_every_n_epochs", "saving.save_state_every_n_steps",
)  # fmt: skip
WEIGHT_KEYS = (*RATE_KEYS, *LENGTH_KEYS, *CAPTION_KEYS)
"""Settings that affect the weights from their step on."""
LIVE_KEYS = (*WEIGHT_KEYS, *OUTPUT_KEYS)
"""The settings that can change while a run trains."""
CHANGE_FORM = 'changes of the form "200: training.unet_lr=5e-5"'
MOST = 200
"""Limit of the changes in one run."""
_UNSETS = {
    "training.max_train_steps": "training.max_train_epochs",
    "sampling.sample_every_n_steps": "sampling.sample_every_n_epochs",
}
"""A key that is used only while the other one is unset: setting it unsets the other."""
_FORM = re.compile(r"(\d{1,10}): *([a-z_0-9]+\.[a-z_0-9]+) *=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Change:
    """A new value of one setting."""

    step: int
    """Updates before it takes effect: it applies from update `step` + 1 on."""
    key: str
    """Dotted."""
    value: Any

    def __str__(self) -> str:
        return f"{self.step}: {self.key}={written(self.value)}"

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """The keys that it sets and unsets, for `RunConfig.changed`."""
        tables: dict[str, dict[str, Any]] = {}
        unset = [(_UNSETS[self.key], None)] if self.key in _UNSETS else []
        for key, value in ((self.key, self.value), *unset):
            table, _, name = key.partition(".")
            tables.setdefault(table, {})[name] = value
        return tables

    @property
    def text(self) -> str:
        """The setting and its new value."""
        return f"{self.key} = {written(self.value)}"


def read_change(text: str) -> Change:
    """Parse a change.

    Raises:
        ValueError: another format, or a key that cannot change during a run.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ValueError(CHANGE_FORM)
    key = present_key(match[2])
    if key not in LIVE_KEYS:
        raise ValueError(f"changes of {', '.join(LIVE_KEYS)}; {match[2]} cannot change during a run")
    return Change(int(match[1]), key, parse_value(match[3].strip()))


def require_changes(texts: Sequence[str]) -> None:
    """Check the format of a list of changes.

    Raises:
        ValueError: with what is allowed.
    """
    if len(texts) > MOST:
        raise ValueError(f"up to {MOST} changes")
    steps = [read_change(text).step for text in texts]
    if steps != sorted(steps):
        raise ValueError("changes in the order of their steps")


def without_changes_of(texts: Any, keys: Iterable[str]) -> Any:
    """`texts` without the changes of settings that have a new value; anything but a list of texts is returned as it
    is."""
    replaced = set(keys)
    if replaced & set(LENGTH_KEYS):
        replaced |= set(LENGTH_KEYS)
    if not isinstance(texts, list):
        return texts
    return [text for text in texts if not (isinstance(text, str) and (f := _FORM.fullmatch(text)) and f[2] in replaced)]
