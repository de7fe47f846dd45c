"""The precision of the number formats of files."""

from __future__ import annotations

import torch

EPSILON = {torch.float32: 2.0**-23, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""Spacing of the numbers just above 1: the relative error of a cast."""
