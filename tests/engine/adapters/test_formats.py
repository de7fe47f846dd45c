"""Files of every kind and naming, made small: what `inspect` calls them, who reads them, and whether training does."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file

from engine.adapters.formats import in_kohya_names, recognise_format
from engine.adapters.inspect import LoraReport, inspect_lora
from engine.adapters.kinds.registry import kind_named
from engine.adapters.kinds.trainable import TrainableKind
from engine.families.registry import module_tables, recognise
from engine.families.unet.table import SDXL_TABLE, as_original
from engine.types import LoraTarget
from tests.refusals import refused
from tui.main import run

TABLES = module_tables()

Tensors = dict[str, torch.Tensor]
NO_READER = "no program that is known"


def zeros(**shapes: tuple[int, ...]) -> Tensors:
    return {name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}


def lora(name: str, inputs: int = 64, outputs: int = 32, style: str = "lora_down", alpha: bool = True) -> Tensors:
    down, up = {
        "lora_down": (".lora_down.weight", ".lora_up.weight"),
        "lora_A": (".lora_A.weight", ".lora_B.weight"),
        "lora": (".lora.down.weight", ".lora.up.weight"),
        "_lora": ("_lora.down.weight", "_lora.up.weight"),
        "linear_layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
        "_lora1": ("_lora1.down.weight", "_lora1.up.weight"),
    }[style]
    tensors = {f"{name}{down}": torch.ones(4, inputs), f"{name}{up}": torch.ones(outputs, 4)}
    return tensors | ({f"{name}.alpha": torch.tensor(2.0)} if alpha else {})


def named(name: str, tensors: Tensors) -> Tensors:
    return {f"{name}.{end}": tensor.clone() for end, tensor in tensors.items()}


A2K = "transformer_blocks_0_attn2_to_k"
SD15 = f"lora_unet_down_blocks_0_attentions_0_{A2K}"
SDXL = f"lora_unet_input_blocks_4_1_{A2K}"
SDXL_DIFFUSERS = f"lora_unet_down_blocks_1_attentions_0_{A2K}"
FLUX = "lora_unet_double_blocks_0_img_attn_qkv"

KINDS: dict[str, Tensors] = {
    "LoRA": lora(SDXL, 2048),
    "LoRA with Tucker decomposition": named(
        SDXL, zeros(lora_down__weight=(4, 2048, 1, 1), lora_up__weight=(8, 4, 1, 1), lora_mid__weight=(4, 4, 3, 3))
    )
    | {f"{SDXL}.alpha": torch.tensor(1.0)},
    "DoRA": lora(SDXL, 2048) | {f"{SDXL}.dora_scale": torch.ones(1, 2048)},
    "LoHa": named(
        SDXL,
        zeros(hada_w1_a=(8, 4), hada_w1_b=(4, 2048), hada_w2_a=(8, 4), hada_w2_b=(4, 2048), alpha=()),
    ),
    "LoHa with DoRA": named(
        SDXL,
        zeros(
            hada_w1_a=(8, 4), hada_w1_b=(4, 2048), hada_w2_a=(8, 4), hada_w2_b=(4, 2048), alpha=(), dora_scale=(1, 9)
        ),
    ),
    "LoKr": named(SDXL, zeros(lokr_w1=(4, 32), lokr_w2=(2, 64), alpha=())),
    "LoKr with DoRA": named(SDXL, zeros(lokr_w1=(4, 32), lokr_w2=(2, 64), alpha=(), dora_scale=(1, 2048))),
    "full difference": named(SDXL, zeros(diff=(8, 2048), diff_b=(8,))),
    "full difference with DoRA": named(SDXL, zeros(diff=(8, 2048), dora_scale=(1, 2048))),
    "GLoRA": named(
        SDXL, zeros(a1__weight=(2048, 4), a2__weight=(4, 2048), b1__weight=(8, 4), b2__weight=(4, 2048), alpha=())
    ),
    "(IA)³": named(SDXL, zeros(weight=(8, 1)) | {"on_input": torch.tensor(False)})
    | named(f"{SDXL}x", zeros(weight=(1,))),
    "OFT": named(SDXL, zeros(oft_blocks=(4, 2, 2), alpha=())),
    "BOFT": named(SDXL, zeros(oft_blocks=(2, 4, 2, 2), alpha=())),
    "OFT of peft": named(SDXL, zeros(oft_R__weight=(4, 6))),
    "T-LoRA": named(SDXL, zeros(q_layer__weight=(4, 2048), p_layer__weight=(8, 4), lambda_layer=(1, 4), alpha=())),
    "norm": named("lora_unet_input_blocks_4_1_norm", zeros(w_norm=(8,), b_norm=(8,))),
}
READERS = {
    "LoRA": "ComfyUI, Forge, A1111, diffusers, sd-scripts, LyCORIS",
    "LoRA with Tucker decomposition": "ComfyUI, Forge, A1111, LyCORIS",
    "DoRA": "ComfyUI, Forge, A1111, LyCORIS",
    "LoHa": "ComfyUI, Forge, A1111, sd-scripts, LyCORIS",
    "LoHa with DoRA": "ComfyUI, Forge, A1111, LyCORIS",
    "LoKr": "ComfyUI, Forge, A1111, sd-scripts, LyCORIS",
    "LoKr with DoRA": "ComfyUI, Forge, A1111, LyCORIS",
    "full difference": "ComfyUI, Forge, A1111, LyCORIS",
    "full difference with DoRA": "ComfyUI, Forge, A1111, LyCORIS",
    "GLoRA": "ComfyUI, Forge, A1111, LyCORIS",
    "(IA)³": "A1111, LyCORIS",
    "OFT": "ComfyUI, A1111, LyCORIS",
    "BOFT": "ComfyUI, A1111, LyCORIS",
    "OFT of peft": "",
    "T-LoRA": "LyCORIS",
    "norm": "ComfyUI, Forge, A1111, LyCORIS",
}


def report(directory: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> LoraReport:
    save_file(tensors, directory / "x.safetensors", metadata)
    return inspect_lora(directory / "x.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_and_its_readers(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = KINDS[kind] if kind != "(IA)³" else {k: v for k, v in KINDS[kind].items() if not k.startswith(f"{SDXL}x")}
    result = report(tmp_path, tensors)
    assert result.kind == kind and result.base == "SDXL"
    assert ", ".join(result.readers) == READERS[kind]
    starts = isinstance(kind_named(kind), TrainableKind) and kind != "norm"
    assert (result.no_start is None) == starts
    if kind not in ("OFT of peft",):
        assert result.problems == []
    assert run(["inspect", str(tmp_path / "x.safetensors")]) == (3 if result.problems else 0)
    out = capsys.readouterr().out
    article = "an" if kind[0] in "O(" else "a"
    assert f"x.safetensors: {article} {kind} for SDXL" in out
    assert f"read by: {READERS[kind] or NO_READER}" in out
    start = "can start" if starts else f"cannot start from it: it is {article} {kind}"
    assert f"training: {start}" in out


@pytest.mark.parametrize(
    ("kind", "drop", "problem"),
    [
        ("LoHa", "hada_w2_b", "1 modules have no hada_w2_b"),
        ("LoKr", "lokr_w1", "1 modules have no lokr_w1"),
        ("GLoRA", "b1.weight", "1 modules have no glora_b1"),
        ("T-LoRA", "p_layer.weight", "1 modules have no tlora_p"),
        ("DoRA", "lora_up.weight", "1 modules have no lora_up.weight"),
        ("LoHa", "alpha", "1 modules have no alpha"),
    ],
)
def test_what_a_kind_lacks(tmp_path: Path, kind: str, drop: str, problem: str) -> None:
    result = report(tmp_path, {key: value for key, value in KINDS[kind].items() if key != f"{SDXL}.{drop}"})
    assert problem in " ".join(result.problems) and result.kind == kind


def test_factored_lokr_and_its_rank(tmp_path: Path) -> None:
    factors = zeros(lokr_w1=(4, 32), lokr_w2_a=(2, 6), lokr_w2_b=(6, 64), alpha=())
    assert report(tmp_path, named(SDXL, factors)).ranks == {"6": 1}
    assert report(tmp_path, KINDS["LoKr"]).ranks == {"full": 1}
    assert report(tmp_path, KINDS["OFT"]).ranks == {"4 blocks of 2": 1}


def test_several_kinds_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = report(
        tmp_path, KINDS["norm"] | KINDS["LoKr"] | named(SDXL.replace("0_attn", "1_attn"), zeros(diff=(2, 2048)))
    )
    assert result.kind == "LoKr, full difference and norm" and result.problems == []
    assert run(["inspect", str(tmp_path / "x.safetensors")]) == 0
    assert "kinds: LoKr (1), full difference (1), norm (1)" in capsys.readouterr().out


KOHYA = "ComfyUI, Forge, A1111, diffusers, sd-scripts, LyCORIS"
CASES: list[tuple[str, Tensors, str, str, str, bool]] = [
    # id, tensors, naming, base, readers, whether training starts from it
    ("kohya sd15", lora(SD15, 768), "Kohya's", "SD 1.5", KOHYA, True),
    ("kohya sd2", lora(SD15, 1024), "Kohya's", "SD 2", KOHYA, False),
    ("kohya sdxl", lora(SDXL, 2048), "Kohya's", "SDXL", KOHYA, True),
    ("refiner", lora(SDXL, 1280), "Kohya's", "SDXL refiner", "ComfyUI, Forge, A1111, diffusers", False),
    (
        "sdxl, diffusers' blocks",
        lora(SDXL_DIFFUSERS, 2048),
        "Kohya's",
        "SDXL",
        "ComfyUI, Forge, A1111, diffusers",
        True,
    ),
    (
        "sd15, original blocks",
        lora(f"lora_unet_input_blocks_1_1_{A2K}", 768),
        "Kohya's",
        "SD 1.5",
        "ComfyUI, Forge, A1111, diffusers",
        True,
    ),
    ("kohya flux", lora(FLUX, 3072, 9216), "Kohya's", "FLUX", "ComfyUI, Forge, diffusers, sd-scripts, LyCORIS", True),
    (
        "kohya sd3",
        lora("lora_unet_joint_blocks_0_x_block_attn_qkv"),
        "Kohya's",
        "SD 3",
        "ComfyUI, Forge, diffusers, sd-scripts, LyCORIS",
        False,
    ),
    (
        "kohya anima",
        lora("lora_unet_blocks_0_self_attn_q_proj"),
        "Kohya's",
        "Anima",
        "ComfyUI, Forge, diffusers, sd-scripts, LyCORIS",
        False,
    ),
    (
        "kohya's oft",
        named("oft_unet_double_blocks_0_img_attn_q", zeros(oft_blocks=(4, 2, 2), alpha=())),
        "Kohya's for OFT",
        "FLUX",
        "sd-scripts",
        False,
    ),
    (
        "peft sd15",
        lora("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k", 768, style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "SD 1.5",
        "diffusers",
        True,
    ),
    (
        "peft sdxl",
        lora("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 2048, style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "SDXL",
        "diffusers",
        True,
    ),
    (
        "ai-toolkit flux",
        lora("transformer.single_transformer_blocks.0.attn.to_q", style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "FLUX",
        "ComfyUI, Forge, diffusers, peft",
        True,
    ),
    (
        "ai-toolkit z-image",
        lora("diffusion_model.layers.0.attention.to_q", 3840, style="lora_A", alpha=False),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "Z-Image",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "ai-toolkit flux2",
        lora("diffusion_model.single_blocks.0.linear1", 16, 144, style="lora_A", alpha=False),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "FLUX.2",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "lumina 2",
        lora("diffusion_model.layers.0.attention.qkv", 2304, style="lora_A", alpha=False),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "Lumina 2",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "krea 2",
        lora("diffusion_model.blocks.0.attn.wq", style="lora_A", alpha=False),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "Krea 2",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "wan",
        lora("diffusion_model.blocks.0.cross_attn.k", style="lora_A", alpha=False),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "Wan",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "comfyui flux",
        lora("diffusion_model.double_blocks.0.img_attn.qkv", 3072),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "FLUX",
        "ComfyUI, Forge, diffusers",
        True,
    ),
    (
        "comfyui text",
        lora("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1")
        | lora("diffusion_model.double_blocks.0.img_attn.qkv", 3072),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "FLUX",
        "ComfyUI, diffusers",
        True,
    ),
    (
        "qwen",
        lora("transformer.transformer_blocks.0.img_mlp.net.2", style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "Qwen-Image",
        "ComfyUI, diffusers, peft",
        False,
    ),
    (
        "sd3 peft",
        lora("transformer.transformer_blocks.0.attn.add_q_proj", style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "SD 3",
        "ComfyUI, diffusers, peft",
        False,
    ),
    (
        "flux, blocks of image and text alone",
        lora("transformer.transformer_blocks.18.attn.add_q_proj", 3072, style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "FLUX",
        "ComfyUI, Forge, diffusers, peft",
        True,
    ),
    (
        "qwen, attention alone",
        lora("transformer.transformer_blocks.59.attn.add_q_proj", 3072, style="lora_A", alpha=False),
        "diffusers' and peft's (ai-toolkit's for FLUX)",
        "Qwen-Image",
        "ComfyUI, diffusers, peft",
        False,
    ),
    (
        "onetrainer flux",
        lora("lora_transformer_single_transformer_blocks_0_attn_to_k"),
        "OneTrainer's",
        "FLUX",
        "ComfyUI, diffusers, OneTrainer",
        True,
    ),
    (
        "onetrainer sd3",
        lora("lora_transformer_transformer_blocks_0_attn_add_q_proj"),
        "OneTrainer's",
        "SD 3",
        "ComfyUI, OneTrainer",
        False,
    ),
    (
        "onetrainer sdxl",
        lora(SDXL_DIFFUSERS, 2048) | lora("lora_te2_text_model_encoder_layers_0_mlp_fc1"),
        "Kohya's",
        "SDXL",
        "ComfyUI, Forge, A1111, diffusers",
        True,
    ),
    (
        "omi sdxl",
        lora("unet.input_blocks.4.1.transformer_blocks.0.attn2.to_k", 2048)
        | lora("clip_l.text_model.encoder.layers.0.mlp.fc1")
        | lora("clip_g.text_model.encoder.layers.0.mlp.fc1"),
        "OMI's (Open Model Initiative; OneTrainer)",
        "SDXL",
        "OneTrainer, InvokeAI",
        True,
    ),
    (
        "omi flux",
        lora("transformer.double_blocks.0.img_attn.qkv.0") | lora("t5.encoder.block.0.layer.0.SelfAttention.q"),
        "OMI's (Open Model Initiative; OneTrainer)",
        "FLUX",
        "OneTrainer, InvokeAI",
        True,
    ),
    (
        "xlabs",
        lora("double_blocks.0.processor.qkv", style="_lora1", alpha=False)
        | lora("single_blocks.0.processor.proj", style="_lora", alpha=False),
        "XLabs'",
        "FLUX",
        "diffusers, x-flux",
        True,
    ),
    (
        "bfl",
        lora("double_blocks.0.img_attn.proj", 3072, style="lora_A", alpha=False)
        | zeros(
            double_blocks__0__img_attn__norm__key_norm__scale=(8,), double_blocks__0__img_attn__proj__lora_B__bias=(32,)
        ),
        "Black Forest Labs'",
        "FLUX",
        "ComfyUI, diffusers",
        False,
    ),
    (
        "old diffusers, processors",
        lora(
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k", 768, style="_lora", alpha=False
        ),
        "diffusers' old (before peft)",
        "SD 1.5",
        "ComfyUI, Forge, diffusers",
        True,
    ),
    (
        "old diffusers, no prefix",
        lora("mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k", 768, style="_lora", alpha=False),
        "diffusers' old (before peft)",
        "SD 1.5",
        "ComfyUI, Forge, diffusers",
        True,
    ),
    (
        "old diffusers, layers",
        lora("unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k", 768, style="lora", alpha=False)
        | lora("text_encoder.text_model.encoder.layers.0.self_attn.q_proj", style="linear_layer", alpha=False),
        "diffusers' old (before peft)",
        "SD 1.5",
        "diffusers",
        True,
    ),
    (
        "simpletuner",
        named("lycoris_single_transformer_blocks_0_attn_to_q", zeros(lokr_w1=(4, 4), lokr_w2=(2, 2))),
        "SimpleTuner's (LyCORIS)",
        "FLUX",
        "ComfyUI, SimpleTuner",
        False,
    ),
    (
        "bare peft",
        lora("base_model.model.single_transformer_blocks.0.attn.to_q", style="lora_A", alpha=False),
        "peft's, without the name of the part",
        "FLUX",
        "diffusers, peft",
        True,
    ),
    (
        "diffsynth",
        lora("single_transformer_blocks.0.attn.to_q", style="lora_A", alpha=False),
        "a model's own, without a prefix",
        "FLUX",
        "ComfyUI",
        True,
    ),
    (
        "hunyuan video",
        lora("diffusion_model.double_blocks.0.img_mlp.fc1"),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "HunyuanVideo",
        "ComfyUI",
        False,
    ),
    (
        "lokr of ai-toolkit for flux2",
        named("diffusion_model.double_blocks.0.img_mlp.0", zeros(lokr_w1=(8, 4), lokr_w2=(12, 4))),
        "ComfyUI's (ai-toolkit's but for FLUX)",
        "FLUX.2",
        "ComfyUI, diffusers",
        False,
    ),
]


@pytest.mark.parametrize(
    ("tensors", "naming", "base", "readers", "starts"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_the_naming_and_its_readers(
    tmp_path: Path, tensors: Tensors, naming: str, base: str, readers: str, starts: bool
) -> None:
    result = report(tmp_path, tensors)
    assert (result.naming, result.base, ", ".join(result.readers)) == (naming, base, readers)
    assert (result.no_start is None) == starts, result.no_start
    assert result.problems == []
    assert json.loads(json.dumps(result.as_json()))["naming"] == naming


def test_sdxl_in_diffusers_names_is_complete(tmp_path: Path) -> None:
    """560 attention layers, which diffusers, ComfyUI and the others take whatever the blocks are called."""
    attending = SDXL_TABLE.attending
    places = [("down_blocks_1", 2, 2), ("down_blocks_2", 2, 10), ("mid_block", 1, 10), ("up_blocks_0", 3, 10)]
    names = [
        f"lora_unet_{block}_attentions_{number}_transformer_blocks_{depth}_attn{which}_to_{letter}"
        for block, count, depths in [*places, ("up_blocks_1", 3, 2)]
        for number in range(count)
        for depth in range(depths)
        for which in (1, 2)
        for letter in ("q", "k", "v", "out_0")
    ]
    assert len(names) == 560 and {as_original(name, attending) for name in names} <= TABLES["SDXL"].names
    tensors: Tensors = {}
    for name in names:
        tensors |= {
            f"{name}.lora_down.weight": torch.ones(1, 2048 if "attn2_to_k" in name or "attn2_to_v" in name else 64)
        }
        tensors |= {f"{name}.lora_up.weight": torch.ones(4, 1), f"{name}.alpha": torch.tensor(1.0)}
    result = report(tmp_path, tensors)
    assert result.problems == [] and result.base == "SDXL" and result.modules == {"U-Net": 560}
    assert result.known_modules == {"U-Net": 722} and "diffusers" in result.readers
    assert result.no_start is None


@pytest.mark.parametrize("base", ["SD 1.5", "SDXL"])
def test_every_name_has_its_other_form(base: str) -> None:
    table = TABLES[base]
    assert all(table.resolve(as_original(name, table.attending)) == name for name in table.names)
    assert len({as_original(name, table.attending) for name in table.names}) == len(table.names)
    for name in ("conv_in", "time_embedding_linear_2", "input_blocks_0_0", "time_embed_0", "out_2"):
        assert table.resolve(f"lora_unet_{name}") is not None
    assert (
        table.resolve("lora_unet_nowhere") is None
        and table.resolve("lora_unet_down_blocks_9_attentions_0_proj_in") is None
    )


def lycoris_hash(tensors: Tensors) -> str:
    """As lycoris.utils.precalculate_safetensors_hashes."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        data = save({"tensor": tensor})
        digest.update(data[8 + int.from_bytes(data[:8], "little") :])
    return f"0x{digest.hexdigest()}"


