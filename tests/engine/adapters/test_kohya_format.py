"""The bytes of a LoRA file: names, types, hashes, and what happens when it cannot be written."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from engine.adapters.kohya_format import write_lora
from engine.errors import StorageError, TrainingError
from tests.refusals import refused

TENSORS = {
    "lora_unet_b.lora_down.weight": torch.arange(12.0).reshape(3, 4),
    "lora_unet_b.lora_up.weight": torch.arange(6.0).reshape(2, 3) / 7,
    "lora_unet_b.alpha": torch.tensor(0.1),
    "lora_te_a.lora_down.weight": torch.ones(3, 2, 1, 1),
    "lora_te_a.lora_up.weight": torch.full((4, 3, 1, 1), 1e-3),
    "lora_te_a.alpha": torch.tensor(2.0),
}
METADATA = {"ss_output_name": "Mäuse 鼠", "ss_epoch": "3", "modelspec.title": "x"}


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [
        ("float", torch.float32),
        ("fp16", torch.float16),
        ("bf16", torch.bfloat16),
    ],
)
def test_tensors_and_metadata_come_back(tmp_path, precision, dtype):
    path = tmp_path / "x.safetensors"
    assert write_lora(path, TENSORS, METADATA, precision, print) == path.stat().st_size
    tensors = load_file(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(tensors[key].dtype == dtype and torch.equal(tensors[key], TENSORS[key].to(dtype)) for key in TENSORS)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {key: metadata[key] for key in METADATA} == METADATA
    assert metadata.keys() == METADATA.keys() | {"sshs_model_hash", "sshs_legacy_hash"}


def test_hashes_are_those_of_sd_scripts(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = {**TENSORS, "lora_unet_large.lora_down.weight": torch.randn(700, 1024)}  # past 1 MiB in fp16
    tensors["lora_unet_large.dora_scale"] = torch.rand(1, 1024)
    write_lora(path, tensors, METADATA, "fp16", print)
    # as sd-scripts: serialised by the safetensors library with the ss_ keys only
    reference = save(
        {key: value if "dora" in key else value.half() for key, value in tensors.items()},
        {"ss_epoch": "3", "ss_output_name": "Mäuse 鼠"},
    )
    start = 8 + int.from_bytes(reference[:8], "little")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == hashlib.sha256(reference[start:]).hexdigest()
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(reference[0x100000:0x110000]).hexdigest()[:8]
    written = path.read_bytes()
    assert written[8 + int.from_bytes(written[:8], "little") :] == reference[start:]


def test_legacy_hash_of_a_small_file_is_that_of_nothing(tmp_path):
    write_lora(tmp_path / "x.safetensors", TENSORS, METADATA, "fp16", print)
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata()["sshs_legacy_hash"] == "e3b0c442"


def test_equal_input_gives_equal_bytes_whatever_the_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    metadata = {f"ss_{number}": "x" for number in range(30)}
    write_lora(first, TENSORS, metadata, "fp16", print)
    write_lora(second, dict(reversed(TENSORS.items())), dict(reversed(metadata.items())), "fp16", print)
    assert first.read_bytes() == second.read_bytes()


def test_header_is_aligned_and_json(tmp_path):
    write_lora(tmp_path / "x.safetensors", TENSORS, METADATA, "fp16", print)
    data = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length])["lora_te_a.alpha"] == {"dtype": "F16", "shape": [], "data_offsets": [0, 2]}


def test_values_beyond_fp16_are_written_in_fp32_with_a_message(tmp_path):
    messages = []
    tensors = {**TENSORS, "lora_unet_b.lora_up.weight": torch.full((2, 3), 1e5)}
    write_lora(tmp_path / "x.safetensors", tensors, {}, "fp16", messages.append)
    assert load_file(tmp_path / "x.safetensors")["lora_unet_b.lora_up.weight"].dtype == torch.float32
    assert len(messages) == 1
    assert (
        "is written in fp32: 1 tensors hold values beyond the range of fp16 (lora_unet_b.lora_up.weight)" in messages[0]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_refused_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "x.safetensors"
    write_lora(path, TENSORS, METADATA, "fp16", print)
    before = path.read_bytes()
    with refused("lora-not-finite", "1 of its 6 tensors", "lora_unet_b.alpha"):
        write_lora(path, {**TENSORS, "lora_unet_b.alpha": torch.tensor(value)}, METADATA, "fp16", print)
    assert path.read_bytes() == before


def test_a_failed_check_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")

    def refuse(temporary):
        assert load_file(temporary)
        raise TrainingError("no")

    with pytest.raises(TrainingError, match="no"):
        write_lora(path, TENSORS, METADATA, "fp16", print, check=refuse)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_no_space(tmp_path, monkeypatch):
    def no_space(directory, needed, what):
        raise StorageError(f"{what} needs {needed} bytes")

    monkeypatch.setattr("engine.adapters.kohya_format.require_space", no_space)
    with pytest.raises(StorageError, match="needs"):
        write_lora(tmp_path / "x.safetensors", TENSORS, METADATA, "fp16", print)
    assert not list(tmp_path.iterdir())
