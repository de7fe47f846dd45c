"""`check_file`: which files a training may begin from, found out without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.adapters.defects import check_file
from tests.refusals import refused

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
SOUND = {
    f"{NAME}.lora_down.weight": torch.ones(4, 768),
    f"{NAME}.lora_up.weight": torch.ones(8, 4),
    f"{NAME}.alpha": torch.tensor(2.0),
}
FLUX = "transformer.single_transformer_blocks.0.attn.to_q"
PEFT = {f"{FLUX}.lora_A.weight": torch.ones(4, 64), f"{FLUX}.lora_B.weight": torch.ones(8, 4)}


def write(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path / "x.safetensors")
    return path / "x.safetensors"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize(("tensors", "base"), [(SOUND, "SD 1.5"), (PEFT, "FLUX")])
def test_sound_files(tmp_path: Path, dtype: torch.dtype, tensors: dict[str, torch.Tensor], base: str) -> None:
    lora = check_file(write(tmp_path, {key: value.to(dtype) for key, value in tensors.items()}), base)
    assert lora.kind == "LoRA"


@pytest.mark.parametrize(
    "more",
    [
        {f"{NAME}.alpha": torch.tensor([2.0])},
        {f"{NAME}.alpha": torch.tensor([[2.0]])},
        {f"{NAME}.alpha": torch.tensor(2)},
        {f"{NAME}.alpha": torch.tensor(-2.0)},
    ],
)
def test_odd_alphas_that_are_one_number(tmp_path: Path, more: dict[str, torch.Tensor]) -> None:
    assert check_file(write(tmp_path, SOUND | more), "SD 1.5").kind == "LoRA"


def test_without_alpha(tmp_path: Path) -> None:
    tensors = {key: value for key, value in SOUND.items() if "alpha" not in key}
    assert check_file(write(tmp_path, tensors), "SD 1.5").kind == "LoRA"


DOWN, UP, ALPHA = (f"{NAME}.{end}" for end in ("lora_down.weight", "lora_up.weight", "alpha"))
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "code", "parts"),
    [
        ({DOWN: torch.full((4, 768), NAN)}, "weights-not-finite", ("1 tensors", DOWN)),
        (
            {UP: torch.full((8, 4), -INF), DOWN: torch.full((4, 768), NAN)},
            "weights-not-finite",
            ("2 tensors", UP, DOWN),
        ),
        ({UP: torch.full((8, 4), INF).to(torch.float8_e5m2)}, "weights-not-finite", (UP,)),
        ({UP: torch.full((8, 4), NAN).to(torch.float8_e4m3fn)}, "weights-not-finite", (UP,)),
        ({ALPHA: torch.tensor(NAN)}, "weights-not-finite", (ALPHA,)),
        ({ALPHA: torch.tensor(0.0)}, "lora-alpha-zero", ("1 alphas", ALPHA)),
        ({ALPHA: torch.ones(8)}, "lora-alpha-wrong", ("1 alphas", ALPHA)),
        ({ALPHA: torch.ones(0)}, "lora-alpha-wrong", ("1 alphas", ALPHA)),
        ({UP: torch.ones(0, 4)}, "weights-empty", (UP,)),
        ({UP: torch.ones(8, 0), DOWN: torch.ones(0, 768)}, "weights-empty", (UP, DOWN)),
        ({UP: torch.ones(8, 5)}, "lora-ranks-differ", (NAME,)),
        ({UP: torch.ones(8)}, "lora-ranks-differ", (NAME,)),
        ({UP: torch.ones(8, 4).to(torch.int8)}, "number-format-not-supported", ("I8",)),
        ({UP: torch.ones(8, 4).to(torch.complex64)}, "number-format-not-supported", ("C64",)),
        ({UP: None}, "lora-incomplete", ("1 modules", "lora_up.weight", NAME)),
        ({"whatever": torch.ones(1)}, "lora-not-for-start", ("1 of its tensors", "whatever")),
        (
            {f"{FLUX}.lora_A.weight": torch.ones(4, 8), f"{FLUX}.lora_B.weight": torch.ones(8, 4)},
            "lora-for-other-model",
            ("FLUX", "SD 1.5"),
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], code: str, parts: tuple[str, ...]
) -> None:
    tensors = {key: value for key, value in (SOUND | change).items() if value is not None}
    with refused(code, "x.safetensors", *parts) as error:
        check_file(write(tmp_path, tensors), "SD 1.5")
    assert error.value.hint


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({f"{FLUX}.lora_B.weight": torch.full((8, 4), NAN)}, "weights-not-finite", f"{FLUX}.lora_B.weight"),
        ({f"{FLUX}.lora_B.weight": None}, "lora-incomplete", "lora_B.weight"),
        ({f"{FLUX}.lora_B.bias": torch.ones(8)}, "lora-not-for-start", "1 layer"),
        ({f"{FLUX}.lora_magnitude_vector": torch.ones(8)}, "lora-not-for-start", "a DoRA"),
    ],
)
def test_peft_files(tmp_path: Path, change: dict[str, torch.Tensor | None], code: str, part: str) -> None:
    tensors = {key: value for key, value in (PEFT | change).items() if value is not None}
    with refused(code, part):
        check_file(write(tmp_path, tensors), "FLUX")
    with refused("lora-for-other-model"):
        check_file(write(tmp_path, PEFT), "SDXL")


def test_no_torch_is_loaded(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from engine.adapters.defects import check_file; "
        "check_file(Path(sys.argv[1]), 'SD 1.5'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, write(tmp_path, SOUND)], check=True)
