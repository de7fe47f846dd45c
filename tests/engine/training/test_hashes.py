"""How often a run computes the checksum of each cache file. Counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import pytest
import torch

from engine.dataset import store
from engine.exit_codes import ExitCode
from engine.runs.layout import RunDir
from tests.engine.training.conftest import MakeRun

pytestmark = pytest.mark.usefixtures("unread_files")
CACHED = {
    "memory__cache_latents_to_disk": "true",
    "memory__cache_text_encoder_outputs": "true",
    "memory__cache_text_encoder_outputs_to_disk": "true",
    "sampling__sample_every_n_steps": 0,
}


@pytest.mark.parametrize("overrides", [{}, {"dataset__flip_aug": "true"}, {"dataset__shuffle_caption": "true"}])
def test_each_cache_file_is_hashed_once_in_a_run(
    overrides: dict[str, str],
    make_run: MakeRun,
    train_here: Callable[[RunDir], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: Counter[str] = Counter()
    checksum = store.checksum

    def counted(tensors: Mapping[str, torch.Tensor], key: str = "") -> str:
        hashed[key] += 1
        return checksum(tensors, key)

    monkeypatch.setattr(store, "checksum", counted)
    for place, most in (("first", 2), ("second", 1)):
        hashed.clear()
        run = make_run(place, **CACHED, **overrides)
        assert train_here(run) == ExitCode.DONE
        assert len(hashed) >= 6 + 6, "latents and captions"
        assert max(hashed.values()) == most, "once when it is written, once when it is first loaded"
