"""T5's tokens counted without torch are those that a run has."""

from __future__ import annotations

from pathlib import Path

from engine.config import RunConfig
from engine.dataset.report.checking import check
from engine.dataset.report.measure_cache import MeasureCache
from engine.families.flux.t5_tokenizer import read_t5
from engine.families.flux.tokenizers import read_t5_tokenizer
from tests.drawn_images import save, scene
from tests.engine.dataset.report.conftest import image_names
from tests.engine.models.test_spiece import spiece
from tests.refusals import refused
from tests.tiny_flux import PIECES, tiny_t5_tokenizer


def test_both_kinds_of_files_count_as_a_run_does(tmp_path: Path) -> None:
    (tmp_path / "spiece").mkdir()
    (tmp_path / "spiece" / "spiece.model").write_bytes(spiece(PIECES, b""))
    for folder in (tmp_path / "spiece", tiny_t5_tokenizer(tmp_path / "json")):
        ours, theirs = read_t5(folder), read_t5_tokenizer(folder)
        for text in ("a zed, blue", "zed 7", "", "  two   blanks "):
            assert len(ours.encode(text, add_special_tokens=False).ids) + 1 == len(theirs(text).input_ids)


def test_a_caption_too_long_for_t5(tmp_path: Path) -> None:
    """Of 16 tokens one is the end."""
    count = len(read_t5(tiny_t5_tokenizer(tmp_path / "t5")).encode("a", add_special_tokens=False).ids)
    fits = 15 // count
    save(tmp_path / "p", "fits.png", scene(1, (96, 96)), " ".join(["a"] * fits))
    save(tmp_path / "p", "long.png", scene(2, (96, 96)), " ".join(["a"] * (fits + 1)))
    model = {"family": "flux", "t5_tokenizer": str(tmp_path / "t5"), "t5xxl_max_token_length": 15 // count * count + 1}
    config = RunConfig.model_validate({"dataset": {"train_data_dir": str(tmp_path / "p")}, "model": model})
    assert image_names(check(config, cache=MeasureCache(tmp_path / "cache"))[0], "caption-long") == {"long.png"}


def test_a_broken_tokenizer_is_reported(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with refused("tokenizer-unreadable", tmp_path):
        read_t5(tmp_path)
