"""A clumsy person at the shell: every wrong input is one sentence (what, where, how to fix it) and an exit code.

What `--dry-run` finds, the start finds as well, before anything is written or launched.
"""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.config import load_config
from engine.errors import LoraSmithError
from engine.runs import prepare_run, write_exit
from tests.forked import ForkedTrainer
from tests.refusals import require
from tests.tiny_models import tiny_sd15
from tui.main import run
from tui.shell import foreground

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
UNET = "model.diffusion_model.input_blocks."
START, INVALID = "network.network_weights", "config-invalid"
NOBODY = 65534
TRAIN = foreground.train
"""What `here` replaces."""


def fill(folder: Path, count: int = 3, *, captions: bool = True) -> Path:
    """Good images."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (64, 64), (number * 60, 100, 50)).save(folder / f"p{number}.png")
        if captions:
            (folder / f"p{number}.txt").write_text(f"zed, thing {number}")
    return folder


def weights(path: Path, **shapes: tuple[int, ...]) -> None:
    """A safetensors file of zeros; `__` in a name stands for a dot."""
    save_file({name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}, path)


def bomb(side: int) -> bytes:
    """A small PNG that says it is side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny checkpoint for all tests here."""
    return tiny_sd15(tmp_path_factory.mktemp("model"), ldm=True)


@pytest.fixture
def here(place: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which `lorasmith --preset zed.toml` would train; nothing is launched from this process."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (place / "zed.toml").write_text(PRESET)
    (place / "model.safetensors").symlink_to(tiny)
    fill(place / "images")

    def launched(*_: Any, **__: Any) -> int:
        raise AssertionError("launched in spite of a wrong input")

    monkeypatch.setattr(foreground, "train", launched)
    return place


def tree(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


Capture = pytest.CaptureFixture[str]
Refused = Callable[..., str]


@pytest.fixture
def refused(here: Path, capfd: Capture, shown: list[Exception]) -> Refused:
    """refused(3, "folder-missing", parts, *arguments): both `--dry-run` and the start end with exit code 3 and that
    error, about `parts`; stdout and the disk stay empty."""

    def check(exit_code: int, code: str, parts: tuple[str, ...], *arguments: str, preset: str = "zed.toml") -> str:
        messages = []
        for extra in (["--dry-run"], []):
            before = tree(here)
            assert run(["--preset", preset, *arguments, *extra]) == exit_code, capfd.readouterr()
            out, err = capfd.readouterr()
            assert out == "" and "Traceback" not in err and tree(here) == before
            require(shown[-1], code)
            for part in parts:
                assert part in err, err
            assert "hint: " in err or code == "config-invalid"
            messages.append(err)
        assert messages[0] == messages[1]
        return messages[0]

    return check


@pytest.fixture
def accepted(here: Path, capfd: Capture) -> Callable[..., str]:
    """accepted(*arguments): what `--dry-run` shows on stdout."""

    def check(*arguments: str) -> str:
        assert run(["--preset", "zed.toml", "--dry-run", *arguments]) == 0, capfd.readouterr().err
        out, err = capfd.readouterr()
        assert err == ""
        return out

    return check


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@contextmanager
def without_rights(place: Path) -> Iterator[None]:
    """A root is nobody inside, where `place` can be reached; anybody else has no more rights than he has."""
    if os.getuid() != 0:
        yield
        return
    barred = [folder for folder in (place, *place.parents) if folder.stat().st_mode & 0o011 != 0o011]
    modes = {folder: folder.stat().st_mode for folder in barred}
    try:
        for folder, mode in modes.items():
            folder.chmod(mode | 0o011)
        os.setresuid(NOBODY, NOBODY, 0)
        yield
    finally:
        os.setresuid(0, 0, 0)
        for folder, mode in modes.items():
            folder.chmod(mode)


# Images


def make_empty(place: Path) -> None:
    (place / "x").mkdir()


def make_other_files(place: Path) -> None:
    (place / "x").mkdir()
    (place / "x" / "notes.docx").write_text("x")
    (place / "x" / "film.mp4").write_text("x")


def make_deep(place: Path) -> None:
    fill(place / "x" / "inner")


def make_all_broken(place: Path) -> None:
    (place / "x").mkdir()
    (place / "x" / "a.png").write_bytes(b"")


def make_latin1(place: Path) -> None:
    (fill(place / "x") / "p1.txt").write_bytes(b"caf\xe9")


def make_two_bad_captions(place: Path) -> None:
    make_latin1(place)
    (place / "x" / "p2.txt").write_bytes("zed".encode("utf-16"))


def make_file(place: Path) -> None:
    (place / "x").write_text("x")


@pytest.mark.parametrize(
    ("make", "code", "parts"),
    [
        (lambda _: None, "folder-missing", ("dataset.train_data_dir: ", "folder x ", "folder is /")),
        (make_empty, "no-images", ("the folder is empty", "PNG, JPEG, WebP")),
        (make_other_files, "no-images", ("film.mp4: not an image, notes.docx: not an image",)),
        (make_deep, "images-in-subfolders", ("x/inner)",)),
        (make_all_broken, "no-usable-images", ("a.png: empty: 0 bytes",)),
        (make_latin1, "caption-not-utf8", ("p1.txt", "byte 3", "0xe9", "another encoding")),
        (make_two_bad_captions, "captions-unusable", ("2 captions", "p1.txt", "p2.txt", "another encoding", "UTF-16")),
        (make_file, "folder-is-a-file", ("x is",)),
    ],
)
def test_wrong_folders(
    refused: Refused, here: Path, make: Callable[[Path], None], code: str, parts: tuple[str, ...]
) -> None:
    make(here)
    message = refused(3, code, parts, "--images", "x")
    assert ".," not in message


def test_images_one_level_higher(refused: Refused, here: Path) -> None:
    (here / "images" / "sub").mkdir()
    refused(3, "images-one-level-up", (str(here / "images"),), "--images", "images/sub")


def test_bad_files_among_good_ones_are_set_aside(accepted: Callable[..., str], refused: Refused, here: Path) -> None:
    folder = here / "images"
    whole = (folder / "p0.png").read_bytes()
    Image.effect_noise((64, 64), 90).save(folder / "noise.jpg")
    for name, data in {
        "zero.png": b"", "text.png": b"hello", "bomb.png": bomb(20_000), "head.png": whole[:20], "notes.docx": b"x",
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    out = accepted()
    for text in ("5 files set aside", "zero.png: empty: 0 bytes", "bomb.png: too large: 20000", "text.png: broken",
                 "head.png: ", "notes.docx: not an image", "4 training images"):  # fmt: skip
        assert text in out, text
    refused(3, "too-few-images", ("Only 4 ", "for 5", "dataset.min_images", "zero.png"),
            *settings("dataset.min_images=5"))  # fmt: skip


def test_one_image_and_no_captions_are_enough(accepted: Callable[..., str], here: Path) -> None:
    fill(here / "one", 1, captions=False)
    out = accepted("--images", "one", "--name", "robot")
    assert "1 training image in" in out
    assert '1 of 1 image without a caption: "robot" is used (p0.png)' in out


def test_all_images_for_validation(refused: Refused) -> None:
    refused(3, "no-images-left-to-train", ("3 images", "dataset.validation_split"),
            *settings("dataset.validation_split=1"))  # fmt: skip


def test_one_folder_in_two_roles(refused: Refused) -> None:
    refused(2, "folder-used-twice", ("dataset.reg_data_dir and dataset.train_data_dir",),
            *settings("dataset.reg_data_dir=images"))  # fmt: skip


# Model files


class Trap:
    """Unpickled, it makes a folder: no test may find it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("UNPICKLED",)


