"""Kohya's files: dataset configurations, training configurations, the GUI's JSON, command lines. Loads no torch."""
