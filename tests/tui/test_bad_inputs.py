"""A clumsy person at the shell: every wrong input is one sentence (what, where, how to fix it) and an exit code.

What `--dry-run` finds, the start finds as well, before anything is written or launched.
"""

from __future__ import annotations

import json
import os
import pickle
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
from engine.runs import prepare_run, write_exit
from tests.forked import ForkedTrainer
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
def refused(here: Path, capfd: Capture) -> Refused:
    """refused(code, texts, *arguments): both `--dry-run` and the start say it; stdout and the disk stay empty."""

    def check(code: int, texts: tuple[str, ...], *arguments: str, preset: str = "zed.toml") -> str:
        messages = []
        for extra in (["--dry-run"], []):
            before = tree(here)
            assert run(["--preset", preset, *arguments, *extra]) == code, capfd.readouterr()
            out, err = capfd.readouterr()
            assert out == "" and "Traceback" not in err and tree(here) == before
            for text in texts:
                assert text in err, err
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
    ("make", "texts"),
    [
        (lambda _: None, ("dataset.train_data_dir: the folder x does not exist", "nearest existing folder is /")),
        (make_empty, ("no images in", "the folder is empty", "hint: PNG, JPEG, WebP")),
        (make_other_files, ("no images in", "film.mp4: not an image, notes.docx: not an image")),
        (make_deep, ("no images in", "Images are in subfolders", "x/inner): give that folder")),
        (make_all_broken, ("No usable images in", "a.png: empty: 0 bytes", "hint: Fix or replace those files")),
        (make_latin1, ("p1.txt is not UTF-8: byte 3 is 0xe9", "hint: It looks like another encoding: save it as UTF")),
        (make_two_bad_captions, ("2 captions cannot be used", "p1.txt", "p2.txt", "another encoding", "UTF-16")),
        (make_file, ("x is a file, not a folder", "hint: Give its folder")),
    ],
)
def test_wrong_folders(refused: Refused, here: Path, make: Callable[[Path], None], texts: tuple[str, ...]) -> None:
    make(here)
    message = refused(3, texts, "--images", "x")
    assert ".," not in message


def test_images_one_level_higher(refused: Refused, here: Path) -> None:
    (here / "images" / "sub").mkdir()
    refused(3, ("Images are one level up, in", "images: give that folder"), "--images", "images/sub")


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
    refused(3, ("Only 4 usable images in", "dataset.min_images asks for 5", "zero.png", "hint: Add images"),
            *settings("dataset.min_images=5"))  # fmt: skip


def test_one_image_and_no_captions_are_enough(accepted: Callable[..., str], here: Path) -> None:
    fill(here / "one", 1, captions=False)
    out = accepted("--images", "one", "--name", "robot")
    assert "1 training image in" in out
    assert '1 of 1 image without a caption: "robot" is used (p0.png)' in out


def test_all_images_for_validation(refused: Refused) -> None:
    refused(3, ("is left to train on: 3 images used for validation", "hint: Lower dataset.validation_split"),
            *settings("dataset.validation_split=1"))  # fmt: skip


