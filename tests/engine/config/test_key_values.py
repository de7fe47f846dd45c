"""Kohya's key=value settings: every spelling of a value means the same, and a wrong one is one problem with its key."""

from __future__ import annotations

import pytest

from engine.config.key_values import (
    Parameter,
    guess_value,
    is_off,
    number_text,
    parse_arguments,
    read_settings,
    read_value,
)
from engine.config.kohya.arguments import convert_arguments
from engine.config.optimizers import check_training, optimizer_settings, sets_its_own_rate
from engine.config.training import TrainingTable
from tests.refusals import refused

FLAG, NUMBER, INTEGER = Parameter("flag"), Parameter("number"), Parameter("integer")
PAIR, TEXT = Parameter("numbers:2"), Parameter("text")
TRUE = ["True", "true", "TRUE", '"true"', "'True'", " true ", "1", "yes", "on"]
FALSE = ["False", "false", "FALSE", '"false"', "'False'", " false", "0", "no", "off"]


@pytest.mark.parametrize("text", TRUE)
def test_true(text: str) -> None:
    assert read_value(text, FLAG) is True and not is_off(text)


@pytest.mark.parametrize("text", FALSE)
def test_false(text: str) -> None:
    assert read_value(text, FLAG) is False and is_off(text)


@pytest.mark.parametrize("text", ["None", "none", "NONE", "null", "Null", '"none"'])
def test_nothing(text: str) -> None:
    assert read_value(text, Parameter("number", optional=True)) is None and is_off(text)
    assert guess_value(text) is None
    for parameter in (FLAG, NUMBER, INTEGER, PAIR):
        with pytest.raises(ValueError):
            read_value(text, parameter)


@pytest.mark.parametrize(
    ("text", "parameter", "value"),
    [
        ("1e-3", NUMBER, 1e-3), ("1E-3", NUMBER, 1e-3), (".5", NUMBER, 0.5), ("-2", NUMBER, -2), ('"0.1"', NUMBER, 0.1),
        ("10", INTEGER, 10), ("10.0", INTEGER, 10), ("1e2", INTEGER, 100), ("+3", INTEGER, 3),
        ("(0.9, 0.99)", PAIR, (0.9, 0.99)), ("0.9,0.99", PAIR, (0.9, 0.99)), ("[0.9, 0.99]", PAIR, (0.9, 0.99)),
        ('"0.9, 0.99"', PAIR, (0.9, 0.99)), ("(0.9,0.99,)", PAIR, (0.9, 0.99)), ("'(0.9, 0.99)'", PAIR, (0.9, 0.99)),
        ("1_000", INTEGER, 1000), ("inf", Parameter("number", infinite=True), float("inf")),
        ("cosine", TEXT, "cosine"), ('"cosine"', TEXT, "cosine"),
    ],
)  # fmt: skip
def test_values(text: str, parameter: Parameter, value: object) -> None:
    conversion = read_value(text, parameter)
    assert conversion == value and type(conversion) is type(value)


@pytest.mark.parametrize(
    ("text", "parameter"),
    [
        ("0,1", NUMBER), ("abc", NUMBER), ("", NUMBER), ("nan", NUMBER), ("inf", NUMBER),
        ("True", NUMBER), ("0.5", INTEGER), ("2", FLAG), ("maybe", FLAG), ("", FLAG), ("0.9", PAIR),
        ("0.9,0.99,0.999", PAIR), ("0.9;0.99", PAIR), ("(0.9, x)", PAIR), ("", TEXT), ("1e400", NUMBER),
        ("9" * 2000, NUMBER), ("__import__('os')", NUMBER), ("-1", Parameter("number", ge=0)),
        ("1", Parameter("number", lt=1)), ("0", Parameter("integer", gt=0)),
        ("16", Parameter("integer", choices=(8, 32))),
        ("0.9,1", Parameter("numbers:2", each=({"lt": 1}, {"lt": 1}))),
    ],
)  # fmt: skip
def test_wrong_values(text: str, parameter: Parameter) -> None:
    with pytest.raises(ValueError):
        read_value(text, parameter)
    settings, errors = read_settings([f"key={text}"], {"key": parameter}, "training.optimizer_args", "It")
    assert settings == {} and len(errors) == 1
    assert "training.optimizer_args: key=" in str(errors[0]) and parameter.expected() in str(errors[0])


