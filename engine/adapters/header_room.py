"""Shortens metadata that do not fit into a header, so that the weights of a finished training are always saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engine.text import listing, plural

_WITH_TAGS = ("ss_tag_frequency", "ss_datasets")


def fit_metadata(metadata: Mapping[str, str], room: int) -> tuple[dict[str, str], list[str]]:
    """`metadata` in at most `room` bytes of a safetensors header, and a note on each kind of omission.

    First the tags of the fewest images are left out, then the largest remaining values.
    """
    kept, notes = dict(metadata), list[str]()
    excess = sum(map(_cost, kept, kept.values())) - room
    if excess <= 0:
        return kept, notes
    parsed = {key: json.loads(kept[key]) for key in _WITH_TAGS if key in kept}
    tables = [table for value in parsed.values() for table in _tag_tables(value)]
    tags = sorted((count, -place, tag) for place, table in enumerate(tables) for tag, count in table.items())
    dropped = 0
    for count, place, tag in tags:
        if excess <= 0:
            break
        del tables[-place][tag]
        excess -= _escaped(json.dumps(tag)) + len(f": {count}, ")
        dropped += 1
    if dropped:
        kept.update({key: json.dumps(value) for key, value in parsed.items()})
        notes.append(f"{dropped} of {plural(len(tags), 'tag')}, the rarest, are left out of its metadata")
    removed: list[str] = []
    while sum(map(_cost, kept, kept.values())) > room and kept:
        removed.append(max(kept, key=lambda key: len(kept[key])))
        del kept[removed[-1]]
    if removed:
        notes.append(f"{listing(removed, 5)} of its metadata {'is' if len(removed) == 1 else 'are'} left out")
    return kept, notes


def _cost(key: str, value: str) -> int:
    """Bytes of an entry: two strings, a colon and a comma."""
    return _escaped(key) + _escaped(value) + 6


def _escaped(text: str) -> int:
    """Bytes of `text` inside a JSON string."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _tag_tables(value: Any) -> Iterator[dict[str, int]]:
    """The tables {tag: images} of `ss_tag_frequency`, or of each dataset of `ss_datasets`."""
    if isinstance(value, list):
        for dataset in value:
            yield from dataset["tag_frequency"].values()
    else:
        yield from value.values()