def lora(path: Path) -> None:
    weights(path, lora_unet_x__lora_down__weight=(4, 8), lora_unet_x__lora_up__weight=(8, 4))


def sdxl_lora(path: Path) -> None:
    weights(path, lora_te2_x__lora_down__weight=(4, 8), lora_te2_x__lora_up__weight=(8, 4), lora_te2_x__alpha=())


def lora_with(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    """A small LoRA of which one tensor is another."""

    def make(path: Path) -> None:
        parts = {"lora_down.weight": torch.ones(4, 8), "lora_up.weight": torch.ones(8, 4), "alpha": torch.tensor(1.0)}
        save_file({f"lora_unet_x.{end}": value for end, value in (parts | {name: tensor}).items()}, path)

    return make


def appended(path: Path) -> None:
    lora(path)
    path.write_bytes(path.read_bytes() + b"more")


def lokr(path: Path) -> None:
    weights(path, lora_unet_x__lokr_w1=(4, 4), lora_unet_x__lokr_w2=(2, 2), lora_unet_x__alpha=())


def control(path: Path) -> None:
    name = "unet.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
    weights(path, **{f"{name}.lora_A.weight": (4, 768), f"{name}.lora_B.weight": (8, 4), f"{name}.lora_B.bias": (8,)})


def vae(path: Path) -> None:
    weights(path, encoder__down__0__block__0__conv1__weight=(4, 4, 3, 3), decoder__up__0__x=(4,))


def sdxl(path: Path) -> None:
    weights(path, conditioner__embedders__0__x=(4,), **{UNET + "0.0.weight": (4, 4, 3, 3), "first_stage_model.x": (1,)})


def sd2(path: Path) -> None:
    attention = {UNET + "1.1.transformer_blocks.0.attn2.to_k.weight": (4, 1024)}
    weights(path, cond_stage_model__model__x=(4,), **{UNET + "0.0.weight": (4, 4, 3, 3)}, **attention)


def inpainting(path: Path) -> None:
    attention = {UNET + "1.1.transformer_blocks.0.attn2.to_k.weight": (4, 768)}
    weights(path, cond_stage_model__transformer__x=(4,), **{UNET + "0.0.weight": (4, 9, 3, 3)}, **attention)


def unet_only(path: Path) -> None:
    weights(path, **{UNET + "0.0.weight": (4, 4, 3, 3)})


def flux(path: Path) -> None:
    weights(path, double_blocks__0__img_attn__qkv__weight=(4, 4))


def web_page(path: Path) -> None:
    path.write_text("<!doctype html><html>404 not found")


def cut(path: Path) -> None:
    whole = (path.parent / "model.safetensors").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cut_in_header(path: Path) -> None:
    path.write_bytes((path.parent / "model.safetensors").read_bytes()[:100])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Trap()))