def test_one_folder_in_two_roles(refused: Refused) -> None:
    refused(2, ("dataset.reg_data_dir and dataset.train_data_dir both use the folder", "regularization and validation"),
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
    ("make", "name", "texts"),
    [
        (None, "x.safetensors", ("There is no file or folder x.safetensors", "hint: Check the path of the model")),
        (None, "x.ckpt", ("There is no file or folder x.ckpt", "hint: Check the path of the model")),
        (None, "~nobody.here/x.safetensors", ("There is no file or folder ~nobody.here/x.safetensors",)),
        (None, "some/model", ("no model of that name in the local Hugging Face cache", "lorasmith fetch some/model")),
        (lora, "x.safetensors", ("x.safetensors is a LoRA, not a base model", "hint: Supported: Stable Diffusion 1.5")),
        (vae, "x.safetensors", ("is a VAE, not a base model (it can be set as model.vae)", "hint: Supported:")),
        (sdxl, "x.safetensors", ("has an SDXL UNet but no first text encoder", "hint: Use the full checkpoint")),
        (sd2, "x.safetensors", ("is a Stable Diffusion 2 model", "hint: Use a Stable Diffusion 1.5 checkpoint")),
        (inpainting, "x.safetensors", ("is an inpainting model: its UNet has 9 input", "hint: Train on the")),
        (unet_only, "x.safetensors", ("no text encoder (cond_stage_model) and no VAE", "hint: Use the full")),
        (flux, "x.safetensors", ("has FLUX's blocks, but not its img_in.weight", "hint: FLUX.1 dev and schnell")),
        (web_page, "x.safetensors", ("is not a safetensors file", "a web page saved under that name")),
        (cut, "x.safetensors", ("is cut short: its header names", "hint: The copy or download broke off")),
        (cut_in_header, "x.safetensors", ("is cut short inside its header", "fetch it again")),
        (nothing, "x.safetensors", ("is cut short: it has 0 bytes", "hint: Fetch it again")),
        (pickled, "x.ckpt", ("x.ckpt is a Python pickle", "hint: Convert it once", "'x.safetensors'")),
        (torch_saved, "x.pt", ("x.pt is a Python pickle", "hint: Convert it once")),
        (pickled, "x.safetensors", ("is a Python pickle", "'x-converted.safetensors'")),
        (torch_saved, "x.safetensors", ("is a Python pickle", "'x-converted.safetensors'")),
        (make_file, "x", ("x is cut short: it has 1 bytes",)),
        (folder_of_checkpoints, "x", ("is not a diffusers model", "name one of them: inner.safetensors")),
    ],
)  # fmt: skip
def test_wrong_models(
    refused: Refused, here: Path, make: Callable[[Path], None] | None, name: str, texts: tuple[str, ...]
) -> None:
    if make is not None:
        make(here if make is make_file else here / name)
    refused(3, texts, "--model", name)
    assert not (here / "UNPICKLED").exists()


def test_broken_diffusers_folders(refused: Refused, here: Path, tmp_path: Path, capfd: Capture) -> None:
    whole = tiny_sd15(tmp_path / "folder")
    capfd.readouterr()  # transformers draws a bar while it writes
    unet = "unet/diffusion_pytorch_model.safetensors"
    data = (whole / unet).read_bytes()
    absurd = json.dumps({**json.loads((whole / "unet/config.json").read_text()), "attention_head_dim": 10**9}).encode()
    for name, content, text in (
        (unet, data[:5000], "is cut short"),
        (unet, None, "has no weights of its unet"),
        ("unet/diffusion_pytorch_model.bin", pickle.dumps(Trap()), "is a Python pickle"),
        ("vae/config.json", None, "config.json is missing"),
        ("unet/config.json", absurd, "config.json: attention_head_dim is 1000000000"),
        ("unet/config.json", b"{", "cannot be read as JSON"),
    ):
        (whole / name).unlink(missing_ok=True)
        if content is not None:
            (whole / name).write_bytes(content)
        refused(3, (text, "hint: "), "--model", str(whole))
    assert not (here / "UNPICKLED").exists()


