"""Shell and batch files that call Kohya's scripts: quotation, variables, flags, and nothing that is lost in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.config.kohya.arguments import Conversion
from engine.config.kohya.command_line import convert_command_line, is_command_line
from engine.config.kohya.rules import FLAGS

SHELL = r"""#!/bin/bash
# accelerate launch sdxl_train_network.py --network_dim 1
export MODEL=/m/pony.safetensors  # the base
OUT="${HOME}/loras"
NAME='pony hero'
cd /opt/sd-scripts
accelerate launch --num_cpu_threads_per_process 8 --num_processes=2 sdxl_train_network.py \
    --pretrained_model_name_or_path="$MODEL" --dataset_config "./my dataset.toml" \
    --output_dir="$OUT/${SUB:-first}" --output_name="$NAME" --save_every_n_epochs=1 \
    --network_module=networks.lora --network_dim=32 --network_alpha=0 \
    --network_args "conv_dim=8" "conv_alpha=4" \
    --unet_lr=1e-4 --text_encoder_lr 5e-5 5e-5 \
    --optimizer_type="Prodigy" --optimizer_args decouple=True "betas=0.9,0.999" \
    --lr_warmup_steps=10% --lr_scheduler=cosine --noise_offset=0.0 --clip_skip 0 \
    --no_half_vae --cache_latents --wandb_api_key $KEY --lowram "$@" > log.txt 2>&1
"""
BATCH = r"""@echo off
REM accelerate launch train_network.py --network_dim 1
set BASE=C:\AI\models\v1-5.safetensors
set "OUT=C:\AI\out dir"
.\venv\Scripts\accelerate launch ".\train_network.py" ^
  --pretrained_model_name_or_path="%BASE%" --train_data_dir="C:\AI\img\" --reg_data_dir="" ^
  --resolution=512,768 --output_dir="%OUT%" --network_dim=128 --training_comment="it's mine, v1" ^
  --unet_lr=0.0001 --lr_warmup_steps="160" --lr_scheduler="cosine" --train_batch_size="2" --xformers --enable_bucket
