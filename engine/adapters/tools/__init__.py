"""Tools for finished LoRA files: resize, merge, extract, convert, edit. docs/lora-tools.md describes them.

`requests`, `report`, `process`, `naming` and `edit` load no torch; the others run in a process of their own
(`python -m engine.adapters.tools`).
"""
