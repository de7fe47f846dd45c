"""Torch mechanics that reduce the memory of a training step, for every family."""
