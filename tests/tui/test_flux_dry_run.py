"""`--dry-run` with FLUX.1: idle settings are reported, missing files named, a LoRA to start from is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_flux import FluxFiles, tiny_files
from tui.main import run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FluxFiles:
    return tiny_files(tmp_path_factory.mktemp("flux"))


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: FluxFiles) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.new("RGB", (1024, 1024), (number * 40, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    settings = [word for key, value in files.settings.items() for word in ("--set", f"model.{key}={value}")]
    command = ["--preset", "flux-dev", "--images", "images", "--name", "zed", "--dry-run", *settings]
    return [*command, "--set", "memory.mixed_precision=no", "--set", "memory.base_precision=auto"]


def test_idle_settings_and_the_disk_are_reported(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    more = ["training.min_snr_gamma=7", "memory.cache_text_encoder_outputs_to_disk=true"]
    assert run([*arguments, *(word for key in more for word in ("--set", key))]) == 0
    out = capfd.readouterr().out
    assert "FLUX.1 dev: it has a guidance embedding (guidance_in)" in out
    assert "training.min_snr_gamma has no effect: FLUX learns a flow, which has no signal-to-noise table." in out
    assert "encoded captions 20.0 MiB" in out  # four captions and none, of 512 tokens, 4096 wide, in 16 bits


def test_a_preset_of_another_family_is_reported(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    other = ["--preset", "sdxl", *arguments[2:]]
    assert run(other) == 0
    assert "warning: The preset sdxl is made for SDXL, and this model is FLUX.1" in (printed := capfd.readouterr().err)
    assert "Presets for it: flux-dev, flux-dev-12gb, flux-dev-8gb, flux-dev-anime." in " ".join(printed.split())
    assert run(arguments) == 0
    assert "is made for" not in capfd.readouterr().err


def test_a_transformer_alone(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    bare = [word for word in arguments if not word.startswith(("model.clip_l", "model.t5xxl", "model.ae"))]
    cleaned = [word for word, after in zip(bare, [*bare[1:], ""], strict=True) if not (word == after == "--set")]
    assert run(cleaned) == 2
    assert "CLIP-L (flux.clip_l), T5-XXL (flux.t5xxl) and the autoencoder (flux.ae) are not set." in (
        capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("diffusion_model.single_blocks.0.linear1.lora_down.weight", 0),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 0),
        ("transformer.joint_blocks.0.lora_A.weight", 3),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", 3),
        ("lora_unet_single_blocks_0_linear1.lora_down.weight", 0),
    ],
)
def test_loras_to_start_from(arguments: list[str], tmp_path: Path, name: str, code: int) -> None:
    up = name.replace("lora_down", "lora_up").replace("lora_A", "lora_B")
    save_file({name: torch.ones(2, 4), up: torch.ones(4, 2)}, tmp_path / "start.safetensors")
    start = ["--set", "network.network_weights=start.safetensors", "--set", "network.dim_from_weights=true"]
    assert run([*arguments, *start]) == code
    save_file({name: torch.ones(2, 4)}, tmp_path / "start.safetensors")
    assert run([*arguments, *start]) == 3, "the half of a LoRA, which the trainer refuses"


def test_the_names_of_files_are_reported_before_the_start(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = "single_blocks.0.processor.qkv_lora"
    pair = {f"{name}.down.weight": torch.ones(2, 4), f"{name}.up.weight": torch.ones(12, 2)}
    save_file(pair, tmp_path / "start.safetensors")
    more = ["network.network_weights=start.safetensors", "network.dim_from_weights=true", "saving.key_format=comfy"]
    assert run([*arguments, *(word for key in more for word in ("--set", key))]) == 0
    out = " ".join(capfd.readouterr().out.split())
    assert "XLabs' names: 1 module." in out
    assert "saving.key_format" in out and out.count("sd-scripts, LyCORIS.") == 1