def torch_saved(path: Path) -> None:
    torch.save({"state_dict": Trap()}, path)


def folder_of_checkpoints(path: Path) -> None:
    path.mkdir()
    lora(path / "inner.safetensors")


@pytest.mark.parametrize(
    ("make", "name", "code", "parts"),
    [
        (None, "x.safetensors", "model-file-missing", ("x.safetensors",)),
        (None, "x.ckpt", "model-file-missing", ("x.ckpt",)),
        (None, "~nobody.here/x.safetensors", "model-file-missing", ("~nobody.here/x.safetensors",)),
        (None, "some/model", "model-not-in-cache", ("lorasmith fetch some/model",)),
        (lora, "x.safetensors", "model-is-lora", ("x.safetensors", "Stable Diffusion 1.5")),
        (vae, "x.safetensors", "model-is-part", ("a VAE", "model.vae")),
        (sdxl, "x.safetensors", "checkpoint-without-parts", ("SDXL", "first text encoder")),
        (sd2, "x.safetensors", "model-is-sd2", ("Stable Diffusion 1.5",)),
        (inpainting, "x.safetensors", "model-is-inpainting", ("9 input channels",)),
        (unet_only, "x.safetensors", "checkpoint-without-parts", ("text encoder (cond_stage_model)", "VAE")),
        (flux, "x.safetensors", "checkpoint-without-parts", ("img_in.weight", "FLUX.1 dev and schnell")),
        (web_page, "x.safetensors", "not-safetensors", ("a web page",)),
        (cut, "x.safetensors", "model-file-cut-short", (" MiB of tensors",)),
        (cut_in_header, "x.safetensors", "model-file-cut-short", ("inside its header",)),
        (nothing, "x.safetensors", "model-file-cut-short", ("0 bytes",)),
        (pickled, "x.ckpt", "model-is-pickle", ("x.ckpt", "'x.safetensors'")),
        (torch_saved, "x.pt", "model-is-pickle", ("x.pt",)),
        (pickled, "x.safetensors", "model-is-pickle", ("'x-converted.safetensors'",)),
        (torch_saved, "x.safetensors", "model-is-pickle", ("'x-converted.safetensors'",)),
        (make_file, "x", "model-file-cut-short", ("1 bytes",)),
        (folder_of_checkpoints, "x", "folder-of-checkpoints", ("inner.safetensors",)),
    ],
)
def test_wrong_models(
    refused: Refused, here: Path, make: Callable[[Path], None] | None, name: str, code: str, parts: tuple[str, ...]
) -> None:
    if make is not None:
        make(here if make is make_file else here / name)
    refused(3, code, parts, "--model", name)
    assert not (here / "UNPICKLED").exists()