def kohya_hash(tensors: Tensors) -> str:
    data = save(tensors, {"ss_x": "1"})
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


MANY = KINDS["LoKr"] | lora(SD15.replace("down_blocks_0", "down_blocks_1"), 2048) | {f"{SDXL}.alpha": torch.tensor(3.0)}
MIXED = {key: value.half() if "w2" in key else value for key, value in MANY.items()}


@pytest.mark.parametrize(
    ("stated", "note", "problem"),
    [
        (kohya_hash(MIXED), None, None),
        (kohya_hash(MIXED).upper(), None, None),
        (kohya_hash(MIXED)[:12], None, None),
        (lycoris_hash(MIXED), "LyCORIS'", None),
        ("0x" + kohya_hash(MIXED), None, None),
        ("0x" + "0" * 64, "LyCORIS'", None),
        ("a hash", "is not checked", None),
        ("", None, None),
        ("0" * 64, None, "have changed since they were saved"),
        ("0" * 12, None, "have changed since they were saved"),
    ],
)
def test_hashes(tmp_path: Path, stated: str, note: str | None, problem: str | None) -> None:
    result = report(tmp_path, MIXED, {"sshs_model_hash": stated})
    assert len(result.notes) == (note is not None) and (note or "") in " ".join(result.notes)
    assert len(result.problems) == (problem is not None) and (problem or "") in " ".join(result.problems)