@pytest.mark.parametrize(
    ("key", "make", "code", "texts"),
    [
        ("network.network_weights", None, 3, ("There is no file", "hint: Check the path")),
        ("network.network_weights", cut, 3, ("is cut short",)),
        ("network.network_weights", pickled, 3, ("is a Python pickle",)),
        ("network.network_weights", vae, 3, ("is no LoRA, but a VAE", "any naming that `lorasmith inspect`")),
        ("network.network_weights", sdxl_lora, 3, ("is a LoRA for SDXL, and the model is SD 1.5", "hint: Start from")),
        ("network.network_weights", appended, 3, ("is broken: 4 bytes follow its last tensor", "hint: ")),
        ("network.network_weights", lokr, 3, ("cannot start from it: it is a LoKr", "hint: ")),
        ("network.network_weights", control, 3, ("cannot start from it: it also changes biases", "hint: ")),
        (
            "network.network_weights",
            lora_with("lora_up.weight", torch.full((8, 4), float("nan"))),
            3,
            ("1 tensors hold NaN or infinity: lora_unet_x.lora_up.weight", "hint: "),
        ),
        ("network.network_weights", lora_with("alpha", torch.ones(4)), 3, ("1 alphas are not one number",)),
        ("network.network_weights", lora_with("alpha", torch.tensor(float("inf"))), 3, ("NaN or infinity",)),
        ("network.network_weights", lora_with("lora_down.weight", torch.ones(0, 8)), 3, ("ranks of down and up",)),
        (
            "network.network_weights",
            lora_with("lora_down.weight", torch.ones(4, 8).to(torch.int8)),
            3,
            ("in the number format I8",),
        ),
        ("network.network_weights", folder_of_checkpoints, 3, ("is a folder, not a file", "Name a .safetensors file")),
        ("model.vae", None, 3, ("model.vae: there is no file or folder", "hint: Check the path")),
        ("model.vae", lora, 3, ("model.vae: ", "is a LoRA, not a base model", "hint: Name a VAE file")),
        ("model.vae", web_page, 3, ("is not a safetensors file",)),
        ("model.vae", make_empty, 3, ("has no .safetensors weights of a VAE", "hint: Name a VAE file")),
    ],
)
def test_wrong_files_next_to_the_model(
    refused: Refused, here: Path, key: str, make: Callable[[Path], None] | None, code: int, texts: tuple[str, ...]
) -> None:
    name = "x" if make in (make_empty, folder_of_checkpoints) else "x.safetensors"
    if make is not None:
        make(here if make is make_empty else here / name)
    refused(code, texts, *settings(f"{key}={name}"))
    assert not (here / "UNPICKLED").exists()


# Configuration


@pytest.mark.parametrize(
    ("preset", "text", "texts"),
    [
        ("nope", None, ("No preset or file named 'nope'", "hint: Presets: demo, ")),
        ("sd15-realistik", None, ("No preset or file named", "hint: Did you mean sd15-realistic?")),
        ("images", None, ("The preset images is a folder", "hint: Give a preset's name or a TOML file")),
        ("x.toml", b"\xff\xfe\x00", ("The preset x.toml cannot be read", "hint: Save it as UTF-8 text.")),
        ("x.toml", b"[training\nseed=1", ("x.toml: not valid TOML", "line 1")),
        ("x.toml", b"[trainning]\nseed=1\n", ("x.toml, line 1: trainning: unknown table or key. Did you mean [train",)),
        ("x.toml", b"seed=1\n", ("x.toml, line 1: seed: a key outside its table. It belongs under [training].",)),
    ],
)
def test_wrong_presets(refused: Refused, here: Path, preset: str, text: bytes | None, texts: tuple[str, ...]) -> None:
    if text is not None:
        (here / preset).write_bytes(text)
    refused(2, texts, preset=preset)


def test_everything_wrong_is_reported_at_once(refused: Refused, here: Path) -> None:
    (here / "x.toml").write_text(
        "[training]\nseeed = 3\nlearning_rate = 'fast'\nmax_train_steps = 0\n[dataset]\nunet_lr = 1\nresolution = 7\n"
    )
    message = refused(2, (), preset="x.toml")
    for line in (
        "x.toml, line 2: training.seeed: unknown key. Did you mean training.seed?",
        "x.toml, line 3: training.learning_rate: 'fast' is given, allowed is a valid number",
        "x.toml, line 4: training.max_train_steps: 0 is given, allowed is greater than or equal to 1",
        "x.toml, line 6: dataset.unet_lr: unknown key. It belongs under [training]: training.unet_lr.",
        "x.toml, line 7: dataset.resolution: 7 is given, allowed is a side between 64 and 4096 px",
    ):
        assert line in message, message


