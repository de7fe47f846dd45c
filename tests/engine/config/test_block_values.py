"""Lists by block, curves, numbers of blocks and values by name, in Kohya's form (facts: sd-scripts `networks`)."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from engine.config import RunConfig, block_values
from engine.config.network import NetworkTable
from engine.families.block_lists import read_block_lists
from engine.families.unet.blocks import SD15_BLOCKS, SDXL_BLOCKS, sd15_block, sdxl_block
from tests.refusals import refused

ONES = [1.0] * 12


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("linear", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("reverse_linear", 5, [1, 0.75, 0.5, 0.25, 0]),
        ("zeros+0.25", 3, [0.25, 0.25, 0.25]),
        ("sine", 4, [0, 0.5, 0.8660254, 1]),
        ("cosine", 4, [1, 0.8660254, 0.5, 0]),
        ("sine+0.5", 4, [0.5, 1, 1.3660254, 1.5]),
        ("0.5,,1", 12, [0.5, 0, 1]),
    ],
)
def test_factors(text: str, length: int, expected: list[float]) -> None:
    assert list(block_values.weights(text, length)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected", "notes"),
    [
        ({"down_lr_weight": "0.5,0.2"}, [0.5, 0.2, *[1.0] * 10, 1.0, *ONES], ["down_lr_weight has 2 of 12"]),
        ({"up_lr_weight": ",".join(["0.5"] * 14)}, [*ONES, 1.0, *[0.5] * 12], ["up_lr_weight has 14 values"]),
        ({"mid_lr_weight": "0.3", "block_lr_zero_threshold": 0.3}, [*ONES, 0.0, *ONES], []),
        ({"down_lr_weight": "zeros", "block_lr_zero_threshold": 2}, [*[0.0] * 12, 1.0, *ONES], []),
        ({"block_lr_weight": ",".join(["0.1"] * 25), "block_lr_zero_threshold": 0.2}, [0.0] * 25, []),
        ({"block_lr_zero_threshold": 0.5}, None, []),
    ],
)
def test_the_factors_of_all_blocks(settings: dict[str, Any], expected: list[float] | None, notes: list[str]) -> None:
    """Short lists are filled with 1, long ones cut, and what is not above the threshold is 0."""
    table = read_block_lists(NetworkTable(**settings), SD15_BLOCKS)
    assert table is not None and (None if table.weights is None else list(table.weights)) == expected
    assert len(table.notes) == len(notes) and all(part in note for part, note in zip(notes, table.notes, strict=True))


def test_the_lists_of_a_model_with_ends() -> None:
    table = read_block_lists(NetworkTable(mid_lr_weight="0.5,0.25"), SDXL_BLOCKS)
    assert table is not None and table.weights is not None
    assert list(table.weights) == [*[1.0] * 10, 0.5, 0.25, *[1.0] * 11]


@pytest.mark.parametrize("key", ["block_dims", "conv_block_alphas", "block_lr_weight"])
def test_a_list_of_all_blocks_has_one_value_for_each(key: str) -> None:
    with refused("block-list-wrong-length", f"network.{key}", "3 values", "23 blocks"):
        read_block_lists(NetworkTable(**{"block_dims": ",".join("1" * 23), key: "1,2,3"}), SDXL_BLOCKS)


@pytest.mark.parametrize(
    ("name", "sd15", "sdxl"),
    [
        ("lora_unet_down_blocks_0_attentions_0_proj_in", 1, None),
        ("lora_unet_down_blocks_0_downsamplers_0_conv", 3, None),
        ("lora_unet_down_blocks_3_resnets_1_conv1", 11, None),
        ("lora_unet_mid_block_attentions_0_proj_in", 12, None),
        ("lora_unet_up_blocks_0_resnets_0_conv1", 13, None),
        ("lora_unet_up_blocks_1_attentions_2_proj_in", 18, None),
        ("lora_unet_up_blocks_2_upsamplers_0_conv", 21, None),
        ("lora_unet_up_blocks_3_attentions_2_proj_in", 24, None),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", None, None),
        ("lora_unet_time_embed_0", None, 0),
        ("lora_unet_label_emb_0_0", None, 0),
        ("lora_unet_input_blocks_4_1_proj_in", None, 5),
        ("lora_unet_middle_block_1_proj_in", None, 11),
        ("lora_unet_output_blocks_5_1_proj_in", None, 18),
        ("lora_unet_out_2", None, 22),
    ],
)
def test_the_place_of_a_layer_in_the_lists(name: str, sd15: int | None, sdxl: int | None) -> None:
    assert (sd15_block(name), sdxl_block(name)) == (sd15, sdxl)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", set(range(12))),
        ("none", set()),
        ("", set()),
        ("0-3,7,9-11", {0, 1, 2, 3, 7, 9, 10, 11}),
        (" 4 - 5 ", {4, 5}),
    ],
)
def test_numbers_of_blocks(text: str, expected: set[int]) -> None:
    assert block_values.selected(text, 12) == expected


@pytest.mark.parametrize("text", ["12", "3-1", "x", "1-", "-1", "1;2"])
def test_wrong_numbers_of_blocks(text: str) -> None:
    with pytest.raises(ValueError, match="numbers of blocks"):
        block_values.selected(text, 12)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"block_dims": "4,x"}, "whole numbers, not 'x'"),
        ({"block_dims": "4,-1"}, "whole numbers from 0 to 1024"),
        ({"block_alphas": "1,-1"}, "numbers from 0 on"),
        ({"down_lr_weight": "0.5"}, "a curve (cosine, sine, linear, reverse_linear, zeros)"),
        ({"up_lr_weight": "sine+x"}, "numbers, not 'x'"),
        ({"mid_lr_weight": "-1"}, "numbers from 0 on"),
        ({"network_reg_dims": "attn1"}, "pattern=value, several separated by commas"),
        ({"network_reg_dims": "attn1=1.5"}, "whole numbers, not '1.5'"),
        ({"network_reg_lrs": "(=1e-4"}, "a regular expression; '(' is none"),
        ({"include_patterns": ["a" * 201]}, "up to 200 characters"),
        ({"loraplus_lr_ratio": 0}, "greater than 0"),
        ({"block_lr_weight": "1,1", "mid_lr_weight": "1"}, "say the same twice"),
    ],
)
def test_wrong_values_are_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError) as error:
        RunConfig().changed(network=settings)
    assert len(error.value.errors()) == 1 and sentence in error.value.errors()[0]["msg"]


def test_a_list_may_be_a_list() -> None:
    network = RunConfig().changed(network={"block_dims": [1, 2], "up_lr_weight": [0.5, 1]}).network
    assert (network.block_dims, network.up_lr_weight) == ("1,2", "0.5,1")
    assert RunConfig().changed(flux={"in_dims": "[4,0,0,0,4]"}).flux.in_dims == "4,0,0,0,4"
