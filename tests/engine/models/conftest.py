"""The checkpoints and the missing network that the tests of the families have."""

from tests.engine.families.conftest import folder, load, model, no_network, single_file

__all__ = ["folder", "load", "model", "no_network", "single_file"]