def test_broken_diffusers_folders(refused: Refused, here: Path, tmp_path: Path, capfd: Capture) -> None:
    whole = tiny_sd15(tmp_path / "folder")
    capfd.readouterr()  # transformers draws a bar while it writes
    unet = "unet/diffusion_pytorch_model.safetensors"
    data = (whole / unet).read_bytes()
    absurd = json.dumps({**json.loads((whole / "unet/config.json").read_text()), "attention_head_dim": 10**9}).encode()
    for name, content, code, part in (
        (unet, data[:5000], "model-file-cut-short", unet),
        (unet, None, "weights-missing", unet),
        ("unet/diffusion_pytorch_model.bin", pickle.dumps(Trap()), "model-is-pickle", "diffusion_pytorch_model.bin"),
        ("vae/config.json", None, "model-config-missing", "vae/config.json"),
        ("unet/config.json", absurd, "model-config-wrong", "config.json: attention_head_dim is 1000000000"),
        ("unet/config.json", b"{", "model-json-unreadable", "unet/config.json"),
    ):
        (whole / name).unlink(missing_ok=True)
        if content is not None:
            (whole / name).write_bytes(content)
        refused(3, code, (part,), "--model", str(whole))
    assert not (here / "UNPICKLED").exists()


@pytest.mark.parametrize(
    ("key", "make", "code", "parts"),
    [
        (START, None, "model-file-missing", ("x.safetensors",)),
        (START, cut, "model-file-cut-short", ("x.safetensors",)),
        (START, pickled, "model-is-pickle", ("x.safetensors",)),
        (START, vae, "not-a-lora", ("a VAE", "`lorasmith inspect`")),
        (START, sdxl_lora, "lora-for-other-model", ("SDXL", "SD 1.5")),
        (START, appended, "safetensors-too-long", ("4 bytes",)),
        (START, lokr, "lora-of-other-kind", ("a LoKr", "LoRA")),
        (START, control, "lora-not-for-start", ("biases", "1 layer")),
        (
            START,
            lora_with("lora_up.weight", torch.full((8, 4), float("nan"))),
            "weights-not-finite",
            ("1 tensors", "lora_unet_x.lora_up.weight"),
        ),
        (START, lora_with("alpha", torch.ones(4)), "lora-alpha-wrong", ("1 alphas", "lora_unet_x.alpha")),
        (START, lora_with("alpha", torch.tensor(float("inf"))), "weights-not-finite", ("lora_unet_x.alpha",)),
        (START, lora_with("lora_down.weight", torch.ones(0, 8)), "lora-ranks-differ", ("lora_unet_x",)),
        (START, lora_with("lora_down.weight", torch.ones(4, 8).to(torch.int8)), "number-format-not-supported", ("I8",)),
        (START, folder_of_checkpoints, "model-file-is-folder", ("x is",)),
        ("model.vae", None, "model-file-missing", ("model.vae: ", "x.safetensors")),
        ("model.vae", lora, "not-a-vae", ("model.vae: ", "a LoRA")),
        ("model.vae", web_page, "not-safetensors", ("x.safetensors",)),
        ("model.vae", make_empty, "vae-without-weights", ("model.vae: ",)),
    ],
)
def test_wrong_files_next_to_the_model(
    refused: Refused, here: Path, key: str, make: Callable[[Path], None] | None, code: str, parts: tuple[str, ...]
) -> None:
    name = "x" if make in (make_empty, folder_of_checkpoints) else "x.safetensors"
    if make is not None:
        make(here if make is make_empty else here / name)
    refused(3, code, parts, *settings(f"{key}={name}"))
    assert not (here / "UNPICKLED").exists()


# Configuration


@pytest.mark.parametrize(
    ("preset", "text", "code", "parts"),
    [
        ("nope", None, "preset-missing", ("'nope'", "demo, ")),
        ("sd15-realistik", None, "preset-missing", ("sd15-realistic",)),
        ("images", None, "preset-is-a-folder", ("images",)),
        ("x.toml", b"\xff\xfe\x00", "preset-not-utf8", ("x.toml",)),
        ("x.toml", b"[training\nseed=1", "config-invalid", ("x.toml: ", "line 1")),
        ("x.toml", b"[trainning]\nseed=1\n", "config-invalid", ("x.toml, line 1: trainning: ", "[training]")),
        ("x.toml", b"seed=1\n", "config-invalid", ("x.toml, line 1: seed: ", "[training]")),
    ],
)
def test_wrong_presets(
    refused: Refused, here: Path, preset: str, text: bytes | None, code: str, parts: tuple[str, ...]
) -> None:
    if text is not None:
        (here / preset).write_bytes(text)
    refused(2, code, parts, preset=preset)


