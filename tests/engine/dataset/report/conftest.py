from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import RunConfig
from engine.dataset.report.checking import check
from engine.dataset.report.findings import Report
from engine.dataset.report.measure_cache import MeasureCache

Checked = Callable[..., Report]


@pytest.fixture
def checked(tmp_path: Path) -> Checked:
    """The report on a folder, with a cache of its own: checked(folder, **keys of [dataset])."""

    def run(folder: Path, **dataset: Any) -> Report:
        values = {"dataset": {"train_data_dir": str(folder), **dataset}, "saving": {"output_name": "fox"}}
        return check(RunConfig.model_validate(values), cache=MeasureCache(tmp_path / "cache.sqlite"))[0]

    return run


def image_names(report: Report, code: str) -> set[str]:
    """Names of the images of one kind of finding."""
    return {path.name for finding in report.findings if finding.kind.code == code for path in finding.images}


def codes(report: Report) -> set[str]:
    """Codes of everything that was found."""
    return {finding.kind.code for finding in report.findings}
