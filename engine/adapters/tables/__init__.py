"""Kohya's module names of each kind of model, one module a kind; for `lorasmith inspect`. Loads no torch."""

from __future__ import annotations

from engine.adapters.tables.base import Table
from engine.adapters.tables.flux import FLUX
from engine.adapters.tables.sd15 import SD15
from engine.adapters.tables.sdxl import SDXL

TABLES: dict[str, Table] = {"SD 1.5": SD15, "SDXL": SDXL, "FLUX": FLUX}
"""By what `inspect_lora` calls the kind of model."""