def test_what_is_expected_is_put_in_words() -> None:
    assert Parameter("number", ge=0).expected() == "a number from 0 on"
    assert Parameter("flag", optional=True).expected() == "True or False, or None"
    assert (
        Parameter("numbers:2", each=({"ge": 0, "lt": 1},) * 2).expected() == "2 numbers from 0 on below 1, as 0.9,0.99"
    )
    assert Parameter("text", choices=("linear", "cosine")).expected() == "linear or cosine"


def test_settings_of_an_unknown_class_are_guessed() -> None:
    arguments = ["a=1e-3", "b=True", "c=x y", "d=0.9,0.99", "e=[1, 2, 3]", "f=none", 'g="false"', "h = 3", "i=1_0"]
    assert parse_arguments(arguments, "here") == {
        "a": 1e-3, "b": True, "c": "x y", "d": (0.9, 0.99), "e": (1, 2, 3), "f": None, "g": False, "h": 3, "i": 10,
    }  # fmt: skip


@pytest.mark.parametrize(("argument", "lacks"), [("decay", "value"), ("=3", "key"), ("0.99", "value"), ("", "value")])
def test_what_is_no_setting(argument: str, lacks: str) -> None:
    with refused(f"argument-without-{lacks}", "training.optimizer_args", repr(argument)):
        check_training(TrainingTable(optimizer_args=[argument]))


@pytest.mark.parametrize("text", FALSE)
@pytest.mark.parametrize(
    ("name", "key"),
    [("Prodigy", "use_bias_correction"), ("Adafactor", "relative_step"), ("AdamW", "amsgrad"), ("SGD", "nesterov"),
     ("NAdam", "decoupled_weight_decay"), ("Lion", "use_triton"), ("RAdamScheduleFree", "silent_sgd_phase")],
)  # fmt: skip
def test_false_is_false_for_every_optimizer(name: str, key: str, text: str) -> None:
    assert optimizer_settings(name, [f"{key}={text}"]) == {key: False}
    assert sets_its_own_rate("Adafactor", [f"relative_step={text}"]) is False


def test_every_problem_is_reported_at_once() -> None:
    with refused("several-problems", "nosuch", "weight_decay=0,1") as caught:
        check_training(TrainingTable(optimizer_args=["nosuch=3", "weight_decay=0,1"], lr_scheduler_args=["power=x"]))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["training.optimizer_args"] * 2 + [
        "training.lr_scheduler_args"
    ]
    assert "nosuch" in lines[0] and "weight_decay=0,1" in lines[1]


@pytest.mark.parametrize(
    ("argument", "status", "values"),
    [
        ("split_qkv=True", "better", {}), ("split_qkv=true", "no effect", {}), ("split_qkv=1", "no effect", {}),
        ("split_qkv=False", "no effect", {}), ("split_qkv=false", "no effect", {}), ("split_qkv=none", "no effect", {}),
        ("train_t5xxl=True", "not supported", {}), ("train_t5xxl=TRUE", "no effect", {}),
        ("use_tucker=false", "no effect", {}), ("algo=lokr", "no effect", {}),
        ("train_blocks=all", "honoured", {}), ("train_blocks=single", "honoured", {}),
        ("rank_dropout=0.1", "honoured", {"rank_dropout": 0.1}), ("rank_dropout=none", "honoured", {}),
        ("rank_dropout=None", "honoured", {}), ('conv_dim="8"', "honoured", {"conv_dim": 8}),
        ("conv_dim= 8", "honoured", {"conv_dim": 8}), ("conv_alpha=1e0", "honoured", {"conv_alpha": 1.0}),
    ],
)  # fmt: skip
def test_network_args(argument: str, status: str, values: dict[str, object]) -> None:
    conversion = convert_arguments(
        {"network_module": "networks.lora_flux", "network_args": [argument]}, "training TOML"
    )
    (entry,) = [entry for entry in conversion.entries if entry.key.startswith("network_args")]
    assert entry.status == status and bool(conversion.problems) is (status == "not supported")
    network = conversion.values["network"]
    assert {key: network[key] for key in ("rank_dropout", "conv_dim", "conv_alpha") if key in network} == values


@pytest.mark.parametrize(
    ("number", "text"),
    [(8.0, "8"), (8, "8"), (0.5, "0.5"), (1 / 3, "0.3333333333333333"), (1e-5, "0.00001"), (1e20, "1" + "0" * 20)],
)
def test_a_number_as_text_reads_back_as_the_same(number: float, text: str) -> None:
    assert number_text(number) == text and float(text) == number
