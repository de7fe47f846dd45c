"""`inspect_lora`: what it reads from a file, and each thing that it finds wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.adapters.inspect import inspect_lora
from engine.adapters.kohya_format import write_lora
from engine.families.module_table import clip_names
from engine.families.registry import module_tables
from engine.families.unet.table import sd15_convolutions, sd15_names
from tests.refusals import refused

TABLES = module_tables()

PROJ_IN = "lora_unet_down_blocks_0_attentions_0_proj_in"
FIXTURES = Path(__file__).parent / "fixtures"
FLUX_TABLE = Path(__file__).parent.parent / "families" / "fixtures" / "keys_flux_dit.tsv"


def _table(name):
    return [line.split("\t")[0] for line in (FIXTURES / name).read_text().splitlines()]


def test_names_by_rule_are_those_of_sd_scripts():
    assert sorted(clip_names("lora_te_", 12)) == sorted(_table("keys_sd15_te.tsv"))
    assert sorted(sd15_names()) == sorted(_table("keys_sd15_unet.tsv"))
    assert sorted([*sd15_names(), *sd15_convolutions()]) == sorted(_table("keys_sd15_unet_conv.tsv"))


def _sd15_file(path, *tables, rank=2, precision="fp16", metadata=None):
    tensors = {}
    for table in tables:
        for line in (FIXTURES / table).read_text().splitlines():
            name, kind, inside, outside = line.split("\t")
            kernel = {"lin": (), "conv1x1": (1, 1), "conv3x3": (3, 3)}[kind]
            tensors[f"{name}.lora_down.weight"] = torch.ones(rank, int(inside[3:]), *kernel)
            tensors[f"{name}.lora_up.weight"] = torch.ones(int(outside[4:]), rank, *(1 for _ in kernel))
            tensors[f"{name}.alpha"] = torch.tensor(1.5)
    write_lora(path, tensors, metadata or {}, precision, print)
    return path


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "F16"), ("bf16", "BF16"), ("float", "F32")])
def test_a_sound_sd15_file(tmp_path, precision, dtype):
    path = _sd15_file(
        tmp_path / "x.safetensors",
        "keys_sd15_te.tsv",
        "keys_sd15_unet.tsv",
        precision=precision,
        metadata={"ss_base_model_version": "sd_v1", "ss_output_name": "x", "ss_private": "y"},
    )
    report = inspect_lora(path)
    assert report.base == "SD 1.5"
    assert report.modules == {"text encoder": 72, "U-Net": 192} == report.known_modules
    assert (report.ranks, report.alphas, report.dtypes) == ({"2": 264}, {"1.5": 264}, {dtype: 792})
    assert report.problems == []
    assert report.metadata.keys() == {"ss_base_model_version", "ss_output_name", "sshs_model_hash"}
    assert report.size == path.stat().st_size
    assert report.as_json()["modules"]["U-Net"] == 192


def test_a_file_with_convolutions(tmp_path):
    report = inspect_lora(_sd15_file(tmp_path / "x.safetensors", "keys_sd15_unet_conv.tsv"))
    assert report.modules == {"U-Net": 278} == report.known_modules
    assert report.problems == []


@pytest.fixture
def small(tmp_path):
    """A sound file of one block; returns a function that writes it changed."""
    path = tmp_path / "x.safetensors"
    tensors = {}
    for name in sd15_names()[:12]:
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(2, 768),
            f"{name}.lora_up.weight": torch.ones(320, 2),
            f"{name}.alpha": torch.tensor(1.0),
        }

    def write(change=lambda tensors: None, precision=torch.float16, metadata=None):
        copy = {key: value.to(precision) for key, value in tensors.items()}
        change(copy)
        save_file(copy, path, metadata)
        return path

    return write


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("lora_unet_down_blocks_0_attentions_0_proj_in.alpha"), "1 modules have no alpha"),
        (
            lambda tensors: tensors.pop("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"),
            "1 modules have no lora_up.weight",
        ),
        (
            lambda tensors: tensors.update(
                {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": torch.ones(320, 3)}
            ),
            "ranks of down and up differ",
        ),
        (lambda tensors: tensors.update({"whatever": torch.ones(1)}), "1 tensors have names of no known LoRA"),
        (
            lambda tensors: tensors.update({"lora_unet_mid_block.alpha": torch.tensor(1.0)}),
            "1 tensors have names of no known LoRA",
        ),
        (
            lambda tensors: tensors.update({"lora_unet_nowhere.lora_up.weight": torch.ones(3, 2)}),
            "are none of SD 1.5's",
        ),
        (lambda tensors: tensors.update({f"{PROJ_IN}.alpha": torch.ones(2)}), "1 alphas are not one number"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.alpha": torch.ones(0)}), "1 alphas are not one number"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.alpha": torch.ones(2, 1)}), "1 alphas are not one number"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.alpha": torch.tensor(0.0)}), "1 alphas are 0"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.alpha": torch.tensor(float("nan"))}), "hold NaN or infinity"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.lora_up.weight": torch.ones(0, 2)}), "1 tensors hold no numbers"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.lora_up.weight": torch.ones(320)}), "ranks of down and up differ"),
        (lambda tensors: tensors.update({f"{PROJ_IN}.lora_up.weight": torch.ones(())}), "ranks of down and up differ"),
        (
            lambda tensors: tensors.update({f"{PROJ_IN}.lora_up.weight": torch.ones(320, 2, dtype=torch.int8)}),
            "1 tensors are in the number format I8",
        ),
    ],
)
def test_what_is_wrong_is_reported(small, change, problem):
    assert inspect_lora(small()).problems == []
    assert problem in " ".join(inspect_lora(small(change)).problems)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_values_are_found(small, precision, value):
    def change(tensors):
        tensors["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"][7, 1] = value

    assert inspect_lora(small(precision=precision)).problems == []
    problems = inspect_lora(small(change, precision)).problems
    assert problems == ["1 tensors hold NaN or infinity: lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight."]


def test_changed_tensors_are_found(tmp_path):
    path = _sd15_file(tmp_path / "x.safetensors", "keys_sd15_te.tsv")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert "sshs_model_hash" in " ".join(inspect_lora(path).problems)


def test_metadata_of_another_base(small):
    report = inspect_lora(small(metadata={"ss_base_model_version": "sdxl_base_v1-0"}))
    assert report.problems == ["The metadata name sdxl_base_v1-0, the modules are those of SD 1.5."]


@pytest.mark.parametrize(
    ("name", "width", "base"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv", 3072, "FLUX"),
        ("lora_unet_input_blocks_4_1_proj_in", 640, "SDXL"),
        ("lora_te2_text_model_encoder_layers_0_self_attn_k_proj", 1280, "SDXL"),
        ("lora_te_text_model_encoder_layers_0_self_attn_k_proj", 1024, "SD 2"),
        ("lora_te_text_model_encoder_layers_0_self_attn_k_proj", 128, "unknown"),
    ],
)
def test_bases(tmp_path, name, width, base):
    save_file(
        {
            f"{name}.lora_down.weight": torch.ones(4, width),
            f"{name}.lora_up.weight": torch.ones(8, 4),
            f"{name}.alpha": torch.tensor(1),
        },
        tmp_path / "x.safetensors",
    )
    report = inspect_lora(tmp_path / "x.safetensors")
    assert report.base == base
    assert report.alphas == {"1": 1}
    assert report.problems == []


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "it is a U-Net alone"),
        ("blocks.0.mlp.down.weight", "its tensors"),
        ("lora_unet_mid_block_attentions_0_proj_in.alpha", "its tensors"),
        ("first_stage_model.encoder.conv_in.weight", "it is a VAE"),
    ],
)
def test_what_is_no_lora_is_refused(tmp_path, key, what):
    save_file({key: torch.ones(1)}, tmp_path / "x.safetensors")
    with refused("not-a-lora", "x.safetensors", what):
        inspect_lora(tmp_path / "x.safetensors")


def test_fluxs_table_is_kohyas():
    rows = FLUX_TABLE.read_text().splitlines()
    assert list(TABLES["FLUX"].attention["transformer"]) == [row.partition("\t")[0] for row in rows]
    assert {part: len(names) for part, names in TABLES["FLUX"].attention.items()} == {
        "transformer": 304,
        "text encoder 1": 72,
        "text encoder 3": 168,
    }


def test_a_file_cut_short_is_refused(small):
    path = small()
    path.write_bytes(path.read_bytes()[:-10])
    with refused("model-file-cut-short"):
        inspect_lora(path)


def test_import_and_use_load_no_torch(small):
    path = small()
    assert load_file(path)
    program = (
        "import sys; from pathlib import Path; from engine.adapters.inspect import inspect_lora; "
        "assert 'numpy' not in sys.modules; inspect_lora(Path(sys.argv[1])); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)
