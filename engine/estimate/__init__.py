"""Estimates of a run's memory, disk space and time before it starts. Loads no torch; the worker is a separate
process."""
