"""The configuration of a run: its typed model, and how it is read, checked and written."""

from engine.config.schema import RunConfig

__all__ = ["RunConfig"]
