"""Why a preset has its values: the comments behind them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from engine.config.presets import find_preset
from engine.reading import read_text


@cache
def preset_reasons(preset: str) -> Mapping[str, str]:
    """The reason of each value, by its dotted key; empty for a file without comments, or one that cannot be read."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import Item, Table

    try:
        document = tomlkit.parse(read_text(find_preset(preset)))
    except (OSError, ValueError, TOMLKitError):
        return {}
    reasons = {}
    for name, table in document.items():
        if isinstance(table, Table):
            for key in table:
                item = table.item(key)
                comment = item.trivia.comment.lstrip("#").strip() if isinstance(item, Item) else ""
                if comment:
                    reasons[f"{name}.{key}"] = comment
    return reasons
