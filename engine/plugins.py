"""Classes that installed packages add by entry points: families and adapter kinds."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from engine.errors import UsageError
from engine.text import printable


def load_plugins(group: str, base: type[Any], what: str) -> tuple[Any, ...]:
    """An object of each class of a group of entry points, by the order of their names.

    Args:
        base: their base class, which may be abstract.
        what: "adapter kind" or the like, for the message.

    Raises:
        UsageError: a class cannot be loaded.
    """
    plugins = []
    for point in sorted(entry_points(group=group)):
        try:
            plugin = point.load()()
        except Exception as error:
            raise UsageError(
                f"The {what} {printable(point.name)} ({printable(point.value)}) cannot be loaded: "
                f"{printable(str(error))}.",
                "Uninstall that package, or install a version that fits this one.",
                code="plugin-not-loadable",
            ) from error
        assert isinstance(plugin, base), f"{point.value} is no {what}"
        plugins.append(plugin)
    return tuple(plugins)