pause
"""


def config(conversion: Conversion) -> RunConfig:
    assert not conversion.problems, conversion.problems
    return RunConfig.model_validate(conversion.values)


def test_a_shell_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    conversion = convert_command_line(SHELL)
    result = config(conversion)
    assert result.model.pretrained_model_name_or_path == "/m/pony.safetensors" and result.model.family == "sdxl"
    assert (result.saving.output_dir, result.saving.output_name) == ("/home/me/loras/first", "pony hero")
    assert (result.dataset.dataset_config, result.training.num_processes) == ("./my dataset.toml", 2)
    assert (result.network.network_dim, result.network.network_alpha, result.network.conv_dim) == (32, 32, 8)
    assert result.training.optimizer_args == ["decouple=True", "betas=0.9,0.999"]
    assert (result.training.lr_warmup_steps, result.training.noise_offset, result.model.clip_skip) == (0.1, None, None)
    entries = {entry.key: entry for entry in conversion.entries}
    assert entries["lowram"].value == "True" and entries["arguments"].value == "$@"
    assert entries["cd"].value == "/opt/sd-scripts" and entries["wandb_api_key"].value == "(not shown)"
    assert "CUDA_VISIBLE_DEVICES" not in entries
    assert entries["accelerate launch"].value == "--num_cpu_threads_per_process 8 --num_processes=2"
    assert (entries["network_alpha"].text, entries["noise_offset"].text) == ("0 is the rank", "0 is off")


def test_a_batch_file() -> None:
    result = config(convert_command_line(BATCH.replace("\n", "\r\n")))
    assert result.model.pretrained_model_name_or_path == "C:\\AI\\models\\v1-5.safetensors"
    assert (result.dataset.train_data_dir, result.saving.output_dir) == ("C:\\AI\\img\\", "C:\\AI\\out dir")
    assert result.saving.training_comment == "it's mine, v1" and result.dataset.reg_data_dir is None
    assert (result.training.lr_warmup_steps, result.training.train_batch_size) == (160, 2)
    assert result.dataset.enable_bucket


@pytest.mark.parametrize(
    ("rest", "key", "message"),
    [
        ("--seed $RANDOM", "seed", "$RANDOM: the file does not define it."),
        ("--output_dir $(pwd)/out", "output_dir", "$(pwd)/out: the file does not define it."),
        ('"${MORE[@]}"', "", "${MORE[@]}: the file does not define it."),
        ("$EXTRA", "", "$EXTRA: the file does not define it."),
        ("--xformers $EXTRA", "", "$EXTRA: the file does not define it."),
        ("--output_name my cat", "cat", "belongs to no argument."),
        ("--output_name --xformers", "output_name", "no value is given."),
        ("--network_dimm 3", "network_dimm", "unknown argument."),
    ],
)
def test_what_cannot_be_read_is_a_problem(rest: str, key: str, message: str) -> None:
    conversion = convert_command_line(f"ARGS=(\n--network_dim 8\n)\npython train_network.py --network_dim 4 {rest}\n")
    assert [(problem.key, problem.message) for problem in conversion.problems] == [(key, message)]
    assert conversion.values["network"]["network_dim"] == 4


@pytest.mark.parametrize(
    "script", ['"/opt/sd scripts/train_network.py"', '"$HOME/sd scripts/train_network.py"', "'./a b/train_network'"]
)
def test_a_script_in_quotation_marks_with_blanks(script: str) -> None:
    conversion = convert_command_line(
        f"accelerate launch --num_processes 2 {script} --output_name 'a b' --network_dim 4\n"
    )
    assert not conversion.problems
    assert (conversion.values["saving"]["output_name"], conversion.values["training"]["num_processes"]) == ("a b", 2)


def test_a_training_toml_behind_config_file(tmp_path: Path) -> None:
    """As Kohya reads it: without its extension too, and the call's own arguments go before it."""
    (tmp_path / "my.toml").write_text("[a]\nnetwork_dim = 8\nnetwork_alpha = 2\n[b]\noutput_name = 'zed'\n")
    conversion = convert_command_line(f"python train_network.py --config_file {tmp_path}/my --network_dim 16\n")
    assert not conversion.problems
    assert conversion.values["network"]["network_dim"] == 16 and conversion.values["network"]["network_alpha"] == 2
    assert conversion.values["saving"]["output_name"] == "zed"
    assert [entry.status for entry in conversion.entries if entry.key == "config_file"] == ["honoured"]
    (problem,) = convert_command_line("python train_network.py --config_file nowhere.toml\n").problems
    assert problem.key == "config_file" and "nowhere.toml cannot be read" in problem.message


def test_a_call_in_a_comment_is_none() -> None:
    assert not is_command_line("# run train_network.py\nREM train_network.py\necho train_network.py")
    assert is_command_line("# run it\npython train_network.py")


def test_flags_are_those_of_the_scripts() -> None:
    rows = (Path(__file__).parent / "fixtures" / "args_lora_scripts.tsv").read_text().splitlines()[1:]
    flags = {row.split("\t")[1][2:] for row in rows if row.split("\t")[3] == "store_true"}
    assert flags == FLAGS


def named(before: str, rest: str = "--output_name $NAME") -> tuple[object, list[str]]:
    """What a file makes of the output's name, and the keys of its problems."""
    conversion = convert_command_line(f"{before}\npython train_network.py --network_dim 4 {rest}\n")
    return conversion.values["saving"].get("output_name"), [problem.key for problem in conversion.problems]


@pytest.mark.parametrize(
    "lines",
    [
        'NAME="it\'s 5\\" #1"',
        "NAME='it'\\''s 5\" #1'",
        'A=x; NAME="it\'s 5\\" #1" # NAME=b',
        "NAME=\"it's\"\nNAME+=' 5\" #1'",
        'export -x A=1 NAME="it\'s 5\\" #1"',
        'IN="it\'s"; NAME="${IN:=no} 5\\" #1"',
        'train() {\n  A=1\n}\ntrain\nNAME="it\'s 5\\" #1"',
        'if [ -d venv ]; then\n  NAME=y\nfi\nNAME="it\'s 5\\" #1"',
        'NAME="it\'s 5\\" #1"\nif [ "$NAME" == "y" ]; then A=3; fi\nNAME=z python other.py',
        'A="it\'s"\nif [ $A=3 ]; then B=2; fi\nNAME="$A 5\\" #1"',
    ],
)
def test_the_value_of_a_variable_is_taken_as_it_is(lines: str) -> None:
    assert named(lines, '--output_name "$NAME"') == ("it's 5\" #1", [])


