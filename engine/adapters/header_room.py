"""Metadata that fit into a header: the weights of a finished training are never lost for what is written about them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engine.text import listing, plural

_WITH_TAGS = ("ss_tag_frequency", "ss_datasets")


def fitted(metadata: Mapping[str, str], room: int) -> tuple[dict[str, str], list[str]]:
    """`metadata` in at most `room` bytes of a safetensors header, and what was left out, one clause each.

    First the tags that the fewest images have, then the largest values that are left.
    """
    kept, notes = dict(metadata), list[str]()
    over = sum(map(_cost, kept, kept.values())) - room
    if over <= 0:
        return kept, notes
    parsed = {key: json.loads(kept[key]) for key in _WITH_TAGS if key in kept}
    tables = [table for value in parsed.values() for table in _tag_tables(value)]
    tags = sorted((count, -place, tag) for place, table in enumerate(tables) for tag, count in table.items())
    dropped = 0
    for count, place, tag in tags:
        if over <= 0:
            break
        del tables[-place][tag]
        over -= _escaped(json.dumps(tag)) + len(f": {count}, ")
        dropped += 1
    if dropped:
        kept.update({key: json.dumps(value) for key, value in parsed.items()})
        notes.append(f"{dropped} of {plural(len(tags), 'tag')}, the rarest, are left out of its metadata")
    larger: list[str] = []
    while (over := sum(map(_cost, kept, kept.values())) - room) > 0 and kept:
        larger.append(max(kept, key=lambda key: len(kept[key])))
        del kept[larger[-1]]
    if larger:
        notes.append(f"{listing(larger, 5)} of its metadata {'is' if len(larger) == 1 else 'are'} left out")
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
