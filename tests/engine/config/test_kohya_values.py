"""Every argument of the scripts with every kind of value, in a TOML and on a command line: the right value, or one
problem with its place. What is another training is refused; what another family reads has no effect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, load_config
from engine.config.kohya.argument_values import FLOATS, INTS, LISTS, STEPS_OR_SHARE, read_value
from engine.config.kohya.arguments import convert_arguments
from engine.config.kohya.command_line import convert_command_line
from engine.config.kohya.convert import conversion_of
from engine.config.kohya.rules import FLAGS, FLUX_ONLY, NOT_SD15, rule_of
from engine.config.load import conversion_notes
from tests.refusals import refused

ROWS = [
    line.split("\t")
    for line in (Path(__file__).parent / "fixtures" / "args_lora_scripts.tsv").read_text().splitlines()[1:]
]
NAMES = [row[1].removeprefix("--") for row in ROWS]
REQUIRED = {"network_module": "networks.lora", "pretrained_model_name_or_path": "m", "train_data_dir": "d"}
WRONG = {
    "flag": ['"false"', '"x"', "2", "-1", "1.5", "[true]", "{a = 1}", "1979-05-27"],
    "int": ['"x"', '"a,b"', '"nan"', '"1.5"', "1.5", "true", "[8]", "{a = 1}", "99999999999999999999999", "1979-05-27"],
    "float": ['"x"', '"a,b"', '"inf"', '"nan"', '"1e999"', "inf", "nan", "true", "[0.5]", "{a = 1}"],
    "int_or_float": ['"x"', '"%"', '"nan%"', "true", "[1]", "nan"],
    "list": ["5", "true", "[true]", "[[1]]", "{a = 1}"],
    "rates": ['"a,b"', '["a,b"]', '"x"', "[true]", "[[1]]", "nan", "[inf]", "true"],
    "str": ["true", "[1]", "{a = 1}"],
    "resolution": [
        '"x"',
        '"512x512"',
        '"512,"',
        '"0"',
        "-512",
        "512.5",
        "[512, 512, 512]",
        "[true, 1]",
        "true",
        "'512,512,512'",
    ],
}
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


def kind_of(row: list[str]) -> str:
    name, kind, several = row[1].removeprefix("--"), row[3], row[6] == "*"
    if name == "resolution":
        return name
    return (
        ("rates" if kind == "float" else "list") if several else {"store_true": "flag", "Path": "str"}.get(kind, kind)
    )


def test_the_types_are_those_of_the_scripts() -> None:
    kinds = {row[1].removeprefix("--"): kind_of(row) for row in ROWS}
    for kind, names in (("flag", FLAGS), ("int", INTS - {"num_processes"}), ("float", FLOATS),
                        ("int_or_float", STEPS_OR_SHARE)):  # fmt: skip
        assert {name for name, item in kinds.items() if item == kind} == names
    assert {name for name, item in kinds.items() if item in ("list", "rates")} == LISTS
    assert {name for row, name in zip(ROWS, NAMES, strict=True) if row[8] == "F"} == FLUX_ONLY
    assert {name for row, name in zip(ROWS, NAMES, strict=True) if row[8] == "XF"} == NOT_SD15


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_a_wrong_value_is_one_problem_with_line_and_key(write: Write, row: list[str]) -> None:
    name = row[1].removeprefix("--")
    rule = rule_of(name)
    head = "".join(f'{key} = "{value}"\n' for key, value in REQUIRED.items() if key != name)
    number = head.count("\n") + 3
    for value in WRONG[kind_of(row)]:
        path = write("t.toml", f"{head}\n[any]\n{name} = {value}\n")
        try:
            load_config(path)
        except ConfigError as error:
            (problem,) = error.problems
            assert problem.where.startswith(f"{path}, line {number}"), (value, problem)
            assert problem.key.rpartition(".")[2] in (name, "a"), (value, problem)
        else:  # what has no effect is not looked at, and no flag of another family
            assert rule is not None
            assert rule.status == "no effect" or name in FLUX_ONLY, (name, value)
            assert {entry.status for entry in entries(path) if entry.key == name} == {"no effect"}


def entries(path: Path) -> list[Any]:
    conversion = conversion_of(path, path.read_text())
    assert conversion is not None
    return conversion.entries


@pytest.mark.parametrize(
    ("name", "spellings", "value"),
    [
        ("enable_bucket", [True, "true", "True", 1], True),
        ("enable_bucket", [False, "", 0, None], None),
        ("network_dim", [8, "8", 8.0, " 8 ", "8.0"], 8),
        ("learning_rate", [1, "1", 1.0, "1e0"], 1.0),
        ("lr_warmup_steps", ["10%", 0.1, "0.1", " 10 %"], 0.1),
        ("lr_warmup_steps", [100, "100", 100.0], 100),
        ("resolution", ["512,768", "512, 768", [512, 768], [512.0, "768"]], "512,768"),
        ("resolution", [1024, "1024", [1024], 1024.0], "1024"),
        ("text_encoder_lr", [[1e-5], "1e-5", 1e-5, ["1e-5"]], [1e-5]),
        ("text_encoder_lr", [[], "", " ", None], None),
        ("optimizer_args", [["a=1", "b=2"], "a=1 b=2", " a=1  b=2"], ["a=1", "b=2"]),
        ("face_crop_aug_range", ["2.0,4.0", "2, 4", [2.0, 4], ["2", 4.0]], "2,4"),
        ("face_crop_aug_range", [[], "", None], None),
        ("base_weights_multiplier", [0.5, "0.5", [0.5], ["0.5"]], [0.5]),
        ("output_name", ["False"], "False"),
        ("output_name", [5, "5"], "5"),
        ("training_comment", ["None"], "None"),
    ],
)  # fmt: skip
def test_every_spelling_is_the_same_value(name: str, spellings: list[Any], value: Any) -> None:
    for raw in spellings:
        assert read_value(name, raw) == value, raw


def test_the_word_false_is_no_switch_where_text_is_meant(write: Write) -> None:
    path = write(
        "t.toml", 'network_module = "networks.lora"\ntraining_comment = "False"\noutput_name = "False"\nseed = 1'
    )
    assert load_config(path).saving.training_comment == load_config(path).saving.output_name == "False"
    assert {entry.key for entry in entries(path)} >= {"training_comment", "output_name"}
    gui = {"LoRA_type": "Standard", "training_comment": "False", "output_name": "None", "enable_bucket": "False"}
    path = write("g.json", json.dumps(gui))
    config = load_config(path)
    assert (config.saving.training_comment, config.saving.output_name) == ("False", "None")
    assert config.dataset.enable_bucket is False


@pytest.mark.parametrize("value", [0, -3, "0"])
def test_a_ratio_of_epochs_that_is_no_ratio_is_off(value: object) -> None:
    conversion = convert_arguments({"save_n_epoch_ratio": value, "max_train_epochs": 12}, "")
    assert not conversion.problems and conversion.values["saving"]["save_every_n_epochs"] == 0
    assert [entry.status for entry in conversion.entries if entry.key == "save_n_epoch_ratio"] == ["honoured"]


@pytest.mark.parametrize(
    ("raw", "rates"),
    [
        ({"unet_lr": 0.0, "text_encoder_lr": [0.0]}, (0, 0)),  # the scripts stop, and so does a run here
        ({"unet_lr": 0.0}, (0, 1e-4)),
        ({"text_encoder_lr": 0}, (1e-4, 0)),
        ({"unet_lr": "", "text_encoder_lr": []}, (1e-4, 1e-4)),
        ({"learning_rate": 0, "unet_lr": 1e-3, "text_encoder_lr": [1e-5]}, (1e-3, 1e-5)),
        ({"learning_rate": 0, "unet_lr": 1e-3}, (1e-3, 0)),
        ({"learning_rate": 0, "text_encoder_lr": 1e-5}, (0, 1e-5)),
        ({"text_encoder_lr": [1e-5, 1e-5, 3e-5]}, (1e-4, 1e-5)),
    ],
)
def test_rates_of_0_in_arguments(raw: dict[str, Any], rates: tuple[float, float]) -> None:
    conversion = convert_arguments({"network_dim": 4, "learning_rate": 1e-4, **raw}, "")
    assert not conversion.problems and RunConfig.model_validate(conversion.values).training.rates == rates


def test_each_unused_rate_of_a_list_is_reported() -> None:
    conversion = convert_arguments({"text_encoder_lr": ["1e-5", "1e-5", "3e-5", "4e-5"]}, "")
    (entry,) = [entry for entry in conversion.entries if entry.key == "text_encoder_lr"]
    assert entry.value == "1e-5 1e-5 3e-5 4e-5" and entry.text.endswith("without effect: 3e-05, 4e-05")


CALL = "accelerate launch train_network.py --network_module networks.lora"


@pytest.mark.parametrize(
    ("option", "table", "key", "value"),
    [
        ("--learn 1e-4", "training", "learning_rate", 1e-4),
        ("--learn=1e-4", "training", "learning_rate", 1e-4),
        ("--lr_scheduler_num 3", "training", "lr_scheduler_num_cycles", 3),
        ("--resol 512", "dataset", "resolution", "512"),
        ("--network_ar conv_dim=4 conv_alpha=2", "network", "conv_dim", 4),
        ("--no_m", "saving", "no_metadata", True),
        ("--seed 3 --v2_x 1 --console_log_simple", "training", "seed", 3),
    ],
)
def test_a_name_may_be_cut_short(write: Write, option: str, table: str, key: str, value: object) -> None:
    path = write("t.sh", f"{CALL} {option}\n")
    conversion = conversion_of(path, path.read_text())
    assert conversion is not None and conversion.values[table][key] == value
    assert [problem.key for problem in conversion.problems] == (["v2_x"] if "v2_x" in option else [])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--res 512", "line 1: --res: may be resize_interpolation or resolution or resume or resume_from_huggingface."),
        ("--network_d 4", "line 1: --network_d: may be network_dim or network_dropout."),
        ("--xformers=False", "line 1: xformers: 'False' is given, but it takes no value."),
        ("--learn x", "line 1: learning_rate: 'x' is not valid: enter a number."),
        ("--text_encoder_lr a,b", "line 1: text_encoder_lr: ['a,b'] is not valid: enter a number, or a list"),
        ("--network_dim nan", "line 1: network_dim: 'nan' is not valid: enter a whole number."),
        ("--network_args conv_dim=x", "line 1: network_args conv_dim: 'x' is not valid: enter a number."),
        ("--seed -1", "line 1: training.seed: -1 is not valid: enter a number greater than or equal to 0."),
    ],
)  # fmt: skip
def test_problems_of_a_command_line(write: Write, option: str, message: str) -> None:
    path = write("t.sh", f"{CALL} {option}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{path}, {message}")


GENERAL = 'pretrained_model_name_or_path = "m"\ntrain_data_dir = "d"\nlearning_rate = 1e-5\n'
GENERAL_JSON = '"pretrained_model_name_or_path": "m", "max_resolution": "512,512"'


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.sh", "accelerate launch train_db.py --pretrained_model_name_or_path m", "train_db.py, the script of Dream"),
        ("a.sh", "python ./sd-scripts/fine_tune.py --in_json x", "fine_tune.py, the script of full fine-tuning"),
        ("a.bat", "python sdxl_train.py --in_json x\r\n", "sdxl_train.py, the script of full fine-tuning"),
        ("a.sh", "python sdxl_train_textual_inversion.py --x", "the script of textual inversion"),
        ("a.sh", "python sd3_train_network.py --x", "a LoRA of another family"),
        ("a.sh", "python train_controlnet.py --x", "a ControlNet"),
        ("a.toml", f"{GENERAL}no_token_padding = true", "is for DreamBooth"),
        ("a.toml", f'[a]\n{GENERAL}in_json = "d"', "full fine-tuning"),
        ("a.toml", f'[a]\n{GENERAL}token_string = "d"', "textual inversion"),
        ("a.toml", f"[a]\n{GENERAL}", "has no network_module"),
        ("a.json", f'{{{GENERAL_JSON}, "no_token_padding": false}}', "GUI for DreamBooth"),
        ("a.json", f'{{{GENERAL_JSON}, "image_folder": "x"}}', "GUI for full fine-tuning"),
        ("a.json", f'{{{GENERAL_JSON}, "token_string": "x"}}', "GUI for textual inversion"),
    ],
)
def test_another_training_is_refused_by_its_name(write: Write, name: str, text: str, what: str) -> None:
    path = write(name, text)
    with refused("kohya-trains-no-lora", path, what):
        load_config(path)


KOHYA = """
[training]
learning_rate = 1e-4
lr_scheduler = "constant"
[network]
network_dim = 16
network_module = "networks.lora"
[model]
pretrained_model_name_or_path = "m.safetensors"
[dataset]
train_data_dir = "d"
resolution = "512,512"
[saving]
output_name = "x"
"""


@pytest.mark.parametrize(
    ("text", "kohyas"),
    [
        (KOHYA + "[x]\nmax_data_loader_n_workers = 2", True),
        (KOHYA + 'xformers = true\nnetwork_args = ["conv_dim=4"]', True),
        (KOHYA.replace("[model]", "") + "[x]\nsave_state = true", True),
        (KOHYA.replace("[network]", "").replace("[model]", ""), True),
        (KOHYA, False),
        (KOHYA + "save_state_every_n_steps = 5\nxformers = true", False),
        (KOHYA.replace('network_module = "networks.lora"', "xformers = true"), False),
        ("[training]\nunet_lr = 1e-4\nseed = 3\n[network]\nnetwork_dim = 4\nunet_lr = 1e-4\n", False),
        ('[x]\nnetwork_module = "networks.lora"\nunet_lr = 1\nseed = 1\na = 1\nb = 1\nc = 1\nd = 1\ne = 1', True),
    ],
)  # fmt: skip
def test_a_training_toml_is_known_by_its_keys_and_not_by_its_tables(write: Write, text: str, kohyas: bool) -> None:
    path = write("t.toml", text)
    conversion = conversion_of(path, text)
    assert (conversion is not None) is kohyas
    if conversion is not None and "[training]" in text:
        (entry,) = [entry for entry in conversion.entries if entry.key == "tables"]
        assert "read as a training TOML of Kohya's" in entry.text and "training" in entry.value
        assert load_config(path).dataset.caption_extension == ".caption", "the scripts' default"


def test_the_chosen_reading_is_reported_where_both_are_possible(write: Write) -> None:
    (note,) = conversion_notes(write("t.toml", KOHYA))
    assert "is read as a preset of this program" in note
    assert not conversion_notes(write("t.toml", KOHYA + "save_state_every_n_steps = 5"))


FLUX_VALUES = {"guidance_scale": 2.0, "timestep_sampling": "sigmoid", "t5xxl": "t", "model_type": "chroma"}


@pytest.mark.parametrize("name", sorted(FLUX_ONLY | NOT_SD15))
def test_what_another_script_reads_has_no_effect(name: str) -> None:
    value = FLUX_VALUES.get(name, True if name in FLAGS else 3 if name in INTS | FLOATS else "x")
    for family, module, read in (
        ("sd15", "networks.lora", False), ("sdxl", "networks.lora", name in NOT_SD15),
        ("flux", "networks.lora_flux", True), ("", "networks.lora", name in NOT_SD15), ("", "networks.lora_flux", True),
    ):  # fmt: skip
        conversion = convert_arguments({"network_module": module, name: value}, "", family=family)
        (entry,) = [entry for entry in conversion.entries if entry.key == name]
        rule = rule_of(name)
        assert rule is not None
        assert (entry.status == "no effect") is (not read or rule.status == "no effect"), (family, module)
        assert read or ("only" in entry.text and "read" in entry.text)


def test_flux_ignores_what_is_of_noise_prediction(write: Write) -> None:
    gui = {"LoRA_type": "Flux1", "flux1_checkbox": True, "min_snr_gamma": 7, "noise_offset": 0.05, "guidance_scale": 1}
    conversion = {entry.key: entry for entry in entries(write("g.json", json.dumps(gui)))}
    assert conversion["min_snr_gamma"].status == conversion["noise_offset"].status == "no effect"
    assert conversion["guidance_scale"].status == "honoured"
    off = {entry.key: entry for entry in entries(write("o.json", json.dumps({**gui, "flux1_checkbox": False})))}
    assert off["guidance_scale"].status == "no effect" and off["noise_offset"].status == "honoured"


@pytest.mark.parametrize(
    ("launcher", "processes"),
    [
        ("python -m accelerate.commands.launch --multi_gpu --num_processes 4", 4),
        ("accelerate-launch --num-processes=2", 2),
        ("torchrun --nproc_per_node=2", 2),
        ("python -m torch.distributed.run --nproc-per-node 3", 3),
        ("deepspeed --num_gpus=2", 2),
        ("accelerate launch --num_processes 1", 1),
        ("torchrun --nproc_per_node=gpu", 1),
        ("python", 1),
    ],
)
def test_each_launcher_has_its_number_of_processes(launcher: str, processes: int) -> None:
    conversion = convert_command_line(f"{launcher} train_network.py --network_dim=4", suffix=".sh")
    assert not conversion.problems, conversion.problems
    assert conversion.values["training"].get("num_processes", 1) == processes
    assert ("accelerate launch" in [entry.key for entry in conversion.entries]) == ("-" in launcher)


SET: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"weighted_captions": True}, {"model.weighted_captions": True}),
    ({"weighted_captions": True, "network_module": "networks.lora_flux"}, {"model.weighted_captions": False}),
    (
        {"base_weights": ["a", "b c"], "base_weights_multiplier": [0.5]},
        {"model.base_weights": ["a", "b c"], "model.base_weights_multiplier": [0.5]},
    ),
    ({"face_crop_aug_range": [2.0, 4.0]}, {"dataset.face_crop_aug_range": [2.0, 4.0]}),
    (
        {"in_json": "m.json", "train_data_dir": "d", "dataset_repeats": 3},
        {"dataset.in_json": "m.json", "dataset.train_data_dir": "d", "dataset.num_repeats": 3},
    ),
    ({"train_data_dir": "d", "dataset_repeats": 3}, {"dataset.num_repeats": None}),
]


@pytest.mark.parametrize(("arguments", "expected"), SET)
def test_arguments_and_settings(arguments: dict[str, Any], expected: dict[str, Any]) -> None:
    conversion = convert_arguments(arguments, "")
    assert not conversion.problems
    config = RunConfig.model_validate(conversion.values)
    assert {key: config.value(key) for key in expected} == expected


HINTS = {
    "torch.optim.lr_scheduler.CosineAnnealingLR": "that is nearest: cosine.", "StepLR": "nearest: piecewise_constant.",
    "a.b.Rex": "choose the schedule of training.lr_scheduler that is nearest.",
}  # fmt: skip


@pytest.mark.parametrize(("name", "hint"), HINTS.items())
def test_a_class_of_schedules_names_the_nearest(name: str, hint: str) -> None:
    (problem,) = convert_arguments({"lr_scheduler_type": name}, "").problems
    assert problem.message == f"{name} is given, which is not supported." and problem.hint.endswith(hint)


@pytest.mark.parametrize(("raw", "used"), [(75, 75), (150, 150), (225, 225), (255, 225), (100, 75), (299, 225)])
def test_a_token_length_is_that_of_its_whole_chunks(raw: int, used: int) -> None:
    conversion = convert_arguments({"max_token_length": raw}, "")
    assert conversion.values["model"]["max_token_length"] == used
    status = [entry.status for entry in conversion.entries if entry.key == "max_token_length"]
    assert status == ["honoured" if raw == used else "better"]


@pytest.mark.parametrize(("key", "path"), [("train_data_dir", r"C:\train\new"), ("vae", r"D:\bin")])
@pytest.mark.parametrize("suffix", ["toml", "json"])
def test_a_path_whose_backslashes_became_other_characters(write: Write, key: str, path: str, suffix: str) -> None:
    raw = {**REQUIRED, key: "SHOWN"}
    quote = "{%s}" if suffix == "json" else "%s"
    lines = [f'"{name}": "{value}"' if suffix == "json" else f'{name} = "{value}"' for name, value in raw.items()]
    text = quote % (",\n" if suffix == "json" else "\n").join(lines)
    file = write(f"t.{suffix}", text.replace("SHOWN", path))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    (problem,) = caught.value.problems
    assert problem.key == key and "control characters" in problem.message, problem


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ("--network_dim=8 --network_dim 4", {"network_dim": "8"}),
        (
            "--network_args conv_dim=4 conv_alpha=2 --network_args conv_dim=2",
            {"network_args": "conv_dim=4 conv_alpha=2"},
        ),
        ("--wandb_api_key=abc --wandb_api_key=def", {"wandb_api_key": "(not shown)"}),
        ("--cache_latents --cache_latents --network_dim=4", {}),
    ],
)
def test_an_argument_that_is_given_twice_is_reported(options: str, left_out: dict[str, str]) -> None:
    conversion = convert_command_line(f"python train_network.py {options}", suffix=".sh")
    assert {item.key: item.value for item in conversion.entries if "given again" in item.text} == left_out
