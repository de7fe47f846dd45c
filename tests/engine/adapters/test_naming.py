"""Every name of every table has its place in diffusers, and the way back leads to it."""

from __future__ import annotations

import json
import re

import pytest

from engine.adapters.formats import recognise_format
from engine.adapters.naming import addresses, base_for, comfy_name, component_of, diffusers_paths
from engine.families.flux.layers import FLUX_LAYERS
from engine.families.flux.names import bfl_place
from engine.families.layer_names import Address
from engine.families.registry import module_tables
from engine.families.unet.names import unet_name
from engine.families.unet.table import SDXL_TABLE, as_diffusers, as_original
from engine.paths import ASSETS

TABLES = module_tables()

ALL = [(base, name) for base, table in TABLES.items() for name in sorted({*table.names, *table.outside})]


def test_every_layer_of_the_tables_has_paths_of_its_own() -> None:
    places: dict[tuple[str, str, str], str] = {}
    for base, name in ALL:
        paths = diffusers_paths(name, base)
        assert paths, name
        for path in paths:
            assert places.setdefault((base, component_of(name, base), path), name) == name
    assert (
        len(places) == 350 + 4 + (1052 + 1) + (552 + 2) + 19 * 4 + 38 * 3
    )  # FLUX's fused layers have two or three more


def test_sdxl_names_go_both_ways() -> None:
    for name in TABLES["SDXL"].names:
        assert as_original(as_diffusers(name), SDXL_TABLE.attending) == name


@pytest.mark.parametrize("base", TABLES)
def test_the_names_of_diffusers_lead_back(base: str) -> None:
    """All layers of a family in a diffusers file are recognised as what they are."""
    shapes: dict[str, tuple[int, ...]] = {}
    expected = {}
    for name in (name for family, name in ALL if family == base):
        paths = diffusers_paths(name, base)
        assert paths is not None
        for number, path in enumerate(paths):
            module = f"{component_of(name, base)}.{path}"
            width = {"SD 1.5": 768, "SDXL": 2048, "FLUX": 64}[base] if "attn2.to_k" in path else 64
            shapes |= {f"{module}.lora_A.weight": (4, width), f"{module}.lora_B.weight": (64, 4)}
            expected[module] = Address(name, number, len(paths))
    lora = recognise_format(shapes)
    assert lora is not None
    assert addresses(lora, base) == expected and base_for(lora, {}) == base


@pytest.mark.parametrize(
    ("layer", "base", "paths"),
    [
        ("lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_ff_net_0_proj", "SD 1.5",
         ("down_blocks.2.attentions.1.transformer_blocks.0.ff.net.0.proj",)),
        ("lora_te_text_model_encoder_layers_11_self_attn_out_proj", "SD 1.5",
         ("text_model.encoder.layers.11.self_attn.out_proj",)),
        ("lora_unet_input_blocks_7_0_skip_connection", "SDXL", ("down_blocks.2.resnets.0.conv_shortcut",)),
        ("lora_unet_output_blocks_5_2_conv", "SDXL", ("up_blocks.1.upsamplers.0.conv",)),
        ("lora_unet_middle_block_2_in_layers_2", "SDXL", ("mid_block.resnets.1.conv1",)),
        ("lora_unet_single_blocks_37_linear1", "FLUX",
         tuple(f"single_transformer_blocks.37.{end}" for end in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"))),
        ("lora_unet_guidance_in_in_layer", "FLUX", ("time_text_embed.guidance_embedder.linear_1",)),
        ("lora_te3_encoder_block_3_layer_1_DenseReluDense_wi_0", "FLUX",
         ("encoder.block.3.layer.1.DenseReluDense.wi_0",)),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "SD 1.5", None),
        ("lora_unet_something_else", "SDXL", None),
    ],
)  # fmt: skip
def test_paths_in_diffusers(layer: str, base: str, paths: tuple[str, ...] | None) -> None:
    assert diffusers_paths(layer, base) == paths


def test_the_rows_of_fused_layers() -> None:
    assert FLUX_LAYERS.row_widths(3, 3072, 9216) == [3072] * 3
    assert FLUX_LAYERS.row_widths(4, 3072, 21504) == [3072, 3072, 3072, 12288]
    assert FLUX_LAYERS.row_widths(1, 5, 7) == [7]


COMFY_PATTERNS = {
    "SD 1.5": (
        r"diffusion_model\.(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.[012]\..+",
        r"diffusion_model\.(input_blocks\.0\.0|time_embed\.[02]|out\.2)",
        r"text_encoders\.clip_l\.transformer\.text_model\.encoder\.layers\.\d+\.(self_attn\.[qkv]_proj|"
        r"self_attn\.out_proj|mlp\.fc[12])",
    ),
    "SDXL": (
        r"diffusion_model\.(input_blocks\.\d+|middle_block|output_blocks\.\d+)\.[012]\..+",
        r"text_encoders\.clip_[lg]\.transformer\.(text_model\.encoder\.layers\.\d+\.(self_attn|mlp)\..+|text_projection)",
    ),
    "FLUX": (
        r"diffusion_model\.double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.[02]|mod\.lin)",
        r"diffusion_model\.single_blocks\.\d+\.(linear[12]|modulation\.lin)",
        r"diffusion_model\.(img_in|txt_in|(time|vector|guidance)_in\.(in|out)_layer|final_layer\.(linear|"
        r"adaLN_modulation\.1))",
        r"text_encoders\.clip_l\.transformer\.text_model\.encoder\.layers\.\d+\.(self_attn|mlp)\..+",
        r"text_encoders\.t5xxl\.transformer\.encoder\.block\.\d+\.layer\.[01]\.(SelfAttention\.[qkvo]|"
        r"DenseReluDense\.w(i_[01]|o))",
    ),
}
"""The keys of ComfyUI's models, which it takes as names of LoRA modules (`comfy/lora.py`, "generic lora format")."""


@pytest.mark.parametrize("base", TABLES)
def test_the_names_of_comfyui(base: str) -> None:
    """Each is one of ComfyUI's keys, another one for each layer, and leads back to it. ComfyUI maps the same key with
    underscores to the same weight under Kohya's prefix, and SD 1.5's blocks are as the original files number them."""
    names = {name: comfy_name(name, base) for family, name in ALL if family == base}
    assert len(set(names.values())) == len(names)
    for layer, name in names.items():
        assert name is not None and any(re.fullmatch(pattern, name) for pattern in COMFY_PATTERNS[base]), name
        path = name.partition(".")[2].replace(".", "_")
        if name.startswith("diffusion_model.") and base != "SD 1.5":
            assert layer == f"lora_unet_{path}"
    back = recognise_format({f"{name}.{end}": (4, 4) for name in names.values() for end in ("lora_up.weight",)})
    assert back is not None and {str(names[layer]): Address(layer) for layer in names} == addresses(back, base)


@pytest.mark.parametrize("base", TABLES)
def test_the_names_of_comfyui_are_those_of_the_checkpoint(base: str) -> None:
    """As the code that reads checkpoints derives them from the model's configuration."""
    folder = {"SD 1.5": "sd15", "SDXL": "sdxl"}.get(base, "")
    config = json.loads((ASSETS / folder / "unet" / "config.json").read_text()) if folder else {}
    for name in (name for family, name in ALL if family == base and name.startswith("lora_unet_")):
        paths = diffusers_paths(name, base)
        assert paths is not None
        key = f"{paths[0]}.weight"
        expected = unet_name(key, config) if folder else bfl_place(key, 3072)[0]
        assert f"{comfy_name(name, base)}.weight" == f"diffusion_model.{expected}"
