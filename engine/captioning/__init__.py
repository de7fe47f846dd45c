"""Captions for pictures, made by a model in a process of its own. Only that process loads torch."""
