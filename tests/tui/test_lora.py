"""`lorasmith lora` as a person calls it: what it prints, its exit codes, and that no torch is in its process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from engine.adapters.tools.__main__ import run_request
from tests.engine.adapters.tools.conftest import SD15, lora_tensors
from tests.refusals import refused
from tui.commands.lora import share, weighted
from tui.main import run


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file(lora_tensors(SD15, rank=8), path, {"ss_base_model_version": "sd_v1", "sshs_model_hash": "0" * 8})
    return path


@pytest.fixture
def tool_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool works in this process, which has imported torch already; requests and replies are JSON all the same."""

    def ask(module: str, request: Any, title: str, progress: Callable[[str, int, int], object]) -> Any:
        assert module == "engine.adapters.tools"
        return json.loads(json.dumps(run_request(json.loads(json.dumps(request)), progress)))

    monkeypatch.setattr("engine.adapters.tools.process.worker", SimpleNamespace(ask=ask))


@pytest.mark.usefixtures("tool_here")
def test_resize_prints_ranks_losses_and_the_file(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lora.with_name("b.safetensors")
    assert run(["lora", "resize", str(lora), "--rank", "4", "-o", str(out)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == "model: SD 1.5" and lines[1] == "rank: 4 (5)" and lines[-1] == str(out)
    assert any(line.startswith("  unet: 4 layers, in all ") for line in lines)
    assert any(line.startswith("  text_encoder: 1 layer, in all ") for line in lines)
    assert any("worst: lora_" in line for line in lines)
    assert "Written and checked" in printed.err and len(load_file(out)) == 15


@pytest.mark.usefixtures("tool_here")
def test_json_is_one_object_with_the_sums(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["lora", "merge", f"{lora}=0.5", str(lora), "-o", str(lora.with_name("c.safetensors")), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 0 and report["output"].endswith("c.safetensors") and report["ranks"] == {"16": 5}
    assert report["loss"]["total"] < 1e-6 and report["components"].keys() == {"unet", "text_encoder"}
    assert {layer["name"] for layer in report["layers"]} == SD15.keys()


@pytest.mark.usefixtures("tool_here")
def test_a_dry_run_is_reported_and_writes_nothing(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lora", "convert", str(lora), "--to", "peft", "--dry-run"]) == 0
    assert "nothing is written" in capsys.readouterr().err
    assert [path.name for path in lora.parent.iterdir()] == ["a.safetensors"]


@pytest.mark.usefixtures("tool_here")
def test_an_error_of_the_tool_is_one_sentence_with_its_exit_code(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_file(lora)
    tensors.pop(next(key for key in tensors if key.endswith("lora_up.weight")))
    save_file(tensors, lora)
    assert run(["lora", "resize", str(lora), "--rank", "4", "-o", str(lora.with_name("b.safetensors"))]) == 3
    printed = capsys.readouterr()
    assert printed.err.startswith("Model file: ") and "have no lora_up.weight" in printed.err and not printed.out
    assert "hint: " in printed.err and "Traceback" not in printed.err


def test_edit_shows_what_changes(lora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = lora.with_name("b.safetensors")
    command = ["lora", "edit", str(lora), "--set", "ss_seed=1=2", "--unset", "ss_base_model_version"]
    assert run([*command, "--trigger", "ohwx", "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "modelspec.trigger_phrase: (not set) → ohwx" and lines[-1] == str(out)
    assert "ss_seed: (not set) → 1=2" in lines and "ss_base_model_version: sd_v1 → (not set)" in lines
    assert run([*command, "-o", str(out)]) == 2
    assert run(["lora", "edit", str(lora), "--strength", "0.8", "--in-place", "--json"]) == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert changes["lorasmith.strength"] == {"old": None, "new": "0.8"}


@pytest.mark.usefixtures("tool_here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["lora", "resize", "a.safetensors", "-o", "b.safetensors"],
        ["lora", "resize", "a.safetensors", "--rank", "x"],
        ["lora", "merge"],
        ["lora", "merge", "a.safetensors=much", "-o", "b.safetensors"],
        ["lora", "extract", "a", "b"],
        ["lora", "convert", "a.safetensors"],
        ["lora", "convert", "a.safetensors", "--to", "other"],
        ["lora", "edit", "a.safetensors", "--set", "novalue", "-o", "b.safetensors"],
    ],
)
def test_wrong_use(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_weights_behind_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert weighted("a.safetensors=0.8") == ("a.safetensors", 0.8)
    assert weighted("a=b.safetensors=-1e-2") == ("a=b.safetensors", -0.01)
    assert weighted("a.safetensors") == ("a.safetensors", 1.0)
    Path("a=0.5").touch()
    assert weighted("a=0.5") == ("a=0.5", 1.0)
    for text in ("a.safetensors=", "a.safetensors=nan", "a.safetensors=inf", "a=b.safetensors"):
        with refused("weight-not-a-number"):
            weighted(text)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "none"),
        (0.1234, "12.3 %"),
        (0.01, "1.0 %"),
        (0.000489, "0.049 %"),
        (1e-9, "< 0.00001 %"),
        (1.5, "150.0 %"),
    ],
)
def test_shares_in_words(value: float, shown: str) -> None:
    assert share(value) == shown


def test_no_torch_in_the_process_of_the_command(lora: Path) -> None:
    out = lora.with_name("b.safetensors")
    words = ["lora", "resize", str(lora), "--rank", "2", "-o", str(out)]
    code = (
        f"import sys; from tui.main import run; run({words!r});"
        "print([name for name in ('torch', 'diffusers', 'peft', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and out.exists()