def test_everything_wrong_is_reported_at_once(refused: Refused, here: Path) -> None:
    (here / "x.toml").write_text(
        "[training]\nseeed = 3\nlearning_rate = 'fast'\nmax_train_steps = 0\n[dataset]\nunet_lr = 1\nresolution = 7\n"
    )
    problems = (
        "x.toml, line 2: training.seeed: ",
        "x.toml, line 3: training.learning_rate: 'fast'",
        "x.toml, line 4: training.max_train_steps: 0",
        "x.toml, line 6: dataset.unet_lr: ",
        "x.toml, line 7: dataset.resolution: 7",
    )
    refused(2, "config-invalid", (*problems, "training.seed?", "training.unet_lr"), preset="x.toml")


@pytest.mark.parametrize(
    ("assignments", "code", "parts"),
    [
        ("training.seeed=1", INVALID, ("--set training.seeed=1: training.seeed: ", "training.seed?")),
        ("trainin.seed=1", INVALID, ("trainin: ", "[training]")),
        ("seed=1", INVALID, ("seed: ", "[training]")),
        ("training.seed", INVALID, ("--set training.seed: ", "--set table.key=value")),
        ("training.seed=abc", INVALID, ("training.seed: 'abc'",)),
        ("training.seed=1.5", INVALID, ("training.seed: 1.5",)),
        ("dataset.enable_bucket=perhaps", INVALID, ("dataset.enable_bucket: 'perhaps'",)),
        ("network.network_dim=0", INVALID, ("network.network_dim: 0 ", "equal to 1")),
        ("network.network_dim=5000", INVALID, ("network.network_dim: 5000", "1024")),
        ("training.learning_rate=-1", INVALID, ("training.learning_rate: -1",)),
        ("training.learning_rate=nan", INVALID, ("training.learning_rate: nan",)),
        ("memory.mixed_precision=fp8", INVALID, ("memory.mixed_precision: 'fp8'", "'auto', 'no', 'fp16' or 'bf16'")),
        ("training.lr_scheduler=cosin", INVALID, ("training.lr_scheduler: 'cosin'", "'constant'")),
        ("memory.device=gpu", INVALID, ("memory.device: 'gpu'",)),
        ("dataset.resolution=63", INVALID, ("dataset.resolution: 63", "4096 px")),
        ("network.network_module=networks.dylora", INVALID, ("'networks.dylora'", "'networks.lora'")),
        ("saving.output_name=a/b", "name-not-possible", ("'a/b'",)),
        (
            "network.network_train_unet_only=true network.network_train_text_encoder_only=true",
            "nothing-trained",
            ("network_train_unet_only", "network_train_text_encoder_only"),
        ),
        ("training.unet_lr=0 training.text_encoder_lr=0", "nothing-trained", ("training.unet_lr",)),
        ("training.unet_lr=0 network.network_train_unet_only=true", "nothing-trained", ("training.unet_lr",)),
        ("training.lr_scheduler=constant training.lr_warmup_steps=9", INVALID, ("constant_with_warmup",)),
        ("training.min_timestep=500 training.max_timestep=400", INVALID, ("training: min_timestep", "max_timestep.")),
        ("training.adaptive_noise_scale=0.1", INVALID, ("training: adaptive_noise_scale", "noise_offset")),
        ("network.dim_from_weights=true", "dim-from-weights-without-file", ("dim_from_weights",)),
        (
            "memory.cache_text_encoder_outputs=true network.network_train_text_encoder_only=true",
            "text-cache-needs-fixed-encoder",
            ("network.network_train_text_encoder_only",),
        ),
        (
            "dataset.bucket_reso_steps=16",
            "bucket-step-not-possible",
            ("multiple of 32", "dataset.bucket_reso_steps = "),
        ),
        (
            "dataset.resolution=512 dataset.max_bucket_reso=256",
            "resolution-outside-buckets",
            ("dataset.max_bucket_reso",),
        ),
        ("dataset.min_bucket_reso=256", "resolution-outside-buckets", ("dataset.min_bucket_reso",)),
        ("dataset.resolution=65 dataset.enable_bucket=false", "resolution-not-possible", ("65×65", "4 px", "64×64")),
        ("model.family=sdxl", "family-not-of-checkpoint", ("sdxl", "sd15")),
        (
            "training.scale_v_pred_loss_like_noise_pred=true",
            "setting-of-other-prediction",
            ("training.scale_v_pred_loss_like_noise_pred",),
        ),
        (
            "training.v_pred_like_loss=0.5 model.v_parameterization=true",
            "setting-of-other-prediction",
            ("training.v_pred_like_loss",),
        ),
        ("sampling.sample_prompts=nowhere.txt", "prompt-file-unreadable", ("nowhere.txt", "sampling.sample_prompts")),
        (
            "memory.cache_latents_to_disk=true memory.cache_dir=zed.toml",
            "place-is-a-file",
            ("zed.toml", "memory.cache_dir"),
        ),
    ],
)
def test_wrong_settings(refused: Refused, assignments: str, code: str, parts: tuple[str, ...]) -> None:
    refused(2, code, parts, *settings(*assignments.split()))


