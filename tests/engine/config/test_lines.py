"""The line of each key in TOML and JSON, in every spelling of a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import ConfigError, load_config
from engine.config.lines import json_lines, toml_lines

TOML = r'''a = 1
"q k" = """x
[no]
b = 2 \"""" # c
[ t ] # [t.no]
x.y = [1,
 {z = 2, "w.v" = 'a#]'},
 3]
[t.u."v \u0041"]
k = 'C:\'
[[d]]
[[d.s]]
i = """a\"""b"""
[[d.s]]
i = """"""
j = '\'
[[d]]
[[d.s]]
i = {}
[d.s.p]
l = 1e-4
m = QQQ
'''.replace("QQQ", "'" * 3)


def test_toml() -> None:
    lines = toml_lines(TOML + "[no]\n'''\nn = 1\n")
    assert {key: line for key, line in lines.items() if not isinstance(key[-1], int)} == {
        ("a",): 1, ("q k",): 2, ("t",): 5, ("t", "x"): 6, ("t", "x", "y"): 6, ("t", "x", "y", 1, "z"): 7,
        ("t", "x", "y", 1, "w.v"): 7, ("t", "u"): 9, ("t", "u", "v A"): 9, ("t", "u", "v A", "k"): 10, ("d",): 11,
        ("d", 0, "s"): 12, ("d", 0, "s", 0, "i"): 13, ("d", 0, "s", 1, "i"): 15, ("d", 0, "s", 1, "j"): 16,
        ("d", 1, "s"): 18, ("d", 1, "s", 0, "i"): 19, ("d", 1, "s", 0, "p"): 20, ("d", 1, "s", 0, "p", "l"): 21,
        ("d", 1, "s", 0, "p", "m"): 22, ("d", 1, "s", 0, "p", "n"): 25,
    }  # fmt: skip
    assert lines["d", 1] == 17 and lines["d", 0, "s", 1] == 14
    windows = toml_lines(TOML.replace("\n", "\r\n"))
    assert windows["t", "u", "v A", "k"] == 10


def test_json() -> None:
    text = '{"a": 1,\n "b": {"c": [1,\n {"d": "x\\"y: {"}]},\n "a": null, "e": []\n, "f":{} , "g": -1e3}'
    assert json_lines(text) == {
        ("a",): 4, ("b",): 2, ("b", "c"): 2, ("b", "c", 1, "d"): 3, ("e",): 4, ("f",): 5, ("g",): 5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[model]\nclip_skip = 1\n\n[training.extra]\na = 1\n", "line 4: training.extra: unknown key."),
        ("[model]\nclip_skip = 1\n\ntraining.extra.a = 1\n", "line 4: model.training: unknown key."),
        ("training.unet_lr = 1e-4\ntraining.seed = -1\n", "line 2: training.seed: -1 is not valid"),
        ("[training]\n\n'seed' = -1\n", "line 3: training.seed: -1 is not valid"),
        ('[ training ]\n\n"seed" = -1\n', "line 3: training.seed: -1 is not valid"),
        ("training = {unet_lr = 1e-4, seed = -1}\n", "line 1: training.seed: -1 is not valid"),
        ("\n[[training]]\nseed = 1\n", "line 2: training: unknown table or key."),
        (
            '[saving]\ntraining_comment = """\n[training]\nseed = 5\n"""\n[training]\nseed = -1\n',
            "line 7: training.seed",
        ),
        ("[training]\nseed = 1\nunet_lr = inf\n", "line 3: training.unet_lr: inf is not a finite number."),
        ("[training]\nseed = 1\nunet_lr = [nan]\n", "line 3: training.unet_lr: nan is not a finite number."),
        (
            "[training]\nmin_timestep = 5\n\nmax_timestep = 4\n",
            "line 2 and {file}, line 4: training: min_",
        ),
        ("[training]\nlr_scheduler = 'constant'\nlr_warmup_steps = 5\n", "line 2 and {file}, line 3: training: lr_sch"),
    ],
)
def test_problems_of_a_preset_name_the_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}, {problem.format(file=file)}")


def test_a_value_of_the_file_is_not_charged_to_an_option(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('network_module = "networks.lora"\nkeep_tokens = -1\nunet_lr = 1e-4\nlr_warmup_steps = 9\n')
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["training.seed=3"], {"dataset.train_data_dir": ("--images", "a")})
    assert [problem.where for problem in caught.value.problems] == [f"{file}, line 2", f"{file}, line 4"]
    with pytest.raises(ConfigError) as caught:
        load_config(file, ["dataset.keep_tokens=1", "training.lr_scheduler=constant"])
    problem = caught.value.problems[0]
    assert (problem.where, problem.key) == (f"--set training.lr_scheduler=constant and {file}, line 4", "training")
