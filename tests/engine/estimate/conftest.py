"""What is estimated from earlier runs sees those of the test only."""

from __future__ import annotations

from tests.engine.runs.conftest import own_home as own_home