@pytest.mark.parametrize(
    ("name", "text", "code", "part"),
    [
        ("x.json", "{", "prompt-file-malformed", "x.json"),
        ("x.toml", "[other]", "prompt-file-without-prompts", "'prompt'"),
        ("x.txt", "a robot --w wide", "prompt-value-not-a-number", "--w 'wide'"),
        ("x.json", '[{"text": "a robot"}]', "prompt-not-possible", "{'text': 'a robot'}"),
    ],
)
def test_wrong_prompt_files(refused: Refused, here: Path, name: str, text: str, code: str, part: str) -> None:
    (here / name).write_text(text)
    refused(2, code, (part,), *settings(f"sampling.sample_prompts={name}"))


def test_the_checkpoint_differs(refused: Refused, tmp_path: Path, capfd: Capture) -> None:
    model = tiny_sd15(tmp_path / "v", prediction_type="v_prediction")
    capfd.readouterr()  # transformers draws a bar while it writes
    refused(2, "v-parameterization-contradicts-model", ("model.v_parameterization = false",),
            "--model", str(model), *settings("model.v_parameterization=false"))  # fmt: skip


def test_without_a_gpu(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused(2, "precision-not-possible", ("memory.mixed_precision is fp16", "the CPU"),
            *settings("memory.mixed_precision=fp16"))  # fmt: skip
    for device in ("cuda", "cuda:7"):
        refused(2, "no-gpu", (f"memory.device={device}, ", "memory.device=cpu"),
                *settings(f"memory.device={device}"))  # fmt: skip


def test_a_date_that_is_none(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    refused(2, "clock-not-possible", ("SOURCE_DATE_EPOCH", "'yesterday'"))


# The place


@pytest.mark.parametrize("name", ["zed.toml", "zed.toml/inside"])
def test_a_file_where_the_output_goes(refused: Refused, name: str) -> None:
    refused(2, "place-is-a-file", ("zed.toml", "--output_dir"),
            "--output_dir", name)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code", "part"),
    [
        ("x" * 230, "name-too-long", "230 bytes"),
        (" ", "name-not-possible", "' '"),
        ("a\nb", "name-not-possible", repr("a\nb")),
    ],
)
def test_names_that_no_file_can_bear(refused: Refused, name: str, code: str, part: str) -> None:
    refused(2, code, (part,), "--name", name)


def test_paths_that_are_too_long(refused: Refused) -> None:
    refused(5, "write-failed", ("File name too long", "--output_dir"), "--output_dir", "x" * 300)
    refused(3, "model-file-unreadable", ("File name too long",), "--model", "x" * 300)
    refused(3, "folder-unreadable", ("File name too long",), "--images", "x" * 300)
    refused(2, "path-not-possible", ("File name too long",), preset="x" * 300)


def test_no_permission(
    accepted: Callable[..., str], here: Path, tiny: Path, capfd: Capture, shown: list[Exception]
) -> None:
    """As nobody: files without rights, and folders of somebody else."""
    (here / "model.safetensors").unlink()
    shutil.copy(tiny, here / "model.safetensors")
    accepted()  # what is imported late is imported now, while it can be read
    closed, output = here / "closed", here / "output"
    closed.mkdir()
    output.mkdir()
    output.chmod(0o777)
    for path in (here / "model.safetensors", here / "zed.toml", *fill(here / "images").iterdir()):
        path.chmod(0o644)
    fill(here / "image")
    (here / "image" / "p1.png").chmod(0)
    fill(here / "caption")
    (here / "caption" / "p1.txt").chmod(0)
    shutil.copy(here / "model.safetensors", here / "secret.safetensors")
    shutil.copy(here / "zed.toml", here / "secret.toml")
    for path in (here / "secret.safetensors", here / "secret.toml", closed):
        path.chmod(0)
    free = ["--preset", "zed.toml", "--output_dir", "output/x"]
    refusals = [
        ([*free, "--images", "closed"], 3, "folder-unreadable", "closed"),
        ([*free, "--images", "caption"], 3, "caption-unreadable", "p1.txt"),
        ([*free, "--model", "secret.safetensors"], 3, "model-file-unreadable", "secret.safetensors"),
        ([*free, "--model", "closed/model.safetensors"], 3, "model-file-unreadable", "model.safetensors"),
        ([*free, *settings("model.vae=closed/x")], 3, "model-file-unreadable", "closed/x"),
        (["--preset", "secret.toml"], 2, "preset-unreadable", "secret.toml"),
        (["--preset", "closed/zed.toml"], 5, "write-failed", "closed/zed.toml"),
        (["attach", "closed/x"], 5, "write-failed", "closed/x"),
    ]
    if os.getuid() == 0:
        refusals.append((["--preset", "zed.toml"], 5, "not-writable", ""))
    refusals.append((["--preset", "zed.toml", "--output_dir", "closed/x"], 5, "not-writable", ""))
    capfd.readouterr()
    before = tree(here)
    with without_rights(here):
        for arguments, exit_code, code, part in refusals:
            for extra in ([], ["--dry-run"]) if arguments[0] == "--preset" else ([],):
                ended = run([*arguments, *extra])
                out, err = capfd.readouterr()
                assert (ended, out) == (exit_code, ""), (arguments, err)
                require(shown[-1], code, part)
                assert "Traceback" not in err and "ermission denied" in err and "hint: " in err, (arguments, err)
        assert run([*free, "--images", "image", "--dry-run"]) == 0
        assert "p1.png: permission denied" in capfd.readouterr().out
    closed.chmod(0o700)
    assert tree(here) == before


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is refused: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_disk(refused: Refused, here: Path) -> None:
    with mounted(here / "disk", "size=1m,ro"):
        refused(5, "file-system-read-only", ("disk failed", "--output_dir"),
                "--output_dir", "disk/x")  # fmt: skip


def test_a_full_disk(refused: Refused, here: Path) -> None:
    with mounted(here / "disk", "size=64k"):
        refused(5, "disk-full", ("disk", "one state and one LoRA"),
                "--output_dir", "disk/x")  # fmt: skip


# Runs


def test_unknown_runs(here: Path, capfd: Capture, shown: list[Exception]) -> None:
    for arguments in (["attach", "x"], ["stop", "x"], ["resume", "x"], ["set", "x", "training.unet_lr=1"]):
        assert run(arguments) == 2
        out, err = capfd.readouterr()
        require(shown[-1], "run-missing", "'x'")
        assert out == "" and "hint: No run is known here" in err


def ended(here: Path, state: str, code: int) -> None:
    """A run in `out` that ended so, without training."""
    run_dir = prepare_run(load_config("zed.toml", [f"saving.output_dir={here / 'out'}"]))
    write_exit(run_dir, state, code, 2, message=f"{state} at step 2")


def test_a_finished_run(here: Path, capfd: Capture, shown: list[Exception]) -> None:
    ended(here, "finished", 0)
    for arguments, code in (
        (["resume", "out"], "run-finished"),
        (["stop", "out"], "run-not-live"),
        (["set", "out", "training.unet_lr=1"], "run-not-live"),
    ):
        assert run(arguments) == 2
        require(shown[-1], code, here / "out", "finished")
        assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("state", "assignment", "resumes"),
    [
        ("stopped", "training.unet_lr=1e-3", True),
        ("failed", "sampling.sample_prompts=a fox", True),
        ("stopped", "training.max_train_epochs=7", True),
        ("stopped", "training.seed=4", False),
        ("stopped", "network.network_dim=4", False),
        ("finished", "training.unet_lr=1e-3", False),
    ],
)
def test_the_hint_of_set_can_be_followed(
    here: Path, shown: list[Exception], state: str, assignment: str, resumes: bool
) -> None:
    ended(here, state, 6)
    assert run(["set", "out", assignment]) == 2
    command = f"lorasmith resume out --set {shlex.quote(assignment)}"
    error = shown[-1]
    assert isinstance(error, LoraSmithError) and error.code == "run-not-live" and error.hint
    assert (error.hint.splitlines()[-1].strip() == command) is resumes
    assert (run([*shlex.split(command)[1:], "--dry-run"]) == 0) is resumes