@pytest.mark.parametrize(
    ("assignments", "texts"),
    [
        ("training.seeed=1", ("--set training.seeed=1: training.seeed: unknown key. Did you mean training.seed?",)),
        ("trainin.seed=1", ("trainin: unknown table or key. Did you mean [training]?",)),
        ("seed=1", ("seed: a key outside its table. It belongs under [training].",)),
        ("training.seed", ("--set training.seed: no value. Write --set table.key=value.",)),
        ("training.seed=abc", ("training.seed: 'abc' is given, allowed is a valid integer",)),
        ("training.seed=1.5", ("training.seed: 1.5 is given, allowed is a valid integer",)),
        ("dataset.enable_bucket=perhaps", ("'perhaps' is given, allowed is a valid boolean",)),
        ("network.network_dim=0", ("0 is given, allowed is greater than or equal to 1",)),
        ("network.network_dim=5000", ("5000 is given, allowed is less than or equal to 1024",)),
        ("training.learning_rate=-1", ("-1 is given, allowed is greater than 0",)),
        ("training.learning_rate=nan", ("nan is given",)),
        ("memory.mixed_precision=fp8", ("'fp8' is given, allowed is 'auto', 'no', 'fp16' or 'bf16'",)),
        ("training.lr_scheduler=cosin", ("'cosin' is given, allowed is 'constant'",)),
        ("memory.device=gpu", ("memory.device: 'gpu' is given",)),
        ("dataset.resolution=63", ("63 is given, allowed is a side between 64 and 4096 px",)),
        ("network.network_module=networks.loha", ("allowed is 'networks.lora'",)),
        ("saving.output_name=a/b", ("The name 'a/b' cannot be a file name", "hint: Choose letters")),
        ("network.network_train_unet_only=true network.network_train_text_encoder_only=true",
         ("network_train_unet_only and network.network_train_text_encoder_only are both set", "hint: Nothing would")),
        ("training.unet_lr=0 training.text_encoder_lr=0", ("Nothing would be trained", "hint: Set training.unet_lr")),
        ("training.unet_lr=0 network.network_train_unet_only=true", ("Nothing would be trained",)),
        ("training.lr_scheduler=constant training.lr_warmup_steps=9", ("use constant_with_warmup, or lr_warmup",)),
        ("training.min_timestep=500 training.max_timestep=400", ("min_timestep must be below max_timestep",)),
        ("training.adaptive_noise_scale=0.1", ("adaptive_noise_scale needs noise_offset",)),
        ("network.dim_from_weights=true", ("dim_from_weights is set without", "hint: Name the LoRA to start from")),
        ("memory.cache_text_encoder_outputs=true network.network_train_text_encoder_only=true",
         ("contradicts network.network_train_text_encoder_only", "hint: A cached text encoder cannot be trained")),
        ("dataset.bucket_reso_steps=16", ("is not a multiple of 32, which this model needs", "hint: Set dataset.buck")),
        ("dataset.resolution=512 dataset.max_bucket_reso=256", ("has a side above dataset.max_bucket_reso", "hint: ")),
        ("dataset.min_bucket_reso=256", ("has a side below dataset.min_bucket_reso = 256", "hint: Lower")),
        ("dataset.resolution=65 dataset.enable_bucket=false", ("65×65 is not a multiple of 4 px", "use 64×64")),
        ("model.family=sdxl", ("model.family is sdxl, but the checkpoint is sd15", "hint: Leave it at auto")),
        ("training.scale_v_pred_loss_like_noise_pred=true", ("is for v-prediction models", "hint: Switch it off")),
        ("training.v_pred_like_loss=0.5 model.v_parameterization=true", ("is for epsilon models", "hint: Unset it")),
        ("sampling.sample_prompts=nowhere.txt", ("The prompt file nowhere.txt cannot be read", "sample_prompts")),
        ("memory.cache_latents_to_disk=true memory.cache_dir=zed.toml",
         ("zed.toml is a file, where a folder is needed", "hint: Choose another memory.cache_dir")),
    ],
)  # fmt: skip
def test_wrong_settings(refused: Refused, assignments: str, texts: tuple[str, ...]) -> None:
    refused(2, texts, *settings(*assignments.split()))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.json", "{", "x.json is malformed"),
        ("x.toml", "[other]", "x.toml lacks 'prompt'"),
        ("x.txt", "a robot --w wide", "--w 'wide' is not a number"),
        ("x.json", '[{"text": "a robot"}]', "neither text nor a table with `prompt`"),
    ],
)
def test_wrong_prompt_files(refused: Refused, here: Path, name: str, text: str, message: str) -> None:
    (here / name).write_text(text)
    refused(2, (message, "hint: "), *settings(f"sampling.sample_prompts={name}"))


