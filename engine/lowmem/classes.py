"""Modules by the names of diffusers' and transformers' classes. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection


def has_class(module: object, names: Collection[str]) -> bool:
    """Whether it is of a class with such a name, or of one derived from it, as the lean blocks are."""
    return any(own.__name__ in names for own in type(module).__mro__)
