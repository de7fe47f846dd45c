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
from tests.refusals import require
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
    ({"optimizer_type": "NoSuch"}, "optimizer-unknown", "'NoSuch'"),
    ({"optimizer_type": "LBFGS"}, "optimizer-unknown", "'LBFGS'"),
    ({"optimizer_type": "pytorch_optimizer.CAME", "optimizer_args": ["eps=1"]}, "argument-unknown", "eps"),
    ({"optimizer_type": "Prodigy", "unet_lr": 1.0}, "optimizer-needs-one-rate", "U-Net 1"),
    ({"optimizer_type": "Lion8bit"}, "optimizer-package-missing", 'pip install "lorasmith[cuda]"'),
    ({"optimizer_args": ["nosuch=3"]}, "argument-unknown", "nosuch"),
    ({"optimizer_args": ["weight_decay=0,1"]}, "argument-wrong-type", "weight_decay=0,1"),
    ({"optimizer_args": ["weight_decay=-1"]}, "argument-not-allowed", "weight_decay=-1"),
    ({"optimizer_args": ["betas=0.9,", "0.99"]}, "argument-without-value", "'0.99'"),
    ({"optimizer_args": ["betas=0.9,1"]}, "argument-not-allowed", "betas=0.9,1"),
    ({"optimizer_args": ["amsgrad=maybe"]}, "argument-wrong-type", "amsgrad=maybe"),
    ({"optimizer_args": ["fused=True", "foreach=True"]}, "optimizer-arguments-clash", "foreach"),
    ({"optimizer_args": ["lr=1"]}, "argument-unknown", ": lr."),
    ({"optimizer_type": "Prodigy", "unet_lr": 1e-3, "optimizer_args": ["d0=x"]}, "argument-wrong-type", "d0=x"),
    (
        {"optimizer_type": "Adafactor", "optimizer_args": ["relative_step=no", "warmup_init=yes"]},
        "optimizer-arguments-clash",
        "warmup_init=True",
    ),
]
SCHEDULES = [
    ({"lr_scheduler": "piecewise_constant"}, "schedule-rules-missing", "piecewise_constant"),
    (
        {"lr_scheduler": "piecewise_constant", "lr_scheduler_args": ["step_rules=1:x"]},
        "schedule-rules-not-possible",
        "'1:x'",
    ),
    ({"lr_scheduler": "cosine", "lr_scheduler_args": ["nosuch=3"]}, "argument-unknown", "nosuch"),
    ({"lr_scheduler": "linear", "lr_scheduler_args": ["power=3"]}, "argument-unknown", "power"),
    ({"lr_scheduler": "cosine", "lr_scheduler_args": ["num_cycles=a"]}, "argument-wrong-type", "num_cycles=a"),
    ({"lr_scheduler": "polynomial", "lr_scheduler_args": ["lr_end=9"]}, "schedule-end-too-high", "lr_end=9"),
    ({"lr_scheduler": "adafactor"}, "schedule-needs-adafactor", "optimizer_type Adafactor"),
    ({"lr_scheduler": "nosuch"}, "config-invalid", "training.lr_scheduler: 'nosuch'"),
    ({"lr_scheduler": "constant", "lr_warmup_steps": 5}, "config-invalid", "lr_scheduler constant"),
]
OTHERS = [
    ({"sample_sampler": "nosuch"}, "config-invalid", "sampling.sample_sampler: 'nosuch'"),
    ({"bucket_reso_steps": 12}, "bucket-step-not-possible", "dataset.bucket_reso_steps = 12"),
    ({"min_bucket_reso": 128}, "resolution-outside-buckets", "dataset.min_bucket_reso"),
    (
        {"network_train_unet_only": True, "network_train_text_encoder_only": True},
        "nothing-trained",
        "network.network_train_text_encoder_only",
    ),
    ({"dim_from_weights": True}, "dim-from-weights-without-file", "network.network_weights"),
    (
        {"unet_lr": 0.0, "cache_text_encoder_outputs": True},
        "text-cache-needs-fixed-encoder",
        "training.unet_lr = 0",
    ),
    ({"sample_prompts": "prompts.txt"}, "no-such-sampler", "'nosuch'"),
    ({"network_weights": "garbage.safetensors"}, "model-file-cut-short", "garbage.safetensors"),
    ({"network_weights": "short.safetensors"}, "model-file-cut-short", "short.safetensors"),
    ({"network_weights": "pickle.safetensors"}, "model-is-pickle", "pickle.safetensors"),
    ({"network_weights": "loha.safetensors"}, "lora-of-other-kind", "a LoHa"),
    ({"network_weights": "dora.safetensors"}, "lora-of-other-kind", "a DoRA"),
    (
        {"network_weights": "rank.safetensors", "network_module": "networks.lokr"},
        "lora-of-other-kind",
        "this run trains LoKr",
    ),
    (
        {"network_weights": "loha of rank 4.safetensors", "network_module": "networks.loha", "network_dim": 3},
        "lora-wrong-rank",
        "has the rank 4, here it is 3",
    ),
    ({"network_weights": "model.safetensors"}, "not-a-lora", "model.safetensors"),
    ({"network_weights": "half.safetensors"}, "lora-incomplete", "lora_up.weight: lora_unet_"),
    ({"network_weights": "rank.safetensors"}, "lora-wrong-shape", "[8, 32], here it is [4, 32]"),
    ({"network_weights": "sdxl.safetensors"}, "lora-for-other-model", "SDXL"),
    (
        {"network_weights": "text.safetensors", "network_train_unet_only": True},
        "lora-without-trained-modules",
        "lora_te_text_model",
    ),
    ({"network_weights": "nan.safetensors"}, "weights-not-finite", "lora_unet_"),
    ({"base_weights": ["rank.safetensors", "sdxl.safetensors"]}, "lora-for-other-model", "SDXL"),
]
ATTENTION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
ENDS = ("1_a", "1_b", "2_a", "2_b")
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
        "loha": {f"lora_unet_x.hada_w{end}": torch.ones(4, 4) for end in ENDS},
        "loha of rank 4": {
            f"{ATTENTION}.hada_w{end}": torch.ones(*((32, 4) if end[-1] == "a" else (4, 32))) for end in ENDS
        },
        "dora": {**lora(ATTENTION), f"{ATTENTION}.dora_scale": torch.ones(32, 1)},
        "model": {"unet.weight": torch.ones(2)},
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


@pytest.mark.parametrize(("settings", "code", "part"), [*OPTIMIZERS, *SCHEDULES, *OTHERS])
def test_all_three_refuse_with_one_sentence(
    settings: dict[str, object], code: str, part: str, make_run: MakeRun, train_here: Callable[[RunDir], int],
    tmp_path: Path, weights: Path, tiny_model: Path, images: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, shown: list[Exception],
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

    assert (converted, tried, trained) == (trained,) * 3 and trained in (2, 3)
    for error in shown:
        require(error, code, part)
    assert len(shown) == 2 and exit_record["code"] == code
    assert part in f"{exit_record['message']} {exit_record['hint']}"
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
        {
            "optimizer_type": "Prodigy",
            "unet_lr": 1e-3,
            "optimizer_args": ["use_bias_correction=false", "betas=(0.9, 0.99)", "d_coef=2"],
        },
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
