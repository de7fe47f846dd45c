"""`lorasmith convert`: the report, the preset, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config import load_config
from engine.config.kohya.dataset_file import read_dataset_config
from engine.exit_codes import ExitCode
from tests.engine.config.other_trainers import AI_TOOLKIT, ONETRAINER, changed, written
from tests.refusals import require
from tui.main import run

FIXTURES = Path(__file__).parents[1] / "engine" / "config" / "fixtures"


def test_the_report_and_the_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = FIXTURES / "kohya_gui_v24.json", tmp_path / "style.toml"
    assert run(["convert", str(source), "--output", str(target)]) == 0
    lines = capsys.readouterr().out.splitlines()
    order = [line[:15].strip() for line in lines if line[:1].strip() and not line.startswith(("/", "left"))]
    assert order == sorted(order, key=("not supported", "better", "no effect", "honoured").index)
    assert "honoured       optimizer = Adafactor → training.optimizer_type" in lines
    place = lines.index("no effect      multires_noise_discount = 0.3")
    assert lines[place + 1].strip() == "multires_noise_iterations is off"
    assert any(line.startswith("left out       ") for line in lines) and lines[-1] == str(target)
    assert load_config(target) == load_config(source)
    assert run(["convert", str(source), "--output", str(target)]) == 2, "it is there already"


def test_what_is_not_supported_comes_first_and_no_preset_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.sh"
    path.write_text("train_network.py --network_dim 8 --unet_lr 1e-4 --deepspeed --wandb_api_key secret\n")
    assert run(["convert", str(path), "--output", str(tmp_path / "x.toml")]) == 2
    message = capsys.readouterr()
    assert message.out.startswith("not supported  deepspeed = True\n               it is not built in: use training")
    assert "It is not built in: use training.num_processes" in message.err and "secret" not in message.out + message.err
    assert not (tmp_path / "x.toml").exists()


def test_json_has_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(FIXTURES / "kohya_gui_v25.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["kind"] == "GUI configuration" and report["problems"] == []
    assert {"key": "ggpo_beta", "value": "0.01", "status": "no effect", "target": "",
            "text": "train_lora_ggpo is off"} in report["entries"]  # fmt: skip


def test_several_folders_of_another_trainer_become_two_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [{"folder_path": str(tmp_path / "a"), "resolution": [512, 768]}]
    source = written(tmp_path, "job.yaml", changed(AI_TOOLKIT, {"config.process.0.datasets": folders}))
    target, images = tmp_path / "new.toml", tmp_path / "new-dataset.toml"
    assert run(["convert", str(source), "--output", str(target)]) == 0
    assert str(images) in capsys.readouterr().err
    assert load_config(target).changed(dataset={"dataset_config": str(source)}) == load_config(source)
    assert load_config(target).dataset.dataset_config == str(images)
    got = [read_dataset_config(path, load_config(target))[0] for path in (images, source)]
    assert got[0] == got[1] and [item.table.resolution for item in got[0]] == [512, 768]
    target.unlink()
    assert run(["convert", str(source), "--output", str(target)]) == 2 and not target.exists(), "the images are there"


def test_json_names_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["convert", str(written(tmp_path, "c.json", ONETRAINER)), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["program"], report["problems"]) == ("OneTrainer", [])
    statuses = {entry["key"]: entry["status"] for entry in report["entries"]}
    assert statuses["lora_rank"] == "honoured" and "concepts[0].path" in statuses


def test_another_trainer_is_refused_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, "d.toml", {"directory": [{"path": "x"}], "resolutions": [512]})
    for words in (["convert", str(path)], ["--preset", str(path)], ["check", "--dataset_config", str(path)]):
        assert run(words) == 2
        assert "diffusion-pipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gui.json", '{"LoRA_type": "Standard",\n "epoch": 1,\n}', "not valid JSON: Expecting property name"),
        ("gui.json", '{"LoRA_type": "Standard",\n "epo', "not valid JSON: Unterminated string"),
        ("gui.txt", '{"LoRA_type": "Standard", "epoch": 01}', "not valid JSON: Expecting ',' delimiter"),
        ("train.toml", 'vae = "C:\\Users\\a"\nseed = 1\nclip_skip = 2\nunet_lr = 1\n', "not valid TOML: Invalid hex"),
    ],
)
def test_a_file_that_is_broken_is_not_called_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert run(["convert", str(path)]) == 2
    assert f"{name}: {message}" in capsys.readouterr().err
    assert run(["--preset", str(path)]) == 2
    assert f"{name}: {message}" in capsys.readouterr().err


def test_a_batch_file_in_the_encoding_of_windows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.bat"
    path.write_bytes("set N=Änn\ntrain_network.py --network_dim 8 --output_name=%N%\n".encode("cp1252"))
    assert run(["--preset", str(path)]) == 2
    message = capsys.readouterr().err
    assert "it is not UTF-8" in message and "Save it as UTF-8 text." in message


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder that takes no files is known on Linux only")
def test_a_folder_that_takes_no_files(tmp_path: Path, shown: list[Exception]) -> None:
    script = tmp_path / "train.sh"
    script.write_text("accelerate launch train_network.py --train_data_dir=a --output_name=z\n")
    assert run(["convert", str(script), "--output", "/proc/x.toml"]) == ExitCode.NO_SPACE
    require(shown[-1], "folder-takes-no-files", "/proc/x.toml")
