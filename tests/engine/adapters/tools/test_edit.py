"""Edit: the tensors' bytes stay, the hashes are Kohya's of the new header, nothing is overwritten unasked."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.adapters.kohya_format import write_lora
from engine.adapters.tools.edit import EditRequest, edit
from engine.models.header import read_header
from tests.engine.adapters.tools.conftest import SD15, lora_tensors
from tests.refusals import refused

Saved = Callable[..., Path]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A file as the trainer writes it, larger than what the old hash looks at."""
    path = tmp_path / "a.safetensors"
    metadata = {"ss_output_name": "a", "modelspec.title": "a", "ss_base_model_version": "sd_v1"}
    tensors = lora_tensors({**SD15, "lora_unet_mid_block_resnets_0_conv1": (512, 512, 3, 3)}, rank=100)
    write_lora(path, tensors, metadata, "float", lambda _: None)
    return path


def run(path: Path, out: Path | None = None, **options: Any) -> Any:
    return edit(EditRequest(file=str(path), out=str(out) if out else None, **options))


def payload(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_the_tensors_stay_and_the_metadata_are_as_asked(lora: Path, tmp_path: Path) -> None:
    before = lora.read_bytes()
    report, changes = run(lora, tmp_path / "b.safetensors", values={"ss_seed": "7"}, unset=("modelspec.title",),
                          trigger="ohwx person", strength=0.8)  # fmt: skip
    assert lora.read_bytes() == before and payload(tmp_path / "b.safetensors") == payload(lora)
    metadata = read_header(tmp_path / "b.safetensors").metadata
    assert metadata["ss_seed"] == "7" and metadata["modelspec.trigger_phrase"] == "ohwx person"
    assert "modelspec.title" not in metadata and metadata["lorasmith.strength"] == "0.8"
    assert metadata["modelspec.usage_hint"] == "Recommended strength: 0.8"
    assert changes["ss_seed"] == (None, "7") and changes["modelspec.title"] == ("a", None)
    assert (
        inspect_lora(tmp_path / "b.safetensors").problems == []
        and report.size == (tmp_path / "b.safetensors").stat().st_size
    )


def test_both_hashes_are_those_that_the_writer_of_a_training_gives(lora: Path, tmp_path: Path) -> None:
    """The same tensors written with the new metadata from the start."""
    run(lora, tmp_path / "b.safetensors", values={"ss_seed": "7"})
    from safetensors.torch import load_file

    metadata = {key: value for key, value in read_header(lora).metadata.items() if not key.startswith("sshs_")}
    write_lora(tmp_path / "c.safetensors", load_file(lora), {**metadata, "ss_seed": "7"}, "float", lambda _: None)
    assert (tmp_path / "b.safetensors").read_bytes() == (tmp_path / "c.safetensors").read_bytes()
    assert lora.stat().st_size > 2**21  # so the old hash sees numbers
    written = read_header(tmp_path / "b.safetensors").metadata
    assert written["sshs_legacy_hash"] != read_header(lora).metadata["sshs_legacy_hash"]
    assert written["sshs_model_hash"] == hashlib.sha256(payload(lora)).hexdigest()


def test_a_hash_that_was_wrong_is_corrected_and_lycoris_own_stays(saved: Saved, tmp_path: Path) -> None:
    wrong = saved(lora_tensors(SD15), "wrong", {"sshs_model_hash": "0" * 64})
    report, _ = run(wrong, tmp_path / "b.safetensors", trigger="x")
    assert read_header(tmp_path / "b.safetensors").metadata["sshs_model_hash"] == (
        hashlib.sha256(payload(wrong)).hexdigest()
    )
    assert any("sshs_model_hash" in note for note in report.notes)
    own = saved(lora_tensors(SD15), "own", {"sshs_model_hash": "0x12345678"})
    run(own, tmp_path / "c.safetensors", trigger="x")
    assert read_header(tmp_path / "c.safetensors").metadata["sshs_model_hash"] == "0x12345678"


def test_a_file_of_any_kind_and_number_format(saved: Saved, tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{name}.oft_blocks": torch.ones(4, 2, 2).half(), f"{name}.alpha": torch.tensor(1)}
    source = saved(tensors)
    run(source, tmp_path / "b.safetensors", trigger="x")
    assert payload(tmp_path / "b.safetensors") == payload(source)


def test_in_place_replaces_the_file_in_one_step_and_only_on_request(lora: Path, tmp_path: Path) -> None:
    numbers = payload(lora)
    with refused("no-output-file"):
        run(lora, trigger="x")
    with refused("output-is-input"):
        run(lora, lora, trigger="x", overwrite=True)
    run(lora, in_place=True, trigger="x")
    assert payload(lora) == numbers and read_header(lora).metadata["modelspec.trigger_phrase"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    link = tmp_path / "link.safetensors"
    link.symlink_to(lora)
    run(link, in_place=True, trigger="y")
    assert link.is_symlink() and read_header(lora).metadata["modelspec.trigger_phrase"] == "y"


def test_nothing_is_overwritten_unasked(lora: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(b"mine")
    with refused("output-exists"):
        run(lora, other, trigger="x")
    assert other.read_bytes() == b"mine"
    run(lora, other, trigger="x", overwrite=True)
    assert payload(other) == payload(lora)


def test_a_dry_run_writes_nothing(lora: Path, tmp_path: Path) -> None:
    report, changes = run(lora, tmp_path / "b.safetensors", trigger="x", dry_run=True)
    assert report.output is None and changes["modelspec.trigger_phrase"] == (None, "x")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_thumbnail_is_made_small(lora: Path, tmp_path: Path) -> None:
    Image.new("RGB", (900, 600), "red").save(tmp_path / "t.png")
    run(lora, tmp_path / "b.safetensors", thumbnail=str(tmp_path / "t.png"))
    head, _, text = read_header(tmp_path / "b.safetensors").metadata["modelspec.thumbnail"].partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.size == (512, 341)


def test_the_usage_hint_of_somebody_else_stays(saved: Saved, tmp_path: Path) -> None:
    source = saved(lora_tensors(SD15), metadata={"modelspec.usage_hint": "with care"})
    run(source, tmp_path / "b.safetensors", strength=0.7)
    metadata = read_header(tmp_path / "b.safetensors").metadata
    assert (metadata["modelspec.usage_hint"], metadata["lorasmith.strength"]) == ("with care", "0.7")


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        ({}, "nothing-to-change", ""),
        ({"values": {"modelspec.title": "a"}}, "nothing-to-change", ""),
        ({"values": {"sshs_model_hash": "1"}}, "metadata-key-computed", "sshs_model_hash"),
        ({"values": {" ": "1"}}, "metadata-key-empty", ""),
        ({"unset": ("nothing",)}, "metadata-key-missing", "nothing"),
        ({"strength": 99.0}, "strength-invalid", "--strength 99"),
        ({"strength": float("nan")}, "strength-invalid", "--strength nan"),
        ({"thumbnail": "/nowhere.png"}, "thumbnail-not-possible", "/nowhere.png"),
        ({"trigger": "\ud800"}, "metadata-not-utf8", ""),
        ({"trigger": "x", "in_place": True, "out": "b"}, "in-place-with-output", "--in-place"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], code: str, part: str, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.safetensors"
    before = lora.read_bytes()
    with refused(code, part):
        edit(EditRequest(file=str(lora), **{"out": str(out), **options}))
    assert not out.exists() and lora.read_bytes() == before


def test_a_checkpoint_is_no_lora(saved: Saved, tmp_path: Path) -> None:
    source = saved({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3)})
    with refused("not-a-lora"):
        run(source, tmp_path / "b.safetensors", trigger="x")
