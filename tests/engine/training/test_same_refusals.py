"""What a run refuses, `convert` and `--dry-run` refuse before it, with the same sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.runs.layout import RunDir
from engine.text import printable
from tests.engine.training.conftest import MakeRun
from tui.main import run

HEAD = """network_module = "networks.lora"
network_dim = 4
unet_lr = 1e-4
learning_rate = 1e-3
enable_bucket = true
resolution = "64"
min_bucket_reso = 32
bucket_reso_steps = 16
output_name = "zed"
"""
OPTIMIZERS = [
    ({"optimizer_type": "NoSuch"}, "there is no optimizer 'NoSuch'"),
    ({"optimizer_type": "LBFGS"}, "there is no optimizer 'LBFGS'"),
    ({"optimizer_type": "DAdaptAdam"}, "DAdaptAdam is not supported"),
    ({"optimizer_type": "Lion8bit"}, 'needs the package bitsandbytes .* pip install "lorasmith\\[cuda\\]"'),
    ({"optimizer_args": ["nosuch=3"]}, "AdamW does not take these settings: nosuch"),
    ({"optimizer_args": ["weight_decay=0,1"]}, "weight_decay=0,1 is given, allowed is a number from 0 on"),
    ({"optimizer_args": ["weight_decay=-1"]}, "weight_decay=-1 is given"),
    ({"optimizer_args": ["betas=0.9,", "0.99"]}, "'0.99' has no value"),
    ({"optimizer_args": ["betas=0.9,1"]}, "betas=0.9,1 is given, allowed is 2 numbers from 0 on below 1"),
    ({"optimizer_args": ["amsgrad=maybe"]}, "amsgrad=maybe is given, allowed is True or False"),
    ({"optimizer_args": ["fused=True", "foreach=True"]}, "set one of them"),
    ({"optimizer_args": ["lr=1"]}, "AdamW does not take these settings: lr"),
    ({"optimizer_type": "Prodigy", "optimizer_args": ["d0=x"]}, "d0=x is given, allowed is a number above 0"),
    ({"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=no", "warmup_init=yes"]}, "set both or neither"),
]
SCHEDULES = [
    ({"lr_scheduler": "piecewise_constant"}, "piecewise_constant needs its rules"),
    ({"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:x"]}, "'1:x' are malformed"),
    ({"lr_scheduler": "cosine", "lr_scheduler_args": ["nosuch=3"]}, "cosine does not take these settings: nosuch"),
    ({"lr_scheduler": "linear", "lr_scheduler_args": ["power=3"]}, "linear does not take these settings: power"),
    ({"lr_scheduler": "cosine", "lr_scheduler_args": ["num_cycles=a"]}, "num_cycles=a is given, allowed is a number"),
    ({"lr_scheduler": "polynomial", "lr_scheduler_args": ["lr_end=9"]}, "lr_end=9 is given"),
    ({"lr_scheduler": "adafactor"}, "adafactor goes with optimizer_type Adafactor only"),
    ({"lr_scheduler": "nosuch"}, "training.lr_scheduler: 'nosuch' is given, allowed is 'constant'"),
    ({"lr_scheduler": "constant", "lr_warmup_steps": 5}, "lr_scheduler constant has no warm-up"),
]
OTHERS = [
    ({"sample_sampler": "nosuch"}, "sampling.sample_sampler: 'nosuch' is given"),
    ({"bucket_reso_steps": 12}, "dataset.bucket_reso_steps = 12 is not a multiple of 8"),
    ({"min_bucket_reso": 128}, "has a side below dataset.min_bucket_reso"),
    ({"network_train_unet_only": True, "network_train_text_encoder_only": True}, "are both set"),
    ({"dim_from_weights": True}, "without network.network_weights"),
    ({"unet_lr": 0.0, "cache_text_encoder_outputs": True}, "contradicts training.unet_lr = 0: nothing would be"),
    ({"sample_prompts": "prompts.txt"}, "there is no sampler 'nosuch'"),
    ({"network_weights": "garbage.safetensors"}, "is cut short"),
    ({"network_weights": "short.safetensors"}, "is cut short"),
    ({"network_weights": "pickle.safetensors"}, "is a Python pickle"),
    ({"network_weights": "loha.safetensors"}, "is a LoHa"),
    ({"network_weights": "model.safetensors"}, "model.safetensors is no LoRA"),
    ({"network_weights": "half.safetensors"}, "have no lora_up.weight: lora_unet_"),
    ({"network_weights": "rank.safetensors"}, "has the shape \\[8, 32\\], here it is \\[4, 32\\]"),
    ({"network_weights": "sdxl.safetensors"}, "is a LoRA for SDXL, and the model is SD 1.5"),
    ({"network_weights": "text.safetensors", "network_train_unet_only": True}, "no module of a part that is trained"),
    ({"network_weights": "nan.safetensors"}, "hold NaN or infinity"),
    ({"base_weights": ["rank.safetensors", "sdxl.safetensors"]}, "is a LoRA for SDXL, and the model is SD 1.5"),
]
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
SDXL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def lora(name: str, rank: int = 4, value: float = 1.0, *, up: bool = True) -> dict[str, torch.Tensor]:
    tensors = {f"{name}.lora_down.weight": torch.full((rank, 32), value), f"{name}.alpha": torch.tensor(1.0)}
    return tensors | ({f"{name}.lora_up.weight": torch.ones(32, rank)} if up else {})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder with LoRAs that no run can start from."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "garbage.safetensors").write_text("garbage")
    (folder / "prompts.txt").write_text("a cat --ss nosuch\n")
    (folder / "pickle.safetensors").write_bytes(b"\x80\x04" + b"x" * 40)
    files = {
        "loha": {"lora_unet_x.hada_w1_a": torch.ones(2)}, "model": {"unet.weight": torch.ones(2)},
        "half": lora(ATTENTION, up=False), "rank": lora(ATTENTION, 8), "sdxl": lora(SDXL), "text": lora(TEXT),
        "nan": lora(ATTENTION, value=float("nan")),
    }  # fmt: skip
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "short.safetensors").write_bytes((folder / "rank.safetensors").read_bytes()[:-9])
    return folder


def written(settings: dict[str, object]) -> str:
    lines = {line.partition(" = ")[0]: line for line in HEAD.splitlines()}
    lines |= {key: f"{key} = {json.dumps(value)}" for key, value in settings.items()}
    return "\n".join(lines.values()) + "\n"


def edited(run_dir: RunDir, settings: dict[str, object]) -> None:
    """The settings in the run's own configuration, as a hand or another program may have left them there."""
    text = run_dir.config_path.read_text()
    for key, value in settings.items():
        line = f"{key} = {json.dumps(value)}"
        text, count = re.subn(rf"^{key} = (\[\n(.*\n)*?\]|.*)$", lambda _, line=line: line, text, flags=re.MULTILINE)
        if not count:
            table = "[network]" if key.startswith("network") else "[training]"
            text = text.replace(table, f"{table}\n{line}")
    run_dir.config_path.write_text(text)


