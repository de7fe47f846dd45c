"""The trainer: one process that turns a run directory into a LoRA. `python -m engine.training RUN_DIR`."""
