"""A tiny run with samples, trained once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.runs.layout import RunDir
from tests.forked import ForkedTrainer
from tests.tiny_models import tiny_sd15


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    """A finished run of four steps on a tiny model: text encoder and convolutions trained, files in fp32."""
    from PIL import Image

    from engine.config import load_config
    from engine.runs.prepare import prepare_run

    place = tmp_path_factory.mktemp("trained")
    (place / "images").mkdir()
    for number in range(2):
        Image.new("RGB", (64, 64), (90 * number, 100, 200)).save(place / "images" / f"{number}.png")
        (place / "images" / f"{number}.txt").write_text("zed, blue")
    settings = {
        "model.pretrained_model_name_or_path": tiny_sd15(place / "model"),
        "dataset.train_data_dir": place / "images",
        "dataset.resolution": 64,
        "dataset.num_repeats": 2,
        "dataset.enable_bucket": "false",
        "network.network_dim": 4,
        "network.conv_dim": 4,
        "training.max_train_steps": 4,
        "training.learning_rate": 0.02,
        "memory.device": "cpu",
        "memory.num_cpu_threads_per_process": 1,
        "saving.output_name": "zed",
        "saving.output_dir": place / "out",
        "saving.save_precision": "float",
        "saving.save_every_n_steps": 2,
        "sampling.sample_every_n_steps": 2,
        "sampling.sample_steps": 3,
        "sampling.sample_prompts": '["{trigger} in blue --d 3", "a house --d 4 --n dull --ss euler_a"]',
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        run = prepare_run(load_config(None, [f"{key}={value}" for key, value in settings.items()]))
        assert ForkedTrainer(run).wait() == 0
    yield run
