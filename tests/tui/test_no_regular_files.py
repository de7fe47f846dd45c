"""Named pipes, sockets, devices and folders where a person's files are expected: one sentence at once, never a wait."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.tiny_models import tiny_sd15
from tui.main import run

PRESET = """[model]
pretrained_model_name_or_path = "model.safetensors"
[dataset]
train_data_dir = "images"
resolution = 64
min_bucket_reso = 64
bucket_reso_steps = 64
num_repeats = 1
[training]
max_train_steps = 2
[network]
network_dim = 2
[sampling]
sample_every_n_steps = 0
[saving]
output_name = "zed"
"""
pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny checkpoint for all tests here."""
    return tiny_sd15(tmp_path_factory.mktemp("tiny"), ldm=True)


@pytest.fixture
def here(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset, images and a model with which a run could start."""
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    work = tmp_path / "w"
    (work / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (number * 60, 100, 50)).save(work / "images" / f"p{number}.png")
        (work / "images" / f"p{number}.txt").write_text("zed, a thing")
    (work / "model.safetensors").symlink_to(tiny)
    (work / "zed.toml").write_text(PRESET)
    monkeypatch.chdir(work)
    return work


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(path))


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: dict[str, Callable[[Path], None]] = {
    "named pipe": os.mkfifo, "socket": _socket, "device": _device, "folder": Path.mkdir
}  # fmt: skip
START = ["--preset", "zed.toml", "--dry-run"]
ENTRANCES: list[tuple[str, list[str], int]] = [
    ("x.safetensors", ["inspect", "x.safetensors"], 3),
    ("x.safetensors", [*START, "--model", "x.safetensors"], 3),
    ("x.safetensors", [*START, "--set", "network.network_weights=x.safetensors"], 3),
    ("x.safetensors", [*START, "--set", "model.vae=x.safetensors"], 3),
    ("x.toml", ["--preset", "x.toml", "--dry-run"], 2),
    ("x.toml", ["convert", "x.toml"], 2),
    ("x.json", ["convert", "x.json"], 2),
    ("x.sh", ["convert", "x.sh"], 2),
    ("x.toml", ["presets", "show", "x.toml"], 2),
    ("x.toml", [*START, "--dataset_config", "x.toml"], 2),
    ("x.json", [*START, "--dataset_config", "x.json"], 2),
    ("x.txt", [*START, "--set", "sampling.sample_prompts=x.txt"], 2),
    ("x.toml", [*START, "--set", "sampling.sample_prompts=x.toml"], 2),
    ("x.json", [*START, "--set", "sampling.sample_prompts=x.json"], 2),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "arguments", "code"), ENTRANCES, ids=[f"{case[0]}: {case[1][0]}" for case in ENTRANCES]
)
def test_what_is_named_is_refused_at_once(
    here: Path, capfd: pytest.CaptureFixture[str], name: str, arguments: list[str], code: int, kind: str
) -> None:
    KINDS[kind](here / name)
    before = sorted(here.rglob("*"))
    ended = run(arguments)
    out, err = capfd.readouterr()
    if kind == "folder" and ended == 3 and code == 3:  # a folder may be a model, which this one is not
        assert "Traceback" not in err
        return
    assert ended == code, err
    assert "Traceback" not in out + err and name in err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_that_is_none(here: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    (here / "images/p1.txt").unlink()
    KINDS[kind](here / "images/p1.txt")
    ended = run(START)
    err = capfd.readouterr().err
    assert "Traceback" not in err
    if kind == "folder":  # a subfolder, whatever its name; the image then has no caption
        assert ended == 0
    else:
        assert ended == 3 and "p1.txt cannot be read" in err and kind in err


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device"])
def test_among_images_and_masks_it_is_set_aside_with_its_reason(
    here: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    KINDS[kind](here / "images/p9.png")
    assert run(["check", "images"]) in (0, 3)
    out, err = capfd.readouterr()
    assert "not a regular file" in out + err and "Traceback" not in err
    masks = here / "masks"
    masks.mkdir()
    for number in range(3):
        Image.new("L", (64, 64), 255).save(masks / f"p{number}.png")
    (masks / "p1.png").unlink()
    KINDS[kind](masks / "p1.png")
    run([*START, "--set", "dataset.masked_loss=true", "--set", "dataset.conditioning_data_dir=masks"])
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_metadata_file_that_is_none(here: Path, capfd: pytest.CaptureFixture[str], kind: str, suffix: str) -> None:
    KINDS[kind](here / f"meta{suffix}")
    (here / "d.toml").write_text(f'[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "meta{suffix}"\n')
    assert run([*START, "--dataset_config", "d.toml"]) == 3
    err = capfd.readouterr().err
    assert f"meta{suffix}" in err and "cannot be read" in err and "Traceback" not in err


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"])
def test_a_file_of_a_model_folder_that_is_none(
    here: Path, capfd: pytest.CaptureFixture[str], kind: str, part: str
) -> None:
    folder = here / "folder"
    (folder / "unet").mkdir(parents=True)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet/config.json").write_text('{"cross_attention_dim": 768}')
    save_file({"a": torch.zeros(1)}, folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / part).unlink()
    KINDS[kind](folder / part)
    assert run([*START, "--model", "folder"]) == 3
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_one_bad_preset_of_ones_own_hides_no_other(here: Path, capfd: pytest.CaptureFixture[str], kind: str) -> None:
    own = here.parent / "home/lorasmith/presets"
    own.mkdir(parents=True)
    KINDS[kind](own / "mine.toml")
    assert run(["presets"]) == 0
    out, err = capfd.readouterr()
    assert "mine: cannot be read" in out and "sdxl" in out and "Traceback" not in err


@pytest.mark.parametrize("kind", ["named pipe", "socket", "folder"])
@pytest.mark.parametrize("name", ["runs.jsonl", "draft.json", "models.json", "themes.json"])
def test_a_file_of_the_program_that_is_none_counts_as_missing(
    here: Path, capfd: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    from tui.display.themes import first_theme
    from tui.setup.draft import Draft
    from tui.setup.recent import recent_models

    home = here.parent / "home/lorasmith"
    home.mkdir(parents=True)
    KINDS[kind](home / name)
    assert run(["runs", "--json"]) == 0
    assert Draft.load() == Draft() and recent_models() == [] and first_theme("256", {}) == "smith-dark"
    assert "Traceback" not in capfd.readouterr().err
