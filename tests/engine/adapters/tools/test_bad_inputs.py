"""Files that no tool takes: one sentence that says what and where, exit code 3, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.adapters.tools.__main__ import run_request
from engine.adapters.tools.lora_file import read_lora
from engine.adapters.tools.requests import ConvertRequest, ExtractRequest, MergeRequest, Request, ResizeRequest
from engine.errors import LoraSmithError
from engine.exit_codes import ExitCode
from tests.engine.adapters.tools.conftest import SD15, Tensors, lora_tensors, silent
from tests.refusals import refused

Saved = Callable[..., Path]
NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
GOOD = lora_tensors(SD15)


def changed(**parts: torch.Tensor | None) -> Tensors:
    """The good file with other tensors in one module; None: left out."""
    tensors = dict(GOOD)
    for part, tensor in parts.items():
        key = f"{NAME}.{part.replace('__', '.')}"
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    return tensors


def of_kind(**shapes: tuple[int, ...]) -> Tensors:
    return {f"{NAME}.{part.replace('__', '.')}": torch.ones(shape) for part, shape in shapes.items()}


BAD: dict[str, tuple[Tensors, str, str]] = {
    "NaN": (changed(lora_up__weight=torch.full((32, 4, 1, 1), float("nan"))), "weights-not-finite", f"{NAME}.lora_up"),
    "infinity": (
        changed(lora_down__weight=torch.full((4, 32, 1, 1), float("inf"))), "weights-not-finite", f"{NAME}.lora_down",
    ),
    "no up": (changed(lora_up__weight=None), "lora-incomplete", f"lora_up.weight: {NAME}"),
    "no down": (changed(lora_down__weight=None), "lora-incomplete", f"lora_down.weight: {NAME}"),
    "ranks that differ": (changed(lora_up__weight=torch.ones(32, 5, 1, 1)), "lora-ranks-differ", NAME),
    "alpha of several": (changed(alpha=torch.ones(2)), "lora-alpha-wrong", f"{NAME}.alpha"),
    "alpha 0": (changed(alpha=torch.tensor(0.0)), "lora-alpha-zero", f"{NAME}.alpha"),
    "strange tensors": ({**GOOD, "something.else": torch.ones(2)}, "lora-unknown-key", "something.else"),
    "DoRA": (changed(dora_scale=torch.ones(1, 32)), "lora-kind-not-computable", "of the kind DoRA"),
    "OFT": (of_kind(oft_blocks=(4, 2, 2)), "lora-kind-not-computable", "of the kind OFT"),
    "BOFT": (of_kind(oft_blocks=(2, 4, 2, 2)), "lora-kind-not-computable", "of the kind BOFT"),
    "GLoRA": (
        of_kind(a1__weight=(32, 4), a2__weight=(4, 32), b1__weight=(32, 4), b2__weight=(4, 32)),
        "lora-kind-not-computable", "of the kind GLoRA",
    ),
    "norm": (of_kind(w_norm=(8,), b_norm=(8,)), "lora-kind-not-computable", "of the kind norm"),
    "T-LoRA": (
        of_kind(q_layer__weight=(4, 8), p_layer__weight=(8, 4), lambda_layer=(1, 4)),
        "lora-kind-not-computable", "of the kind T-LoRA",
    ),
    "LoHa with DoRA": (
        of_kind(hada_w1_a=(8, 4), hada_w1_b=(4, 8), hada_w2_a=(8, 4), hada_w2_b=(4, 8), dora_scale=(1, 8)),
        "lora-kind-not-computable", "LoHa with DoRA",
    ),
    "biases": (of_kind(diff=(8, 8), diff_b=(8,)), "lora-changes-biases", "1 biases"),
    "no LoRA": ({"a.weight": torch.ones(2)}, "not-a-lora", ""),
    "a checkpoint": ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, "not-a-lora", "a U-Net"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_one_sentence(case: str, saved: Saved) -> None:
    tensors, code, part = BAD[case]
    path = saved(tensors, "bad")
    with refused(code, "bad.safetensors", part) as caught:
        read_lora(path)
    assert caught.value.exit_code == ExitCode.BAD_DATA and caught.value.hint
    assert "\n" not in caught.value.message


def requests(bad: Path, good: Path, out: Path) -> list[Request]:
    return [
        ResizeRequest(file=str(bad), out=str(out), rank=2),
        MergeRequest(files=[(str(good), 1.0), (str(bad), 1.0)], out=str(out)),
        ConvertRequest(file=str(bad), to="diffusers", out=str(out)),
    ]


@pytest.mark.parametrize("case", ["NaN", "no up", "DoRA"])
def test_no_tool_takes_it_or_writes_anything(case: str, saved: Saved, tmp_path: Path) -> None:
    bad, good = saved(BAD[case][0], "bad"), saved(GOOD, "good")
    for request in requests(bad, good, tmp_path / "out.safetensors"):
        renamed = case == "DoRA" and isinstance(request, ConvertRequest)  # which needs no ΔW, but a name
        code, part = ("lora-kind-not-convertible", "DoRA") if renamed else BAD[case][1:]
        with refused(code, part) as caught:
            run_request(request.as_json(), silent)
        assert caught.value.exit_code == ExitCode.BAD_DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.safetensors", "good.safetensors"]


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (lambda path: None, "model-file-missing"),
        (lambda path: path.mkdir(), "peft-folder-without-weights"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "model-is-pickle"),
        (lambda path: path.write_bytes(b"x" * 100), "not-safetensors"),
        (lambda path: path.write_bytes(b""), "model-file-cut-short"),
    ],
)
def test_what_is_no_file_of_tensors(write: Callable[[Path], None], code: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    write(path)
    with pytest.raises(LoraSmithError) as caught:
        read_lora(path)
    assert (caught.value.code, caught.value.exit_code) == (code, ExitCode.BAD_DATA)


def test_a_loha_has_no_names_of_diffusers(saved: Saved, tmp_path: Path) -> None:
    loha = saved(of_kind(hada_w1_a=(8, 4), hada_w1_b=(4, 8), hada_w2_a=(8, 4), hada_w2_b=(4, 8), alpha=()), "bad")
    request = ConvertRequest(file=str(loha), to="diffusers", out=str(tmp_path / "o.safetensors"))
    with refused("lora-kind-not-convertible") as caught:
        run_request(request.as_json(), silent)
    assert caught.value.exit_code == ExitCode.BAD_DATA


def test_a_model_without_a_table_cannot_be_renamed(saved: Saved, tmp_path: Path) -> None:
    wan = "diffusion_model.blocks.0.self_attn.q"
    path = saved({f"{wan}.lora_A.weight": torch.ones(4, 8), f"{wan}.lora_B.weight": torch.ones(8, 4)}, "bad")
    with refused("lora-naming-not-supported"):
        run_request(ConvertRequest(file=str(path), to="kohya", out=str(tmp_path / "o.safetensors")).as_json(), silent)


def test_a_lora_is_no_checkpoint(saved: Saved, tmp_path: Path) -> None:
    lora, out = str(saved(GOOD)), str(tmp_path / "out.safetensors")
    for request in (
        MergeRequest(files=[(lora, 1.0)], into=lora, out=out),
        ExtractRequest(tuned=lora, base=lora, rank=2, out=out),
    ):
        with refused("model-is-lora", lora) as caught:
            run_request(request.as_json(), silent)
        assert caught.value.exit_code == ExitCode.BAD_DATA


@pytest.mark.parametrize(
    ("out", "code"),
    [
        (None, "no-output-file"),
        ("out.bin", "output-not-safetensors"),
        ("nowhere/out.safetensors", "output-folder-missing"),
        ("there.safetensors", "output-exists"),
        ("a.safetensors", "output-is-input"),
        ("folder.safetensors", "output-exists"),
    ],
)
def test_output_paths_that_are_refused(out: str | None, code: str, saved: Saved, tmp_path: Path) -> None:
    source = saved(GOOD)
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "folder.safetensors").mkdir()
    place = None if out is None else str(tmp_path / out)
    with refused(code):
        run_request(ResizeRequest(file=str(source), out=place, rank=2).as_json(), silent)
    with refused("output-is-input"):
        run_request(ResizeRequest(file=str(source), out=str(source), rank=2, overwrite=True).as_json(), silent)
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"


def test_overwrite_replaces_the_named_file(saved: Saved, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    request = ResizeRequest(file=str(saved(GOOD)), out=str(tmp_path / "there.safetensors"), rank=2, overwrite=True)
    run_request(request.as_json(), silent)
    assert read_lora(tmp_path / "there.safetensors").layers.keys() == SD15.keys()
