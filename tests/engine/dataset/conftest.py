from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.config import RunConfig

Draw = Callable[..., Path]


@pytest.fixture
def draw() -> Draw:
    """Write a small image with a gradient: draw(path, size=(40, 30), mode="RGB", **save options)."""

    def write(path: Path, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        gradient = Image.linear_gradient("L").resize(size)
        image = Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient))
        with path.open("wb") as file:
            image.convert(mode).save(file, **{"format": Image.registered_extensions()[path.suffix.lower()], **options})
        return path

    return write


@pytest.fixture
def configured() -> Callable[..., RunConfig]:
    """A configuration for a folder: configured(folder, output_name="fox", **keys of [dataset])."""

    def make(folder: Path | str, output_name: str = "fox", **dataset: Any) -> RunConfig:
        return RunConfig.model_validate(
            {"dataset": {"train_data_dir": str(folder), **dataset}, "saving": {"output_name": output_name}}
        )

    return make
