"""Samples are compared with training images in every family, with cached latents and without, and nothing changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.exit_codes import ExitCode
from engine.results.record import read_run
from engine.runs import RunDir, read_events
from engine.training.latent_copies import LatentCopies

Train = Callable[[RunDir], int]
MakeRun = Callable[..., RunDir]
SETTINGS = {
    "training__max_check_share": 1, "training__max_train_steps": 4, "saving__save_every_n_epochs": 0,
    "saving__save_every_n_steps": 2, "sampling__sample_every_n_steps": 2, "sampling__sample_at_first": True,
    "training__validate_every_n_epochs": 0, "dataset__min_bucket_reso": 32, "dataset__bucket_reso_steps": 16,
    "sampling__sample_prompts": '["zed in the sea --w 64 --h 64 --d 1", "zed at home --w 64 --h 64 --d 2"]',
}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six images that differ in more than one colour."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed in range(6):
        values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"p{seed}.png")
        (folder / f"p{seed}.txt").write_text(f"zed, tag{seed}")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, object]]:
    """The settings of a tiny model of a family."""

    def make(family: str) -> dict[str, object]:
        if family == "sdxl":
            from tests.tiny_sdxl import tiny_sdxl

            return {"model__pretrained_model_name_or_path": tiny_sdxl(tmp_path_factory.mktemp("xl"))}
        if family == "flux":
            from tests.tiny_flux import tiny_files

            files = tiny_files(tmp_path_factory.mktemp("flux"), blocks=(1, 2))
            return {f"model__{key}": value for key, value in files.settings.items()} | {
                "model__t5xxl_max_token_length": 16
            }
        return {}

    return make


def measured(run: RunDir) -> list[dict[str, Any]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == "sample_measures"]


def tensors(run: RunDir) -> str:
    data = run.lora_path().read_bytes()
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def losses(run: RunDir) -> list[float]:
    return [event.get("loss") for event in read_events(run.events_path) if event.type == "step"]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("sd15", {}, marks=pytest.mark.soak),
        ("sd15", {"dataset__flip_aug": "true"}),
        ("sd15", {"dataset__random_crop": "true", "dataset__color_aug": "true"}),  # not cached
        ("sdxl", {}),
        ("flux", {}),
    ],
    ids=["SD 1.5", "mirrored", "not cached", "SDXL", "FLUX"],
)
def test_every_family_compares_and_trains_the_same(
    family: str, settings: dict[str, object], models: Any, make_run: MakeRun, train_here: Train
) -> None:
    own = {**SETTINGS, **models(family), **settings}
    run, without = make_run("with", **own), make_run("without", **{**own, "training__max_check_share": 0})
    assert train_here(run) == train_here(without) == ExitCode.DONE
    measures = measured(run)
    assert [event["step"] for event in measures] == [2, 4]
    for event in measures:
        assert 0 <= event["latent_copying"] <= 1 and 0 <= event["latent_base"] <= 1
        assert event["latent_copied"] in {f"p{seed}.png" for seed in range(6)}
    assert not any(event.type == "warning" for event in read_events(run.events_path))
    assert all(event["latent_copying"] is event["latent_copied"] is None for event in measured(without))
    assert tensors(run) == tensors(without) and losses(run) == losses(without)
    last = read_run(run).assessment.files[-1].measures
    assert (last.latent_copying, last.latent_copied) == (measures[-1]["latent_copying"], measures[-1]["latent_copied"])


def test_a_failure_ends_the_comparison_and_nothing_else(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 9 bytes.")

    monkeypatch.setattr(LatentCopies, "take", fails)
    run = make_run(**SETTINGS)
    assert train_here(run) == ExitCode.DONE
    warnings = [event.data["code"] for event in read_events(run.events_path) if event.type == "warning"]
    assert warnings == ["samples_not_compared"]
    assert [event["latent_copying"] for event in measured(run)] == [None, None]
    assert all(event["burn"] for event in measured(run))
    assert sum(event.type == "sample" for event in read_events(run.events_path)) == 6


def test_samples_without_a_first_one_and_with_seeds_of_their_own_have_no_base(
    make_run: MakeRun, train_here: Train
) -> None:
    prompts = {
        "sampling__sample_at_first": False, "sampling__sample_prompts": '["zed --w 64 --h 64 --d 1"]'
    }, {"sampling__sample_prompts": '["zed --w 64 --h 64 --d -1"]'}  # fmt: skip
    for number, settings in enumerate(prompts):
        run = make_run(str(number), **{**SETTINGS, **settings})
        assert train_here(run) == ExitCode.DONE
        assert [event["latent_base"] for event in measured(run)] == [None, None]
        assert all(event["latent_copying"] is not None for event in measured(run))
