"""Checkpoints with weights that cannot be: refused with the tensor's name, from the header wherever that tells."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.exit_codes import ExitCode
from engine.families.registry import recognise
from engine.families.unet.model import SD15Model
from engine.models.loading import open_tensors
from tests.refusals import refused

Change = Callable[[torch.Tensor], torch.Tensor]
PLACES = [  # part, its tensor in a folder, the same in a single file
    ("unet", "conv_in.weight", "model.diffusion_model.input_blocks.0.0.weight"),
    ("unet", "conv_out.bias", "model.diffusion_model.out.2.bias"),
    ("vae", "decoder.conv_in.weight", "first_stage_model.decoder.conv_in.weight"),
    (
        "text_encoder",
        "text_model.final_layer_norm.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight",
    ),
]


def changed(path: Path, target: Path, part: str, name: str, change: Change) -> Path:
    """A copy of the checkpoint with one changed tensor."""
    if path.is_file():
        file = target / path.name
        shutil.copy(path, file)
        result = file
    else:
        result = target / path.name
        shutil.copytree(path, result)
        file = next((result / part).glob("*.safetensors"))
    tensors = load_file(file)
    name = name if name in tensors else name.removeprefix("text_model.")
    tensors[name] = change(tensors[name])
    save_file(tensors, file)
    return result


def poisoned(value: float) -> Change:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.clone()
        tensor.view(-1)[-1] = value
        return tensor

    return change


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "part", "name", "inside"),
    [
        *((NAN, *place) for place in PLACES),
        *((value, *PLACES[0]) for value in (INF, -INF)),
        *(pytest.param(value, *place, marks=pytest.mark.soak) for value in (INF, -INF) for place in PLACES[1:]),
    ],
)
def test_not_finite(
    folder: Path, single_file: Path, tmp_path: Path, load: Callable[..., SD15Model], part: str, name: str,
    inside: str, value: float,
) -> None:  # fmt: skip
    for path, where in ((folder, name), (single_file, inside)):
        bad = changed(path, tmp_path, part, where, poisoned(value))
        with refused("weights-not-finite", where.removeprefix("text_model.")) as error:
            load(bad)
        assert error.value.exit_code == ExitCode.BAD_DATA
        assert "earning rate" not in str(error.value)


def test_beyond_the_range_of_fp16(folder: Path, tmp_path: Path, load: Callable[..., SD15Model]) -> None:
    bad = changed(folder, tmp_path, "unet", "conv_in.weight", poisoned(1e6))
    with refused("number-format-exceeded", "conv_in.weight", "fp16", "bf16"):
        load(bad, "fp16")
    assert load(bad, "bf16")


def test_a_large_sum_is_no_fault(folder: Path, tmp_path: Path, load: Callable[..., SD15Model]) -> None:
    large = changed(folder, tmp_path, "unet", "conv_in.weight", lambda tensor: torch.full_like(tensor, 60000.0))
    assert load(large, "fp16")


@pytest.mark.parametrize(("part", "name", "inside"), PLACES)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda tensor: tensor.new_zeros(0, *tensor.shape[1:]), None),
        (lambda tensor: tensor.to(torch.int8), "I8"),
        (lambda tensor: tensor.to(torch.int64), "I64"),
        (lambda tensor: tensor.to(torch.bool), "BOOL"),
        (lambda tensor: tensor.to(torch.complex64), "C64"),
        (lambda tensor: tensor.to(torch.float8_e8m0fnu), "F8_E8M0"),
        (lambda tensor: tensor.to(torch.float8_e4m3fnuz), "F8_E4M3FNUZ"),
    ],
)
def test_what_headers_show(
    folder: Path, single_file: Path, tmp_path: Path, part: str, name: str, inside: str, change: Change, kind: str | None
) -> None:
    for path, where in ((folder, name), (single_file, inside)):
        bad = changed(path, tmp_path, part, where, change)
        if kind is None:
            code, what = "weights-empty", "1 of its weights"
        elif kind == "I8" and where.endswith("weight"):
            code, what = "weights-packed", "packed"
        else:
            code, what = "number-format-not-supported", f"in {kind}"
        with refused(code, what, where.removeprefix("text_model.")) as error:
            recognise(bad)
        assert error.value.hint


@pytest.mark.parametrize("shape", [(), (8,), (8, 8)])
@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.0.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        "model.diffusion_model.out.2.weight",
        "first_stage_model.post_quant_conv.weight",
        "first_stage_model.encoder.down.0.block.0.conv1.weight",
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight",
    ],
)
def test_shapes_of_too_few_sides(
    single_file: Path, tmp_path: Path, load: Callable[..., SD15Model], name: str, shape: tuple[int, ...]
) -> None:
    bad = changed(single_file, tmp_path, "", name, lambda tensor: torch.zeros(shape))
    with pytest.raises(ModelError) as error:
        load(bad)
    assert error.value.hint


def test_what_the_library_refuses_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"12345678")
    with refused("model-file-unreadable", path), open_tensors([path]):
        pass
