"""The families that the suite is asked of; the toy is brought as an installed package brings one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.families.registry import families, family_named
from tests.families.conformance import Case

PLUGIN = Path(__file__).parent / "plugin"
"""A folder as pip makes one: a package, and beside it what names its entry point."""


@pytest.fixture(scope="module")
def toy_installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGIN)
        families.cache_clear()
        yield
    families.cache_clear()


def _settings(name: str, folder: Path) -> dict[str, object]:
    if name == "sd15":
        from tests.tiny_models import tiny_sd15

        return {"pretrained_model_name_or_path": str(tiny_sd15(folder))}
    if name == "sdxl":
        from tests.tiny_sdxl import tiny_sdxl

        return {"pretrained_model_name_or_path": str(tiny_sdxl(folder))}
    if name == "flux":
        from tests.tiny_flux import tiny_files

        return {**tiny_files(folder, blocks=(1, 2)).settings, "t5xxl_max_token_length": 16}
    from toy_family.model import write_checkpoint

    return {"pretrained_model_name_or_path": str(write_checkpoint(folder / "toy.safetensors"))}


@pytest.fixture(scope="module", params=["toy", "sd15", "sdxl", "flux"])
def case(request: pytest.FixtureRequest, toy_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A family with a small checkpoint."""
    folder = tmp_path_factory.mktemp(request.param)
    return Case(family_named(request.param), _settings(request.param, folder))
