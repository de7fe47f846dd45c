"""Kohya's arguments that choose layers and give them ranks and rates: from files of each form, and in an export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, load_config
from engine.config.kohya.convert import conversion_of
from engine.config.kohya.layer_args import layer_args, on_kohya_names
from engine.config.patterns import compiled
from tests.engine.config.kohya_scripts import resolved_export

Write = Callable[[str, str], Path]
BASE = 'unet_lr = 1e-4\nnetwork_dim = 8\npretrained_model_name_or_path = "/m.safetensors"\n'
KOHYA, FLUX, LYCORIS, LOHA = "networks.lora", "networks.lora_flux", "lycoris.kohya", "networks.loha"
DIMS = ",".join(["4"] * 12 + ["0"] + ["2"] * 12)
"""Twelve down blocks, the middle, twelve up blocks."""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return written


def toml(module: str, *arguments: str) -> str:
    return f'{BASE}network_module = "{module}"\nnetwork_args = {json.dumps(arguments)}\n'


def status_of(path: Path, name: str) -> tuple[str, str]:
    conversion = conversion_of(path, path.read_text())
    assert conversion is not None
    return next((entry.status, entry.text) for entry in conversion.entries if entry.key == f"network_args {name}")


@pytest.mark.parametrize(
    ("module", "argument", "setting", "expected"),
    [
        (KOHYA, f"block_dims={DIMS}", "network.block_dims", DIMS),
        (KOHYA, f"block_alphas={DIMS}", "network.block_alphas", DIMS),
        (KOHYA, f"conv_block_dims={DIMS}", "network.conv_block_dims", DIMS),
        (KOHYA, f"conv_block_alphas={DIMS}", "network.conv_block_alphas", DIMS),
        (KOHYA, "down_lr_weight=sine+0.25", "network.down_lr_weight", "sine+0.25"),
        (KOHYA, "mid_lr_weight=0.5", "network.mid_lr_weight", "0.5"),
        (KOHYA, "up_lr_weight='1,0.5,0'", "network.up_lr_weight", "1,0.5,0"),
        (KOHYA, "block_lr_zero_threshold=0.1", "network.block_lr_zero_threshold", 0.1),
        (KOHYA, "loraplus_lr_ratio=16", "network.loraplus_lr_ratio", 16),
        (KOHYA, "loraplus_unet_lr_ratio=4", "network.loraplus_unet_lr_ratio", 4),
        (KOHYA, "loraplus_text_encoder_lr_ratio=2", "network.loraplus_text_encoder_lr_ratio", 2),
        (FLUX, "network_reg_dims=img_attn=4,single=0", "network.network_reg_dims", "img_attn=4,single=0"),
        (FLUX, "network_reg_lrs=img_attn=1e-5", "network.network_reg_lrs", "img_attn=1e-5"),
        (FLUX, "train_blocks=single", "flux.train_blocks", "single"),
        (FLUX, "train_double_block_indices=0-3,7", "flux.train_double_block_indices", "0-3,7"),
        (FLUX, "train_single_block_indices=none", "flux.train_single_block_indices", "none"),
        (FLUX, "img_attn_dim=2", "flux.img_attn_dim", 2),
        (FLUX, "single_mod_dim=0", "flux.single_mod_dim", 0),
        (FLUX, "in_dims=[4,0,0,0,0]", "flux.in_dims", "4,0,0,0,0"),
        (FLUX, "split_qkv=True", "flux.split_qkv", True),
        (LYCORIS, "preset=attn-only", "network.preset", "attn-only"),
        (LOHA, "exclude_patterns=['.*attn2.*']", "network.exclude_patterns", ["^lora_[a-z0-9]+_(?:.*attn2.*)$"]),
        (LOHA, r"include_patterns=.*attn2\.to_k", "network.include_patterns", ["^lora_[a-z0-9]+_(?:.*attn2_to_k)$"]),
        (LOHA, "network_reg_dims=.*ff.*=2", "network.network_reg_dims", "^lora_[a-z0-9]+_(?:.*ff.*)$=2"),
    ],
)  # fmt: skip
def test_each_becomes_its_setting(write: Write, module: str, argument: str, setting: str, expected: Any) -> None:
    """From a file of arguments and from a call of the script alike."""
    path, own = write("t.toml", toml(module, argument)), ""
    script = "flux_train_network.py" if module == FLUX else "sdxl_train_network.py"
    if module == FLUX:
        own = " --clip_l /c.safetensors --t5xxl /t.safetensors --ae /a.safetensors"
    shell = f'python {script}{own} --unet_lr 1e-4 --network_module {module} --network_args "{argument}"\n'
    name, _, field = setting.partition(".")
    for file in (path, write("t.sh", shell)):
        assert getattr(getattr(load_config(file), name), field) == expected
        assert status_of(file, argument.partition("=")[0])[0] in ("honoured", "better")


@pytest.mark.parametrize(
    ("module", "argument", "status"),
    [
        (KOHYA, "train_blocks=single", ("no effect", "networks.lora does not read it")),
        (KOHYA, "network_reg_dims=ff=2", ("no effect", "networks.lora does not read it")),
        (FLUX, f"block_dims={DIMS}", ("no effect", "networks.lora_flux does not read it")),
        (LYCORIS, "down_lr_weight=sine", ("no effect", "lycoris.kohya does not read it")),
        (LOHA, "preset=attn-only", ("no effect", "networks.loha does not read it")),
        (FLUX, "split_qkv=true", ("no effect", "the scripts switch it on by the text True only")),
        (KOHYA, "block_dims=", ("honoured", "not set")),
        (KOHYA, "loraplus_lr_ratio=0", ("honoured", "not set")),
    ],
)
def test_what_a_module_does_not_read_has_no_effect(
    write: Write, module: str, argument: str, status: tuple[str, str]
) -> None:
    path = write("t.toml", toml(module, argument))
    assert status_of(path, argument.partition("=")[0]) == status
    assert layer_args(load_config(path)) == {}


@pytest.mark.parametrize(
    ("module", "argument", "text"),
    [
        (KOHYA, "block_dims=4,x", "whole numbers, not 'x'"),
        (KOHYA, "down_lr_weight=cosines", "a curve (cosine, sine, linear, reverse_linear, zeros)"),
        (KOHYA, "loraplus_lr_ratio=-2", "greater than 0"),
        (FLUX, "train_double_block_indices=3-1", "train_double_block_indices"),
        (FLUX, "network_reg_dims=img_attn", "pattern=value"),
        (LYCORIS, "preset=/presets/mine.toml", "'/presets/mine.toml' is not valid"),
        (LOHA, "exclude_patterns=['(a']", "(a"),
        (LOHA, "exclude_patterns=['(?=a)b']", "look"),
    ],
)
def test_a_value_that_cannot_be_is_one_error(write: Write, module: str, argument: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write("t.toml", toml(module, argument)))
    (problem,) = caught.value.problems
    assert problem.key == f"network_args {argument.partition('=')[0]}" and text in str(problem)


GUI = {"LoRA_type": "Standard", "unet_lr": 1e-4, "sdxl": True, "network_dim": 8, "network_alpha": 8}


@pytest.mark.parametrize(
    ("changes", "setting", "expected"),
    [
        ({"down_lr_weight": "zeros", "block_lr_zero_threshold": "0.2"}, "network.down_lr_weight", "zeros"),
        ({"block_dims": DIMS}, "network.block_dims", DIMS),
        ({"LoRA_type": "Kohya LoCon", "conv_block_dims": DIMS}, "network.conv_block_dims", DIMS),
        ({"loraplus_unet_lr_ratio": 4}, "network.loraplus_unet_lr_ratio", 4),
        ({"LoRA_type": "LyCORIS/LoHa", "LyCORIS_preset": "unet-only"}, "network.preset", "unet-only"),
        ({"LoRA_type": "Flux1", "sdxl": False, "flux1_checkbox": True, "train_double_block_indices": "0-3"},
         "flux.train_double_block_indices", "0-3"),
        ({"text_encoder_lr": 5e-5, "text_encoder_lr1": 1e-5}, "training.text_encoder_lr", [1e-5, 5e-5]),
        ({"text_encoder_lr1": "1e-5", "text_encoder_lr2": 2e-5}, "training.text_encoder_lr", [1e-5, 2e-5]),
        ({"text_encoder_lr": 5e-5, "text_encoder_lr1": 0, "text_encoder_lr2": ""}, "training.text_encoder_lr", 5e-5),
    ],
)  # fmt: skip
def test_keys_of_the_gui(write: Write, changes: dict[str, Any], setting: str, expected: Any) -> None:
    table, _, field = setting.partition(".")
    config = load_config(write("g.json", json.dumps(GUI | changes)))
    assert getattr(getattr(config, table), field) == expected


@pytest.mark.parametrize(
    ("text", "exact", "expected"),
    [
        ("[1e-5, 2e-5]", False, [1e-5, 2e-5]),
        ("[1e-5, 1e-5]", False, 1e-5),
        ("[1e-5, 2e-5]", True, 1e-5),
        ("1e-5", False, 1e-5),
    ],
)
def test_rates_of_two_text_encoders(write: Write, text: str, exact: bool, expected: Any) -> None:
    """Kohya's script takes the first of the two for both, and so does a run with `training.kohya_exact`."""
    path = write("t.toml", f"{toml(KOHYA, 'verbose=True')}text_encoder_lr = {text}\n")
    own = [f"training.kohya_exact={str(exact).lower()}", "model.family=sdxl"]
    assert load_config(path, own).training.text_encoder_lr == expected


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("sdxl", {"network": {"block_lr_weight": ",".join(["0.5"] * 12 + ["1"] + ["0"] * 12)}},
         {"down_lr_weight": ",".join(["0.5"] * 12), "mid_lr_weight": "1", "up_lr_weight": ",".join(["0"] * 12)}),
        ("sdxl", {"network": {"block_lr_weight": ",".join(["9"] + ["0.5"] * 9 + ["1"] * 3 + ["0"] * 9 + ["9"])}},
         {"down_lr_weight": ",".join(["0.5"] * 9), "mid_lr_weight": "1,1,1", "up_lr_weight": ",".join(["0"] * 9)}),
        ("flux", {"flux": {"train_blocks": "double", "in_dims": "4,0,0,0,0", "img_mlp_dim": 0}},
         {"train_blocks": "double", "in_dims": "4,0,0,0,0", "img_mlp_dim": "0"}),
        ("sdxl", {"network": {"loraplus_lr_ratio": 16.0, "exclude_patterns": ["attn2", "ff"]}},
         {"loraplus_lr_ratio": "16", "exclude_patterns": "['attn2', 'ff']"}),
    ],
)  # fmt: skip
def test_the_arguments_of_the_settings(family: str, changes: dict[str, Any], expected: dict[str, str]) -> None:
    assert layer_args(RunConfig().changed(model={"family": family}, **changes)) == expected