def test_a_hash_of_tensors_in_another_order(tmp_path: Path) -> None:
    """A file that another program wrote again holds the same tensors in its own order."""
    order = sorted(MIXED)
    header: dict[str, Any] = {"__metadata__": {"sshs_model_hash": kohya_hash(MIXED)}}
    body = b""
    for key in order:
        data = MIXED[key].numpy().tobytes()
        kind = {torch.float16: "F16", torch.float32: "F32"}[MIXED[key].dtype]
        header[key] = {
            "dtype": kind,
            "shape": list(MIXED[key].shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    assert inspect_lora(path).problems == []


@pytest.mark.parametrize("base", ["SD 1.5", "SDXL"])
def test_a_start_with_the_blocks_named_the_other_way(base: str) -> None:
    """Whatever a U-Net's blocks are called, the run's layers get the values."""
    table = TABLES[base]
    own = sorted(table.attention["U-Net"])
    targets = [LoraTarget("unet", diffusers_path(base, name), name, "linear") for name in own]
    originals = {f"{as_original(name, table.attending)}.alpha": name for name in own}
    paths = {f"lora_unet_{target.path.replace('.', '_')}.alpha": target.kohya_name for target in targets}
    for names in (originals, paths, {f"{name}.alpha": name for name in own}):
        result = recognise_format({key.replace("alpha", "lora_down.weight"): (4, 64) for key in names})
        assert result is not None
        result = replace(result, kohya_names={key.split(".")[0]: table.resolve(key.split(".")[0]) for key in names})
        assert in_kohya_names(names, result, targets) == {f"{name}.alpha": name for name in own}
    assert result is not None and in_kohya_names({"lora_te1_x.alpha": 1}, result, targets) == {"lora_te1_x.alpha": 1}


def diffusers_path(base: str, name: str) -> str:
    """A path for diffusers' one of the layer: its underscored form is what files have."""
    if base == "SD 1.5":
        return name.removeprefix("lora_unet_")
    table = TABLES[base]
    match = re.fullmatch(r"lora_unet_(input|middle|output)_block(?:s_(\d+))?_1_(.+)", name)
    assert match is not None
    row = int(match[2] or 0)
    front = {
        "input": f"down_blocks_{(row - 1) // 3}_attentions_{(row - 1) % 3}",
        "middle": "mid_block_attentions_0",
        "output": f"up_blocks_{row // 3}_attentions_{row % 3}",
    }[match[1]]
    assert table.resolve(f"lora_unet_{front}_{match[3]}") == name
    return f"{front}.{match[3]}"


def test_embeddings_and_dora_scales_are_noted(tmp_path: Path) -> None:
    tensors = lora(SDXL, 2048) | {"bundle_emb.cat.clip_l": torch.ones(2, 8), f"{SDXL}.dora_scale": torch.ones(32, 1)}
    result = report(tmp_path, tensors)
    assert result.problems == [] and "cat" in result.notes[0] and "one for each output" in result.notes[1]


@pytest.mark.parametrize("tensors", [*KINDS.values(), *(case[1] for case in CASES)])
def test_none_is_mistaken_for_a_base_model(tmp_path: Path, tensors: Tensors) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with refused("model-is-lora", "x.safetensors"):
        recognise(tmp_path / "x.safetensors")


BLOCKS = {"oft_blocks": torch.ones(4, 2, 2), "alpha": torch.tensor(0.0)}
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("tensors", "version", "base"),
    [
        (named(ATTENTION, BLOCKS), "sd_v1", "SD 1.5"),
        (named(ATTENTION, BLOCKS), "sd_v2_v", "SD 2"),
        (named(ATTENTION, BLOCKS), "", "unknown"),
        (named(ATTENTION, BLOCKS), "flux1", "unknown"),
        (named(ATTENTION, BLOCKS) | named("lora_te_text_model_encoder_layers_11_mlp_fc1", BLOCKS), "", "SD 1.5"),
        (named(ATTENTION, BLOCKS) | named("lora_te_text_model_encoder_layers_22_mlp_fc1", BLOCKS), "", "SD 2"),
        (named(ATTENTION.replace("_0_a", "_1_a", 1), BLOCKS) | named("lora_te2_text_model_x", BLOCKS), "", "SDXL"),
        (named(ATTENTION.replace("blocks_0_attn", "blocks_1_attn"), BLOCKS), "", "SDXL"),
        (lora(SD15, 32), "sd_v1", "unknown"),
        (lora(SD15, 768), "sdxl_base_v1-0", "SD 1.5"),
    ],
)
def test_the_base_where_shapes_do_not_give_it(tmp_path: Path, tensors: Tensors, version: str, base: str) -> None:
    assert report(tmp_path, tensors, {"ss_base_model_version": version}).base == base
