"""Recognising a checkpoint: every kind that is taken, and the sentence for every kind that is not."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.families.registry import families, family_named, recognise
from tests.refusals import refused
from tests.tiny_models import tiny_sd15

UNET = "model.diffusion_model."
TO_K = UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
STEM = UNET + "input_blocks.0.0.weight"


def checkpoint(path: Path, *names: str, **shapes: tuple[int, ...]) -> Path:
    tensors = {name: torch.zeros(1) for name in names} | {name: torch.zeros(shape) for name, shape in shapes.items()}
    save_file(tensors, path)
    return path


def test_loads_no_torch(single_file: Path, folder: Path) -> None:
    code = (
        "import sys; from engine.families.registry import recognise\n"
        f"recognise({str(single_file)!r}); recognise({str(folder)!r})\n"
        "print([m for m in ('torch', 'diffusers', 'transformers', 'peft', 'safetensors', 'numpy', 'textual')"
        " if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_families_by_name() -> None:
    assert [family_named(family.name).spec.title for family in families()] == ["Stable Diffusion 1.5", "SDXL", "FLUX.1"]


def test_a_folder(folder: Path) -> None:
    model = recognise(folder)
    assert (model.family, model.layout, model.prediction_type, model.zero_terminal_snr, model.dtype) == (
        "sd15",
        "diffusers",
        "epsilon",
        False,
        "fp32",
    )
    assert model.size == sum(file.stat().st_size for file in folder.glob("*/*.safetensors"))
    assert "prediction type epsilon: scheduler_config.json" in model.reasons


def test_what_sizes_must_be_multiples_of(folder: Path, single_file: Path) -> None:
    assert [(model.downscale, model.multiple) for model in map(recognise, (folder, single_file))] == [(4, 8), (4, 32)]


def test_a_folder_states_v_and_zero_snr(tmp_path: Path) -> None:
    model = recognise(tiny_sd15(tmp_path, prediction_type="v_prediction", zero_snr=True, dtype="bf16"))
    assert (model.prediction_type, model.zero_terminal_snr, model.dtype) == ("v_prediction", True, "bf16")


def test_a_folder_that_does_not_state_it(tmp_path: Path, folder: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"beta_schedule": "scaled_linear"}))
    model = recognise(copy)
    assert model.prediction_type == "epsilon"
    assert model.details["prediction_type_stated"] is False
    path.write_text(json.dumps({"prediction_type": "sample"}))
    with refused("prediction-type-not-supported"):
        recognise(copy)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_single_file(tmp_path: Path, dtype: str) -> None:
    model = recognise(tiny_sd15(tmp_path, ldm=True, dtype=dtype, ema=True, position_ids=True))
    assert (model.family, model.layout, model.prediction_type, model.dtype) == ("sd15", "single_file", "epsilon", dtype)
    assert any(reason.startswith("EMA weights") for reason in model.reasons)


def test_what_marks_a_v_model(tmp_path: Path, single_file: Path) -> None:
    tensors = load_file(single_file)
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"modelspec.prediction_type": "v"})
    assert recognise(path).prediction_type == "v_prediction"
    save_file({**tensors, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    model = recognise(path)
    assert (model.prediction_type, model.zero_terminal_snr) == ("v_prediction", True)
    assert any("marker tensor v_pred" in reason for reason in model.reasons)


def test_a_text_encoder_without_text_model(tmp_path: Path, single_file: Path) -> None:
    old = {name.replace("transformer.text_model.", "transformer."): t for name, t in load_file(single_file).items()}
    save_file(old, tmp_path / "old.safetensors")
    assert recognise(tmp_path / "old.safetensors").family == "sd15"


@pytest.mark.parametrize(
    ("names", "code", "what"),
    [
        (("lora_unet_a.lora_down.weight", "lora_unet_a.lora_up.weight"), "model-is-lora", "a LoRA"),
        (("unet.a.lora_A.weight",), "model-is-lora", "a LoRA"),
        (("first_stage_model.encoder.down.0.block.0.conv1.weight",), "model-is-part", "a VAE"),
        (("encoder.down_blocks.0.resnets.0.conv1.weight",), "model-is-part", "a VAE"),
        (
            ("conditioner.embedders.0.x", UNET + "input_blocks.0.0.weight"),
            "checkpoint-without-parts",
            "first text encoder",
        ),
        (("model.diffusion_model.joint_blocks.0.x",), "model-of-other-family", "Stable Diffusion 3"),
        (("control_model.input_blocks.0.0.weight", UNET + "input_blocks.0.0.weight"), "not-a-base-model", "ControlNet"),
        (("cond_stage_model.transformer.text_model.x",), "model-is-part", "a text encoder"),
        (("encoder.block.0.layer.0.x", "shared.weight"), "model-is-part", "T5"),
        (("down_blocks.0.resnets.0.conv1.weight",), "model-is-part", "a U-Net"),
        (("emb_params",), "not-a-base-model", "textual inversion"),
        (("weird",), "model-not-recognised", ""),
    ],
)
def test_other_files_are_named(tmp_path: Path, names: tuple[str, ...], code: str, what: str) -> None:
    with refused(code, tmp_path / "m.safetensors", what) as error:
        recognise(checkpoint(tmp_path / "m.safetensors", *names))
    assert "Stable Diffusion 1.5" in error.value.hint or "full checkpoint" in error.value.hint


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({TO_K: (32, 1024)}, "model-is-sd2"),
        ({STEM: (32, 9, 3, 3)}, "model-is-inpainting"),
        ({STEM: (32, 8, 3, 3)}, "not-text-to-image"),
    ],
)
def test_near_relatives(tmp_path: Path, single_file: Path, changes: dict[str, tuple[int, ...]], code: str) -> None:
    tensors = load_file(single_file) | {name: torch.zeros(shape) for name, shape in changes.items()}
    save_file(tensors, tmp_path / "m.safetensors")
    with refused(code):
        recognise(tmp_path / "m.safetensors")


def test_parts_missing_in_a_file(tmp_path: Path, single_file: Path) -> None:
    unet = {name: tensor for name, tensor in load_file(single_file).items() if name.startswith(UNET)}
    save_file(unet, tmp_path / "m.safetensors")
    with refused("checkpoint-without-parts", "text encoder", "VAE"):
        recognise(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("part", "changes", "code"),
    [
        ("unet", {"in_channels": 9}, "model-is-inpainting"),
        ("unet", {"cross_attention_dim": 1024}, "model-is-sd2"),
        ("unet", {"addition_embed_type": "text_time"}, "model-config-missing"),  # text_encoder_2/config.json
    ],
)
def test_near_relatives_as_folder(
    tmp_path: Path, folder: Path, part: str, changes: dict[str, object], code: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    path = copy / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with refused(code):
        recognise(copy)


@pytest.mark.parametrize(
    ("pipeline", "code"),
    [
        ("FluxPipeline", "model-config-missing"),
        ("StableDiffusionXLPipeline", "model-config-missing"),
        ("StableDiffusion3Pipeline", "pipeline-not-supported"),
        ("WanPipeline", "model-config-missing"),
    ],
)
def test_other_folders(tmp_path: Path, pipeline: str, code: str) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    with refused(code):
        recognise(tmp_path)


def test_broken_folders(tmp_path: Path, folder: Path) -> None:
    with refused("not-a-diffusers-model"):
        recognise(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"")
    with refused("folder-of-checkpoints", tmp_path, "x.safetensors"):
        recognise(tmp_path)
    copy = Path(shutil.copytree(folder, tmp_path / "m"))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with refused("model-file-cut-short"):
        recognise(copy)
    weights.unlink()
    with refused("weights-missing"):
        recognise(copy)
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"PK")
    with refused("model-is-pickle"):
        recognise(copy)
    (copy / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(whole)
    assert recognise(copy).family == "sd15"
    (copy / "vae" / "config.json").write_text("{")
    with refused("model-json-unreadable"):
        recognise(copy)
    (copy / "vae" / "config.json").unlink()
    with refused("model-config-missing", copy / "vae" / "config.json"):
        recognise(copy)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", "no-model"),
        ("/nowhere/m.safetensors", "model-file-missing"),
        ("models/m.safetensors", "model-file-missing"),
    ],
)
def test_nothing_there(path: str, code: str) -> None:
    with refused(code):
        recognise(path)


def test_a_hub_id_comes_from_the_local_cache(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    commit = "0" * 40
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert recognise("someone/tiny").path == repository / "snapshots" / commit
    with refused("model-not-in-cache", "lorasmith fetch someone/else"):
        recognise("someone/else")
