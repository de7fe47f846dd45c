"""Configurations of other trainers: recognised and named, and converted where the mapping is plain. Loads no torch."""
