"""Every kind of adapter on every family: killed with SIGKILL inside the write of a state, a run has the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial

import pytest

from engine.exit_codes import ExitCode
from engine.runs import prepare_resume
from engine.runs.layout import RunDir
from engine.runs.state import true_state
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_adapter_kinds import KINDS
from tests.engine.training.test_kills import digest, killed_inside
from tests.forked import ForkedTrainer
from tests.tiny_flux import tiny_files
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

SETTINGS: dict[str, object] = {
    "training__max_train_steps": 4, "saving__save_state_every_n_steps": 1, "sampling__sample_every_n_steps": 0,
    "saving__save_every_n_epochs": 0, "dataset__min_bucket_reso": 32, "dataset__bucket_reso_steps": 16,
}  # fmt: skip
FAMILIES = ("sd15", "sdxl", "flux")
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Settings of `[model]` by family."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "xl").mkdir()
    (folder / "flux").mkdir()
    flux = tiny_files(folder / "flux", blocks=(1, 2)).settings
    return {
        "sd15": {"model__pretrained_model_name_or_path": tiny_sd15(folder)},
        "sdxl": {"model__pretrained_model_name_or_path": tiny_sdxl(folder / "xl", file=True)},
        "flux": {**{f"model__{key}": value for key, value in flux.items()}, "model__t5xxl_max_token_length": 16},
    }


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [name for name, case in KINDS.items() if case.installed is None])
def test_a_kill_changes_no_byte(
    kind: str, family: str, models: dict[str, dict[str, object]], make_run: MakeRun, train_here: Callable[[RunDir], int]
) -> None:
    larger = {"network__network_dim": 64} if kind == "BOFT" else {}  # blocks that the sides of these layers have
    settings = {**SETTINGS, **models[family], **KINDS[kind].keys, **larger}
    straight, run = make_run("straight", **settings), make_run("killed", **settings)
    assert train_here(straight) == ExitCode.DONE
    process = ForkedTrainer(run, partial(killed_inside, "state-00000003"))
    assert process.wait(120) == -signal.SIGKILL and true_state(run).state == "lost"
    prepare_resume(run)
    assert train_here(run) == ExitCode.DONE
    assert "Resumed at step 2" in run.events_path.read_text() and digest(run) == digest(straight)