@pytest.mark.parametrize(
    ("family", "network", "arguments", "note"),
    [
        ("sdxl", {"down_lr_weight": "sine"}, ['"down_lr_weight=sine"'], ""),
        ("sdxl", {"preset": "attn-only"}, ['"preset=attn-only"', 'network_module = "lycoris.kohya"'], ""),
        ("sdxl", {"exclude_patterns": ["attn2"]}, [], "exclude_patterns"),
        ("sdxl", {"network_reg_dims": "ff=2"}, [], "network_reg_dims"),
        ("flux", {"network_reg_dims": "img_mlp=2"}, ['"network_reg_dims=img_mlp=2"'], ""),
        ("sdxl", {"network_module": "networks.loha", "loraplus_lr_ratio": 4.0}, ['"loraplus_lr_ratio=4"'], ""),
        ("sdxl", {"network_module": "networks.loha", "include_patterns": ["ff"]}, [], "include_patterns"),
    ],
)
def test_what_the_module_of_an_export_reads(
    family: str, network: dict[str, Any], arguments: list[str], note: str
) -> None:
    """What it does not read is named in a note."""
    config = RunConfig().changed(model={"family": family}, network=network, training={"unet_lr": 1e-4})
    exported = resolved_export(config, family, [], [])
    assert all(text in exported.files["training.toml"] for text in arguments)
    assert any(note in text for text in exported.notes)


def test_a_pattern_of_whole_paths_matches_the_same_layers() -> None:
    pattern = compiled(on_kohya_names(r"down_blocks\.[01]\..*attn2\.to_[kv]"))
    front = "lora_unet_down_blocks"
    assert pattern.is_in(f"{front}_1_attentions_0_transformer_blocks_0_attn2_to_k")
    assert not pattern.is_in(f"{front}_1_attentions_0_transformer_blocks_0_attn2_to_q")
    assert not pattern.is_in(f"{front}_2_attentions_0_transformer_blocks_0_attn2_to_k")
