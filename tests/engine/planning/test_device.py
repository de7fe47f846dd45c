"""The device that plans are made on."""

from __future__ import annotations

from engine.planning.device import own_operations


def test_operations_of_other_libraries_are_left_out() -> None:
    """torchvision registers some for autocast where it is installed."""
    assert own_operations(["aten::mm", "torchvision::roi_align", "aten::sum.dim_IntList"]) == ["mm", "sum.dim_IntList"]