@pytest.mark.parametrize(
    "lines",
    [
        'NAME=a\nif [ "$1" == b ]; then\n  NAME=b\nfi',
        'NAME=a\nif [ "$1" == b ]; then NAME=b; fi',
        "NAME=a\nif true; then\n  if [ y ]; then\n    NAME=b\n  fi\nelse\n  A=1\nfi",
        "if [ x ]; then\n  NAME=b\nelse\n  NAME=b\nfi",
        "set_name() { NAME=b; }\nNAME=a\nset_name",
        "NAME=a\n[[ -n $BIG ]] && NAME=b",
        "NAME=a\ncase $1 in\n  b) NAME=b ;;\n  *) A=1 ;;\nesac",
        "NAME=a\nfor NAME in b c; do echo $NAME; done",
        "NAME=a\nread -p 'name? ' NAME",
        "NAME=a\nNAME=$(date +%F)",
        "NAME=a\nNAME=(b c)",
        "NAME=a\n[ $1 ] && NAME+=b",
    ],
)
def test_a_variable_that_may_hold_something_else_is_a_problem(lines: str) -> None:
    assert named(lines) == (None, ["output_name"])


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        ("set NAME=a", "a"),
        ('set "NAME=a" & set B=1', "a"),
        ("set NAME=100%%", "100%"),
        ("set NAME=%%a", None),
        ("set NAME=a\nif exist x (\n  set NAME=b\n)", None),
        ("set NAME=a\nif exist x set NAME=b", None),
        ("set NAME=a\nset /p NAME=Name?", None),
        ("if exist x (\n  set NAME=b\n) else (\n  set B=1\n)", None),
    ],
)
def test_variables_of_a_batch_file(lines: str, name: str | None) -> None:
    assert named(f"@echo off\n{lines}", "--output_name %NAME%") == (name, [] if name else ["output_name"])


def test_an_unquoted_variable_is_parted_at_its_blanks() -> None:
    conversion = convert_command_line('EXTRA="--network_dim 8 --flip_aug"\npython train_network.py $EXTRA\n')
    assert (conversion.values["network"]["network_dim"], conversion.values["dataset"]["flip_aug"]) == (8, True)


def test_lists_of_a_shell() -> None:
    """Over several lines, with comments, added to, and a value that has blanks and quotation marks."""
    lines = """
NAME="it's 5"
ARGS=(
  --network_dim=8  # the rank
  # --network_dim=9
  --output_name "$NAME" --training_comment='a (b) c'
)
ARGS+=(--flip_aug)
declare -a MORE=("--clip_skip 2")
python train_network.py "${ARGS[@]}" ${MORE[@]}
"""
    conversion = convert_command_line(lines)
    assert not conversion.problems
    assert (conversion.values["saving"]["output_name"], conversion.values["network"]["network_dim"]) == ("it's 5", 8)
    assert conversion.values["saving"]["training_comment"] == "a (b) c"
    assert conversion.values["dataset"]["flip_aug"] is True and conversion.values["model"]["clip_skip"] == 2
    doubtful = lines.replace("declare", "if [ $1 ]; then\nARGS+=(--xformers)\nfi\ndeclare")
    assert ["depends on line 10" in problem.message for problem in convert_command_line(doubtful).problems] == [True]


CALL = "accelerate launch train_network.py --train_data_dir=a --network_dim=4"


@pytest.mark.parametrize("line", ["CUDA_VISIBLE_DEVICES=1,2 ", "export CUDA_VISIBLE_DEVICES='1,2'\n"])
def test_the_cards_that_a_script_chooses_are_reported(line: str) -> None:
    conversion = convert_command_line(line + CALL)
    assert config(conversion).network.network_dim == 4
    (entry,) = [entry for entry in conversion.entries if entry.key == "CUDA_VISIBLE_DEVICES"]
    assert (entry.value, entry.status) == ("1,2", "no effect")
    commented = convert_command_line(f"# {line.strip()}\n{CALL}")
    assert not any(entry.key == "CUDA_VISIBLE_DEVICES" for entry in commented.entries)
    remark = convert_command_line(f"@echo off\nREM set CUDA_VISIBLE_DEVICES=1\n{CALL}")
    assert not any(entry.key == "CUDA_VISIBLE_DEVICES" for entry in remark.entries)
