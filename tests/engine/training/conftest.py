"""Tiny runs: a real-class model made on the fly, six small images, a dozen steps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from engine.config import load_config
from engine.results import check_plan
from engine.runs.layout import RunDir
from engine.runs.prepare import prepare_run
from engine.training.__main__ import main
from engine.training.session import Signals
from tests.forked import ForkedTrainer, fork_ranks
from tests.memory_limit import start_limited

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {
    "memory.on_oom": "stop",  # a new start would replace the process of the tests
    "saving.output_name": "zed",
    "dataset.resolution": 64,
    "dataset.min_bucket_reso": 32,
    "dataset.bucket_reso_steps": 16,
    "dataset.num_repeats": 2,
    "training.max_train_steps": 12,
    "training.train_batch_size": 2,
    "network.network_dim": 4,
    "network.network_alpha": 4,
    "training.learning_rate": 1e-3,
    "saving.save_state_every_n_steps": 4,
    "sampling.sample_every_n_steps": 5,
    "sampling.sample_steps": 2,
}


@pytest.fixture(autouse=True)
def small_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest scope of a check has two images of each role and two samples by the base model, instead of four and
    sixteen: a check would take longer than the training."""
    points = check_plan._LADDER[0][1]
    monkeypatch.setattr(check_plan, "_LADDER", ((2, points, 2, 2), *check_plan._LADDER[1:]))


@pytest.fixture
def unread_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved LoRAs are not read back by diffusers and compared, a quarter of a tiny run's time: for tests of something
    else. The check itself is tested in tests/engine/adapters/test_verify.py, and in every run without this."""
    monkeypatch.setattr("engine.training.lora_files.verify_file", lambda *_: 0.0)


@pytest.fixture
def commands_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control box is looked at before every step, and not at most five times a second: for tests of a command at an
    exact step."""
    monkeypatch.setattr("engine.runs.control.POLL_SECONDS", 0.0)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import tiny_sd15

    return tiny_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(6):
        size = (64 + 16 * (index % 3), 64)
        Image.new("RGB", size, (index * 40, 100, 200 - index * 30)).save(folder / f"p{index}.png")
        (folder / f"p{index}.txt").write_text(f"zed, tag{index}, blue, round, big")
    return folder


MakeRun = Callable[..., RunDir]


@pytest.fixture
def make_run(tiny_model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Prepare a run in `<tmp>/<place>`; keyword arguments are overrides with `__` for the dot."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    def make(place: str = "out", **overrides: object) -> RunDir:
        settings = {
            "model.pretrained_model_name_or_path": tiny_model,
            "dataset.train_data_dir": images,
            "saving.output_dir": tmp_path / place,
            **SETTINGS,
            **{key.replace("__", "."): value for key, value in overrides.items()},
        }
        return prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]), restart=True)

    return make


def train_in_process(run: RunDir) -> int:
    """Train in this process, which keeps its signals: to whoever ends the tests the run would only stop, and its test
    fail without a reason. Signals to trainers are tested on processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Signals, "install", lambda self: None)
        return main([str(run.path)])


@pytest.fixture
def train_here() -> Callable[[RunDir], int]:
    """Train in this process."""
    return train_in_process


Process = ForkedTrainer | subprocess.Popen[bytes]


def start(run: RunDir) -> ForkedTrainer:
    """Train in a process of its own, without the time of its imports."""
    return ForkedTrainer(run)


def start_ranks(run: RunDir) -> ForkedTrainer:
    """As `start`, for a run with several processes: none of them imports anything anew."""
    return ForkedTrainer(run, fork_ranks)


def start_process(run: RunDir) -> subprocess.Popen[bytes]:
    """Train in a process of its own, as the shell command starts it."""
    return start_limited(run, None)