@pytest.mark.parametrize(("settings", "sentence"), [*OPTIMIZERS, *SCHEDULES, *OTHERS])
def test_all_three_refuse_with_one_sentence(
    settings: dict[str, object], sentence: str, make_run: MakeRun, train_here: Callable[[RunDir], int], tmp_path: Path,
    weights: Path, tiny_model: Path, images: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    paths_in = {"network_weights", "sample_prompts"} & settings.keys()
    settings = {**settings, **{key: str(weights / str(settings[key])) for key in paths_in}}
    if isinstance(merged := settings.get("base_weights"), list):
        settings = {"base_weights": [str(weights / name) for name in merged]}
    file = tmp_path / "kohya.toml"
    paths = {"pretrained_model_name_or_path": str(tiny_model), "train_data_dir": str(images)}
    file.write_text(written({**paths, **settings}))

    converted = run(["convert", str(file), "--output", "made.toml"])
    by_convert = capfd.readouterr()
    tried = run(["--preset", str(file), "--dry-run"])
    by_dry_run = capfd.readouterr().err
    run_dir = make_run(training__unet_lr=1e-4, memory__device="cpu")
    edited(run_dir, settings)
    trained = train_here(run_dir)
    exit_record = json.loads(run_dir.exit_path.read_text())
    by_trainer = f"{exit_record['message']} {exit_record['hint']}"

    assert (converted, tried, trained) == (trained,) * 3 and trained in (2, 3)
    for message in (by_convert.err.replace("\nhint: ", " "), by_dry_run.replace("\nhint: ", " "), by_trainer):
        assert re.search(sentence, message), message
    refusal = by_convert.err.partition(": ")[2].replace(str(file), "").strip()
    assert refusal in by_dry_run.replace(str(file), "")
    own = re.sub(r"\S+toml, line \d+(?: and |: )", "", exit_record["message"])
    assert printable(own) in by_convert.err and printable(own) in by_dry_run
    assert not (tmp_path / "made.toml").exists() and not (tmp_path / "zed").exists()
    for key in settings:
        assert not re.search(rf"^honoured +{key} .*→ \S*{key}$", by_convert.out, re.MULTILINE) or len(settings) > 1


def test_json_has_the_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kohya.toml"
    file.write_text(written({"optimizer_type": "NoSuch", "optimizer_args": ["a"]}))
    assert run(["convert", str(file), "--json"]) == 2
    answer = json.loads(capfd.readouterr().out)
    assert any("there is no optimizer 'NoSuch'" in problem for problem in answer["problems"])
    (entry,) = [entry for entry in answer["entries"] if entry["key"] == "optimizer_type"]
    assert entry["status"] == "not supported"


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer_type": "Prodigy", "optimizer_args": ["use_bias_correction=false", "betas=(0.9, 0.99)", "d_coef=2"]},
        {"optimizer_type": "AdamWScheduleFree", "lr_scheduler": "constant", "lr_warmup_steps": 10},
        {"optimizer_type": "Adafactor", "optimizer_args": ['relative_step="False"', "scale_parameter=FALSE"]},
        {"optimizer_args": ["amsgrad=true", "foreach=true", "betas=[0.9, 0.99]", "weight_decay = 1e-3"]},
        {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_args": ["decay_type='linear'", "num_cycles=0.5"]},
        {"network_weights": "nowhere.safetensors"},
    ],
)
def test_what_trains_is_converted(
    settings: dict[str, object], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file that is not on this machine may be there where the preset is used."""
    file = tmp_path / "kohya.toml"
    file.write_text(written({"bucket_reso_steps": 64, "resolution": "512", "train_data_dir": "/p", **settings}))
    assert run(["convert", str(file), "--output", str(tmp_path / "made.toml")]) == 0
    errors = capfd.readouterr().err
    assert "Not on this machine, and needed by a run: dataset.train_data_dir = /p" in errors
    assert ("network.network_weights = nowhere.safetensors" in errors) is ("network_weights" in settings)