def test_the_checkpoint_differs(refused: Refused, tmp_path: Path, capfd: Capture) -> None:
    model = tiny_sd15(tmp_path / "v", prediction_type="v_prediction")
    capfd.readouterr()  # transformers draws a bar while it writes
    refused(2, ("model.v_parameterization = false contradicts", "hint: Leave model.v_parameterization unset"),
            "--model", str(model), *settings("model.v_parameterization=false"))  # fmt: skip


def test_without_a_gpu(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hint = "hint: Set memory.mixed_precision to no or auto"
    refused(2, ("memory.mixed_precision is fp16, but the run computes on the CPU", hint),
            *settings("memory.mixed_precision=fp16"))  # fmt: skip
    for device in ("cuda", "cuda:7"):
        refused(2, (f"memory.device={device}, but no GPU is found here", "hint: Set memory.device=cpu"),
                *settings(f"memory.device={device}"))  # fmt: skip


def test_a_date_that_is_none(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    message = "SOURCE_DATE_EPOCH is 'yesterday', which is no time in whole seconds"
    refused(2, (message, "hint: Give it the seconds since 1970"))


# The place


@pytest.mark.parametrize("name", ["zed.toml", "zed.toml/inside"])
def test_a_file_where_the_output_goes(refused: Refused, name: str) -> None:
    refused(2, ("zed.toml is a file, where a folder is needed", "hint: Choose another --output_dir"),
            "--output_dir", name)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("x" * 230, "is too long: 230 bytes"), (" ", "cannot be a file name"), ("a\nb", "cannot be a file name")],
)
def test_names_that_no_file_can_bear(refused: Refused, name: str, text: str) -> None:
    refused(2, (text, "hint: Choose "), "--name", name)


def test_paths_that_are_too_long(refused: Refused) -> None:
    refused(5, ("File name too long", "hint: Choose another --output_dir"), "--output_dir", "x" * 300)
    refused(3, ("File name too long",), "--model", "x" * 300)
    refused(3, ("File name too long",), "--images", "x" * 300)
    refused(2, ("File name too long", "hint: Check the path"), preset="x" * 300)


def test_no_permission(accepted: Callable[..., str], here: Path, tiny: Path, capfd: Capture) -> None:
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
        ([*free, "--images", "closed"], 3, "the folder closed cannot be read: permission denied"),
        ([*free, "--images", "caption"], 3, "p1.txt cannot be read: Permission denied"),
        ([*free, "--model", "secret.safetensors"], 3, "secret.safetensors cannot be read: Permission denied"),
        ([*free, "--model", "closed/model.safetensors"], 3, "model.safetensors cannot be read: Permission denied"),
        ([*free, *settings("model.vae=closed/x")], 3, "closed/x cannot be read: Permission denied"),
        (["--preset", "secret.toml"], 2, "The preset secret.toml cannot be read"),
        (["--preset", "closed/zed.toml"], 5, "closed/zed.toml: Permission denied"),
        (["attach", "closed/x"], 5, "Permission denied"),
    ]
    if os.getuid() == 0:
        refusals.append((["--preset", "zed.toml"], 5, "failed: permission denied"))
    refusals.append((["--preset", "zed.toml", "--output_dir", "closed/x"], 5, "failed: permission denied"))
    capfd.readouterr()
    before = tree(here)
    with without_rights(here):
        for arguments, code, text in refusals:
            for extra in ([], ["--dry-run"]) if arguments[0] == "--preset" else ([],):
                ended = run([*arguments, *extra])
                out, err = capfd.readouterr()
                assert (ended, out) == (code, ""), (arguments, err)
                assert "Traceback" not in err and text in err.replace(f"{here}/", ""), (arguments, err)
                assert "hint: " in err
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
        refused(5, ("disk failed: the file system is read-only", "hint: Choose another --output_dir"),
                "--output_dir", "disk/x")  # fmt: skip


