"""`lorasmith try`: what it asks the drawing process for, and what it says; the process is a fake one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from engine.results.trying import TryProcess
from engine.runs import RunDir
from engine.runs.grid import GAP, LABELS, TILE
from tests.engine.results.test_trying import FAKE
from tests.fake_run import prepared_run
from tests.refusals import require
from tui.main import run

NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"
DEMO = "engine/assets/demo_base"


def lora(path: Path) -> Path:
    save_file({f"{NAME}.lora_down.weight": torch.ones(2, 16), f"{NAME}.lora_up.weight": torch.ones(16, 2)}, path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The requests to the process, in the order of the calls."""
    requests: list[dict[str, Any]] = []
    generate = TryProcess.generate

    def noted(self: TryProcess, request: Any, *more: Any) -> Any:
        requests.append(json.loads(json.dumps(request.as_json())))
        return generate(self, request, *more)

    monkeypatch.setattr(TryProcess, "generate", noted)
    play(monkeypatch, "draw")
    return requests


def play(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    init = TryProcess.__init__
    monkeypatch.setattr(TryProcess, "__init__", lambda self: init(self, [sys.executable, str(FAKE), how]))


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run with two files, in an otherwise empty home."""
    from engine.paths import ASSETS

    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    made = prepared_run(
        tmp_path, model={"pretrained_model_name_or_path": str(ASSETS / "demo_base")}, dataset={"resolution": 64},
        sampling={"sample_prompts": ["a {trigger} --d 5", "a house"]},
    )  # fmt: skip
    lora(made.lora_path(step=10))
    lora(made.lora_path())
    return made


def test_one_file_at_several_strengths(
    run_dir: RunDir, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(["try", str(run_dir.lora_path()), "--strength", "0.6,1.0", "-o", "out"]) == 0
    (request,) = asked
    assert [column["label"] for column in request["columns"]] == ["base", "0.6", "1"]
    assert [prompt["prompt"] for prompt in request["prompts"]] == ["a robot", "a house"]
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert len(lines) == 7 and lines[-1].endswith("_grid.png") and all(Path(line).is_file() for line in lines)
    grid = Image.open(lines[-1])
    assert grid.size[0] == LABELS + 3 * (TILE + GAP) + GAP
    assert "The prompts are those of the run robot." in shown.err and "Loading the model" in shown.err


def test_every_option_reaches_the_request(run_dir: RunDir, asked: list[dict[str, Any]]) -> None:
    words = ["--prompt", "x --d 3", "--prompt", "y", "--seed", "7", "--steps", "4", "--scale", "2.5", "--width", "96",
             "--height", "128", "--sampler", "euler_a", "--negative", "dull", "--device", "cpu"]  # fmt: skip
    assert run(["try", f"{run_dir.lora_path()}:0.5", *words]) == 0
    first, second = asked[0]["prompts"]
    expected = {"seed": 7, "steps": 4, "scale": 2.5, "width": 96, "height": 128, "sampler": "euler_a",
                "negative_prompt": "dull"}  # fmt: skip
    assert first == {"prompt": "x", "guidance": 3.5, **expected} and second["prompt"] == "y"
    assert [column["strengths"] for column in asked[0]["columns"]] == [[0.0], [0.5]]
    assert asked[0]["config"]["memory"]["device"] == "cpu"
    assert Path(asked[0]["directory"]).name == "lorasmith-try"


@pytest.mark.parametrize(
    ("option", "strengths"), [([], [[0.0, 0.0], [1.0, 0.5]]), (["--compare"], [[0.0, 0.0], [1.0, 0.0], [0.0, 0.5]])]
)
def test_two_files_together_or_each_by_itself(
    run_dir: RunDir, asked: list[dict[str, Any]], option: list[str], strengths: list[list[float]]
) -> None:
    files = [str(run_dir.lora_path(step=10)), f"{run_dir.lora_path()}=0.5"]
    assert run(["try", *files, *option]) == 0
    assert [column["strengths"] for column in asked[0]["columns"]] == strengths


def test_json(run_dir: RunDir, asked: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["try", str(run_dir.lora_path()), "--prompt", "a robot", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert Path(report["grid"]).is_file() and report["model"].endswith(DEMO)
    assert [(image["label"], image["strengths"], image["prompt"], image["seed"]) for image in report["images"]] == [
        ("base", [0.0], "a robot", 1), ("1", [1.0], "a robot", 1),
    ]  # fmt: skip
    assert "Precision no: a test." in report["notes"]


@pytest.mark.parametrize(
    ("words", "exit_code", "code", "part"),
    [
        (["none.safetensors"], 2, "lora-file-missing", "none.safetensors"),
        (["FILE", "--strength", "much"], 2, "strength-invalid", "much"),
        (["FILE", "--model", "none"], 3, "model-file-missing", "none"),
        (["FILE", "--prompt", " "], 2, "no-prompt", "--prompt"),
        (["FILE", "--device", "tpu"], 2, "config-invalid", "device"),
    ],
)
def test_wrong_use_is_one_sentence_and_starts_nothing(
    run_dir: RunDir, asked: list[dict[str, Any]], shown: list[Exception], words: list[str], exit_code: int,
    code: str, part: str,
) -> None:  # fmt: skip
    assert run(["try", *(str(run_dir.lora_path()) if word == "FILE" else word for word in words)]) == exit_code
    require(shown[-1], code, part)
    assert asked == []


def test_a_failure_of_the_process(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, "fail")
    assert run(["try", str(run_dir.lora_path())]) == 3
    assert "It is no model." in capsys.readouterr().err


def test_ctrl_c_keeps_what_is_drawn(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tui.commands import try_out

    play(monkeypatch, "hang")

    def interrupted(doing: str) -> Any:
        def count(done: int, total: int) -> None:
            raise KeyboardInterrupt

        return count

    monkeypatch.setattr(try_out.output, "counter", interrupted)
    assert run(["try", str(run_dir.lora_path()), "-o", "out"]) == 130
    assert "Stopped after 1 of 4 images, which are in out." in capsys.readouterr().err
    assert len(list(Path("out").iterdir())) == 1