@pytest.mark.parametrize("assignment", ["training.lr=4", "training.unet_lr=many", "training.unet_lr", "nonsense=1"])
def test_set_names_no_option_that_was_not_typed(here: Path, capfd: Capture, assignment: str) -> None:
    ended(here, "stopped", 6)
    assert run(["set", "out", assignment]) == 2
    err = capfd.readouterr().err
    assert "--set" not in err and assignment in err


def test_an_unfinished_run_is_not_overwritten(refused: Refused, here: Path) -> None:
    ended(here, "stopped", 6)
    refused(2, "run-unfinished", ("out holds", "(stopped, step 2)", "lorasmith resume", "--restart"),
            "--output_dir", "out")  # fmt: skip


def test_two_runs_on_one_directory(refused: Refused, here: Path) -> None:
    run_dir = prepare_run(load_config("zed.toml", [f"saving.output_dir={here / 'out'}"]))  # this process is "starting"
    assert run_dir.is_run
    refused(2, "run-is-live", (str(here / "out"), "lorasmith attach"),
            "--output_dir", "out")  # fmt: skip
    refused(2, "run-is-live", (str(here / "out"),), "--output_dir", "out", "--restart")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("zed.toml", "not-safetensors"),
        ("nowhere", "model-file-missing"),
        ("images", "model-file-is-folder"),
        ("model.safetensors", "not-a-lora"),
    ],
)
def test_inspecting_what_is_no_lora(here: Path, capfd: Capture, shown: list[Exception], name: str, code: str) -> None:
    assert run(["inspect", name]) == 3
    out, err = capfd.readouterr()
    require(shown[-1], code, name)
    assert out == "" and "hint: " in err