def test_a_full_disk(refused: Refused, here: Path) -> None:
    with mounted(here / "disk", "size=64k"):
        refused(5, ("Not enough space in", "one state and one LoRA needs", "hint: Free some space there"),
                "--output_dir", "disk/x")  # fmt: skip


# Runs


def test_unknown_runs(here: Path, capfd: Capture) -> None:
    for arguments in (["attach", "x"], ["stop", "x"], ["resume", "x"], ["set", "x", "training.unet_lr=1"]):
        assert run(arguments) == 2
        out, err = capfd.readouterr()
        assert out == "" and "There is no run 'x'." in err and "hint: No run is known here" in err


def ended(here: Path, state: str, code: int) -> None:
    """A run in `out` that ended so, without training."""
    run_dir = prepare_run(load_config("zed.toml", [f"saving.output_dir={here / 'out'}"]))
    write_exit(run_dir, state, code, 2, message=f"{state} at step 2")


def test_a_finished_run(here: Path, capfd: Capture) -> None:
    ended(here, "finished", 0)
    for arguments, text in (
        (["resume", "out"], "is finished: there is nothing to resume"),
        (["stop", "out"], "is not running (finished"),
        (["set", "out", "training.unet_lr=1"], "is not training (finished)"),
    ):
        assert run(arguments) == 2
        out, err = capfd.readouterr()
        assert out == "" and text in err and str(here / "out") in err


def test_an_unfinished_run_is_not_overwritten(refused: Refused, here: Path) -> None:
    ended(here, "stopped", 6)
    refused(2, ("out holds an unfinished run (stopped, step 2)", "lorasmith resume", "--restart"),
            "--output_dir", "out")  # fmt: skip


def test_two_runs_on_one_directory(refused: Refused, here: Path) -> None:
    run_dir = prepare_run(load_config("zed.toml", [f"saving.output_dir={here / 'out'}"]))  # this process is "starting"
    assert run_dir.is_run
    refused(2, ("A training is running in", "two runs on one directory are not possible", "lorasmith attach"),
            "--output_dir", "out")  # fmt: skip
    refused(2, ("two runs on one directory",), "--output_dir", "out", "--restart")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["zed.toml"], "is not a safetensors file"),
        (["nowhere"], "There is no file nowhere"),
        (["images"], "images is a folder, not a file"),
        (["model.safetensors"], "is no LoRA"),
    ],
)
def test_inspecting_what_is_no_lora(here: Path, capfd: Capture, arguments: list[str], text: str) -> None:
    assert run(["inspect", *arguments]) == 3
    out, err = capfd.readouterr()
    assert out == "" and text in err and "hint: " in err


# With the real trainer: only what can be seen nowhere else


@pytest.fixture
def real(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture) -> Callable[..., tuple[int, str, str]]:
    """real(*arguments): exit code, stdout and stderr; the trainer is a process of its own that has torch already."""

    def call(*arguments: str) -> tuple[int, str, str]:
        return run([*arguments]), *capfd.readouterr()

    monkeypatch.setattr("tui.shell.begin.launch", lambda run, variables: ForkedTrainer(run, **(variables or {})))
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
