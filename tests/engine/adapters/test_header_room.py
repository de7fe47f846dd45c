"""Metadata that do not fit into a header are cut, the least important first; the weights are always written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from engine.adapters.header_room import fit_metadata
from engine.adapters.kohya_format import write_lora
from engine.models import header
from engine.models.header import read_header

TAGS = {f'tag {number} «{chr(0x3042 + number % 50)}» "x\\': 1 + number for number in range(400)}
FREQUENCY = {"10_zed": TAGS, "5_other": {"rare": 1, "common": 1000}}
DATASETS = [{"tag_frequency": {"10_zed": TAGS}, "resolution": [64, 64]}, {"tag_frequency": {}}]
BASE = {"ss_network_dim": "4", "ss_base_model_version": "sd_v1", "modelspec.title": "zed"}
LIMIT = 20_000


def size(metadata: dict[str, str]) -> int:
    return len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "tables",
    [
        {"ss_tag_frequency": json.dumps(FREQUENCY)},
        {"ss_datasets": json.dumps(DATASETS)},
        {"ss_tag_frequency": json.dumps(FREQUENCY), "ss_datasets": json.dumps(DATASETS)},
    ],
)
@pytest.mark.parametrize("room", [500, 5_000, LIMIT, 10**6])
def test_the_rarest_tags_go_first(tables: dict[str, str], room: int) -> None:
    metadata = {**BASE, **tables}
    kept, notes = fit_metadata(metadata, room)
    assert size(kept) <= room and {key: kept[key] for key in BASE} == BASE and kept.keys() == metadata.keys()
    if size(metadata) <= room:
        assert kept == metadata and notes == []
        return
    assert len(notes) == 1 and "tags, the rarest, are left out" in notes[0]
    assert size(kept) > room - 600, "no more than necessary"
    for key, table in (("ss_tag_frequency", FREQUENCY), ("ss_datasets", DATASETS)):
        if key not in kept:
            continue
        left, all_tags = counts(json.loads(kept[key])), counts(table)
        gone = all_tags - left
        assert gone and left < all_tags and (not left or max(c for c, _ in gone) <= min(c for c, _ in left))


def counts(value: object) -> set[tuple[int, str]]:
    tables = [d["tag_frequency"] for d in value] if isinstance(value, list) else [value]
    return {(count, tag) for folders in tables for tags in folders.values() for tag, count in tags.items()}


def test_what_is_left_out_after_the_tags_is_the_largest(room: int = 1000) -> None:
    metadata = {**BASE, "modelspec.thumbnail": "data:" + "x" * 5000, "ss_training_comment": "é" * 2000}
    kept, notes = fit_metadata({**metadata, "ss_tag_frequency": json.dumps(FREQUENCY)}, room)
    assert kept.keys() == {*BASE, "ss_tag_frequency"} and json.loads(kept["ss_tag_frequency"])["10_zed"] == {}
    assert notes[1] == "modelspec.thumbnail, ss_training_comment of its metadata are left out"


def test_the_file_is_written_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_HEADER", LIMIT)
    messages: list[str] = []
    path = tmp_path / "zed.safetensors"
    metadata = {**BASE, "ss_tag_frequency": json.dumps(FREQUENCY)}
    tensors = {f"lora_unet_{number}.alpha": torch.tensor(4.0) for number in range(40)}
    write_lora(path, tensors, metadata, "fp16", messages.append)
    assert int.from_bytes(path.read_bytes()[:8], "little") <= LIMIT
    assert len(messages) == 1 and messages[0].startswith(f"{path}: ") and "20,000 bytes" in messages[0]
    assert read_header(path).metadata.keys() == {*metadata, "sshs_model_hash", "sshs_legacy_hash"}


@pytest.mark.slow  # writes 100 MB
def test_at_the_limit_of_a_header(tmp_path: Path) -> None:
    """More tags than any header holds: 44 MB of them."""
    messages: list[str] = []
    path = tmp_path / "zed.safetensors"
    tags = {f"{number} {'t' * 5000}": number for number in range(8_800)}
    metadata = {**BASE, "ss_tag_frequency": json.dumps({"10_zed": tags})}
    write_lora(path, {"lora_unet_a.alpha": torch.tensor(4.0)}, metadata, "fp16", messages.append)
    with safe_open(path, "pt") as file:
        kept = json.loads(file.metadata()["ss_tag_frequency"])["10_zed"]
        assert file.get_tensor("lora_unet_a.alpha").item() == 4.0
    assert 6_000 < len(kept) < 7_000 and min(kept.values()) == 8_800 - len(kept) and len(messages) == 1