# With the real trainer: only what can be seen nowhere else


@pytest.fixture
def real(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> Callable[..., tuple[int, str, str]]:
    """real(*arguments): exit code, stdout and stderr; the trainer is a process of its own that has torch already."""

    def call(*arguments: str) -> tuple[int, str, str]:
        return run([*arguments]), *capfd.readouterr()

    monkeypatch.setattr("engine.runs.begin.launch", lambda run, variables: ForkedTrainer(run, **(variables or {})))
    monkeypatch.setattr(foreground, "train", TRAIN)
    return call


Real = Callable[..., tuple[int, str, str]]


def test_the_run_continues_without_the_bad_files(here: Path, real: Real) -> None:
    """One image is broken behind an intact header: only decoding finds it. No captions: the trigger is used."""
    folder = here / "images"
    for caption in folder.glob("*.txt"):
        caption.unlink()
    (folder / "zero.png").write_bytes(b"")
    Image.effect_noise((64, 64), 90).save(folder / "noise.png")
    (folder / "half.png").write_bytes((folder / "noise.png").read_bytes()[:2000])
    code, out, err = real("--preset", "zed.toml")
    assert code == 0, err
    assert out == f"{here}/zed/results_current/zed.safetensors\n"
    for text in ("2 files set aside", "zero.png: empty", "half.png: truncated", '"zed" is used', "finished at step 2"):
        assert text in err, text


def test_images_that_are_gone_before_the_resume(here: Path, real: Real) -> None:
    ended(here, "stopped", 6)
    shutil.rmtree(here / "images")
    code, out, err = real("resume", "out")
    assert code == 3 and out == ""
    assert "images does not exist" in err and "Traceback" not in err
    assert (here / "out" / "zed.toml").exists()


def test_an_optimizer_that_is_none(here: Path, real: Real) -> None:
    code, out, err = real("--preset", "zed.toml", *settings("training.optimizer_type=AdamZ"))
    assert code == 2 and out == ""
    assert "there is no optimizer 'AdamZ'" in err and "AdamW8bit" in err
    assert "Traceback" not in err and not list(here.rglob("zed*.safetensors"))
