"""Kohya's training files: every argument has its class, every kind of file becomes the configuration it means."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, load_config
from engine.config.kohya.arguments import CLI_DEFAULTS, convert_arguments
from engine.config.kohya.convert import conversion_of
from engine.config.kohya.rules import SCRIPT_ARGUMENTS, rule_of
from engine.config.load import conversion_notes
from engine.config.problems import keys
from tests.refusals import refused

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


def status(path: Path) -> dict[str, str]:
    conversion = conversion_of(path, path.read_text())
    assert conversion is not None
    return {entry.key: entry.status for entry in conversion.entries}


def test_every_argument_of_the_scripts_has_its_class() -> None:
    rows = [line.split("\t") for line in (HERE / "fixtures" / "args_lora_scripts.tsv").read_text().splitlines()[1:]]
    names = [row[1].removeprefix("--") for row in rows]
    assert len(names) == 212 and names == SCRIPT_ARGUMENTS
    tables = keys()
    for name in names:
        rule = rule_of(name)
        assert rule is not None, name
        assert rule.status in ("honoured", "better", "no effect", "not supported")
        assert rule.text or rule.status == "honoured", f"{name}: no reason"
        table, _, key = rule.target.partition(".")
        assert not rule.target or (table in tables and (not key or key in tables[table])), name


WORDS = {
    "loss_type": "huber", "huber_schedule": "constant", "lr_scheduler": "linear", "optimizer_type": "Lion",
    "mixed_precision": "bf16", "save_precision": "bf16", "resolution": "640,768", "max_token_length": 150,
    "timestep_sampling": "sigmoid", "weighting_scheme": "cosmap", "model_prediction_type": "additive",
    "resize_interpolation": "box", "sample_sampler": "euler", "face_crop_aug_range": "2.0,4.0",
    "lr_warmup_steps": "25%", "caption_dropout_rate": 0.25, "caption_tag_dropout_rate": 0.25, "validation_split": 0.25,
    "multires_noise_discount": 0.5, "network_dropout": 0.25, "min_timestep": 3, "max_timestep": 900,
    "lr_scheduler_min_lr_ratio": 0.25, "network_args": ["conv_dim=3"], "optimizer_args": ["weight_decay=0.5"],
    "lr_scheduler_args": ["lr_end=0.5"], "text_encoder_lr": [0.5], "noise_offset": 0.25, "max_bucket_reso": 4032,
    "min_bucket_reso": 32, "bucket_reso_steps": 32, "seed": 3, "adaptive_noise_scale": 0.25, "log_with": "wandb",
}  # fmt: skip
TOGETHER = {
    "adaptive_noise_scale": {"noise_offset": 0.5},
    "lr_warmup_steps": {"lr_scheduler": "cosine"},
    "save_n_epoch_ratio": {"max_train_epochs": 12},
}


def test_every_honoured_argument_reaches_its_setting_and_the_setting_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them, given alone, makes a valid configuration that differs from the scripts' defaults where it says so;
    and what it sets is used outside the configuration."""
    rows = [line.split("\t") for line in (HERE / "fixtures" / "args_lora_scripts.tsv").read_text().splitlines()[1:]]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())  # bitsandbytes is there
    plain = RunConfig.model_validate(convert_arguments({}, "").values).model_dump()
    kept = {"kohya", "schema.py", "training.py", "flow.py", "flux.py", "moved.py", "dataset.py"}
    source = "\n".join(
        path.read_text() for path in (ROOT / "engine").rglob("*.py")
        if not (path.parent.name in ("config", "kohya") and kept & set(path.parts))
    )  # fmt: skip
    seen = 0
    for row in rows:
        name, kind = row[1].removeprefix("--"), row[3]
        rule = rule_of(name)
        assert rule is not None
        table, _, key = rule.target.partition(".")
        if rule.status != "honoured" or not key or name == "network_module":  # the checkpoint's family decides that
            continue
        value = WORDS.get(name, {"store_true": True, "int": 3, "float": 0.5, "int_or_float": 3}.get(kind, "text"))
        made = convert_arguments({**TOGETHER.get(name, {}), name: value}, "")
        assert not made.problems, (name, made.problems)
        changed = RunConfig.model_validate(made.values).model_dump()
        assert changed[table][key] != plain[table][key], name
        assert re.search(rf"\b{key}\b", source), f"{name}: nothing reads {rule.target}"
        seen += 1
    assert seen > 110


def test_the_order_of_arguments_does_not_matter() -> None:
    arguments = {"save_n_epoch_ratio": 3, "max_train_epochs": 10, "network_alpha": 0, "network_dim": 8}
    for order in (list(arguments), list(reversed(arguments))):
        values = convert_arguments({name: arguments[name] for name in order}, "").values
        assert values["saving"]["save_every_n_epochs"] == 3 and values["network"]["network_alpha"] == 8


def test_the_page_of_the_documentation_is_fresh() -> None:
    code = "import sys; sys.path.insert(0, 'tools'); import kohya_table; print(kohya_table.page())"
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert made.stdout.rstrip() == (ROOT / "docs" / "kohya.md").read_text().rstrip(), "run tools/kohya_table.py"


TRAINING = """
[model_arguments]
pretrained_model_name_or_path = "/m/sd.safetensors"
[training_arguments]
output_name = "cat"
max_train_epochs = 10
train_batch_size = 3
seed = 7
mixed_precision = "bf16"
xformers = true
max_data_loader_n_workers = 4
save_every_n_epochs = 2
sample_every_n_steps = 200
[network_arguments]
network_module = "networks.lora"
network_dim = 16
network_alpha = 8
network_args = ["conv_dim=4", "conv_alpha=1"]
unet_lr = 1e-4
text_encoder_lr = [5e-5]
[dataset_arguments]
dataset_config = "/d/dataset.toml"
[optimizer_arguments]
lr_warmup_steps = "10%"
lr_scheduler = "cosine"
"""


def test_a_training_toml(write: Write) -> None:
    path = write("train.toml", TRAINING)
    config = load_config(path)
    assert config.model.pretrained_model_name_or_path == "/m/sd.safetensors"
    assert (config.network.network_dim, config.network.conv_dim, config.network.conv_alpha) == (16, 4, 1)
    assert (config.training.unet_lr, config.training.text_encoder_lr) == (1e-4, 5e-5)
    assert config.training.lr_warmup_steps == pytest.approx(0.1) and config.training.max_train_epochs == 10
    assert config.dataset.dataset_config == "/d/dataset.toml" and config.saving.output_name == "cat"
    # what the file does not say is as the scripts do it
    assert (config.dataset.caption_extension, config.dataset.enable_bucket) == (".caption", False)
    assert (config.saving.save_precision, config.memory.cache_latents) == ("float", False)
    notes = conversion_notes(path)
    assert any(note.startswith("xformers = True: no effect") for note in notes)
    assert any(note.startswith("max_data_loader_n_workers = 4: no effect") for note in notes)
    assert not any(note.startswith("network_dim") for note in notes)


def test_unsupported_and_unknown_arguments_are_errors_all_at_once(write: Write) -> None:
    path = write("t.toml", 'network_module = "networks.dylora"\nnetwork_dim = 8\nv2 = true\n'
                 'learning_rat = 1e-4\nnetwork_args = ["ggpo_beta=1"]\nunet_lr = 1e-4')  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    results = {problem.key: problem for problem in caught.value.problems}
    assert "networks.lokr and lycoris.kohya" in results["network_module"].hint
    assert "use 1.5, SDXL or FLUX" in results["v2"].hint
    assert "learning_rat" not in results, "the scripts ignore a name that is no argument"
    lines = {key: problem.where.removeprefix(f"{path}, line ") for key, problem in results.items()}
    assert lines == {"network_module": "1", "v2": "3", "network_args ggpo_beta": "5"}


def test_what_the_scripts_ignore_has_no_effect_and_the_nearest_argument_is_named(write: Write) -> None:
    text = '[x]\nnetwork_module = "networks.lora"\ntrain_data_dir = "d"\nunet_lr = 1e-4\nbatch_size = 4\nsdxl = true\n'
    text += 'learning_rat = 1e-4\nkohya_exact = true\ndevice = "cpu"\n[x.deep]\nseed = 3\n'
    path = write("t.toml", text)
    config = load_config(path)
    assert (config.training.train_batch_size, config.training.kohya_exact, config.training.seed) == (1, False, 42)
    assert config.memory.device == "auto"
    notes = {note.partition(" = ")[0]: note for note in conversion_notes(path)}
    assert {key for key, value in status(path).items() if value == "no effect"} == set(notes) == {
        "batch_size", "sdxl", "learning_rat", "kohya_exact", "device", "deep",
    }  # fmt: skip
    assert notes["batch_size"].endswith("did you mean train_batch_size?)")
    assert notes["learning_rat"].endswith("did you mean learning_rate?)")


def test_the_training_toml_that_the_gui_writes_beside_a_run(write: Write) -> None:
    """It has keys that only the GUI knows; the scripts pass over them, and whoever types one has made a mistake."""
    arguments = (
        'adaptive_noise_scale = 0\nepoch = 10\nmax_train_steps = 400\nnoise_offset_type = "Original"\nnetwork_dim = 8\n'
        "network_args = []\ntext_encoder_lr = []\nstop_text_encoder_training = 20\nloraplus_lr_ratio = 4\n"
        'mem_eff_save = true\nwandb_run_name = "last"\nxformers = true\nlr_scheduler_args = []\n'
    )
    path = write("config_lora-20250101-120000.toml", arguments)
    config = load_config(path)
    assert (config.training.max_train_steps, config.training.max_train_epochs) == (400, None)
    unread = {"epoch", "noise_offset_type", "stop_text_encoder_training", "loraplus_lr_ratio", "mem_eff_save"}
    assert unread <= {name for name, value in status(path).items() if value == "no effect"}
    call = write("train.sh", f"python train_network.py --config_file '{path}' --network_dim 4\n")
    assert load_config(call).network.network_dim == 4
    with refused("config-invalid", "epoch"):
        load_config(write("typed.sh", "python train_network.py --epoch 10 --network_dim 4\n"))


def test_a_switch_that_is_off_is_no_unsupported_setting(write: Write) -> None:
    path = write("t.toml", 'network_dim = 8\nv2 = false\nweighted_captions = false\nunet_lr = 1e-4\nresume = ""')
    assert load_config(path).network.network_dim == 8 and "v2" not in status(path)


GUI = {
    "LoRA_type": "Standard", "pretrained_model_name_or_path": "/m.safetensors", "max_resolution": "512,768",
    "optimizer": "AdamW", "unet_lr": "1e-4", "text_encoder_lr": 5e-5, "lr_warmup": "10", "epoch": 10,
    "max_train_steps": 0, "network_dim": "64", "network_alpha": 64, "xformers": True, "seed": "1234", "clip_skip": "2",
    "output_name": "x", "keep_tokens": "0", "lr_scheduler": "cosine", "sample_prompts": "a cat --w 512\n# no\nb",
    "noise_offset": "0.05", "max_train_epochs": "", "sd3_text": 3, "train_blocks": "double", "conv_dim": 8,
    "additional_parameters": "--network_dropout 0.1 --log_prefix=xl", "caption_extension": "", "max_grad_norm": 0,
    "use_wandb": True,
}  # fmt: skip


def test_a_gui_configuration(write: Write) -> None:
    config = load_config(write("gui.json", json.dumps(GUI)))
    assert config.dataset.size == (512, 768) and config.network.network_dim == 64 and config.training.seed == 1234
    assert (config.training.unet_lr, config.training.text_encoder_lr) == (1e-4, 5e-5)
    assert config.training.lr_warmup_steps == pytest.approx(0.1) and config.training.max_train_epochs == 10
    assert config.sampling.sample_prompts == ["a cat --w 512", "b"]
    assert config.network.network_dropout == 0.1, "from additional_parameters"
    assert config.network.conv_dim is None, "only with the LoCon types, as in the GUI"
    assert config.training.max_grad_norm == 1.0, "the GUI drops a 0"
    assert config.dataset.caption_extension == ".caption", "and an empty text"
    # the GUI's own defaults
    assert config.dataset.max_bucket_reso == 2048
    assert config.dataset.bucket_no_upscale and config.memory.cache_latents
    results = status(write("gui.json", json.dumps(GUI)))
    assert (
        results["epoch"] == "better"
        and results["sd3_text"] == results["train_blocks"] == results["xformers"] == "no effect"
    )
    assert results["use_wandb"] == "honoured"
    assert (config.logging.log_with, config.logging.log_prefix) == ("wandb", "xl")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"text_encoder_lr": 0, "unet_lr": 1e-4}, {"network_train_unet_only": True}),
        ({"text_encoder_lr": 1e-5, "unet_lr": "0"}, {"network_train_text_encoder_only": True}),
        ({"LoRA_type": "Kohya LoCon", "conv_dim": "8", "conv_alpha": 4}, {"conv_dim": 8, "conv_alpha": 4}),
        ({"LoRA_type": "LoCon", "conv_dim": 8}, {"conv_dim": 8, "network_module": "lycoris.kohya", "algo": "locon"}),
    ],
)
def test_parts_of_the_network(write: Write, arguments: dict[str, object], expected: dict[str, object]) -> None:
    network = load_config(write("g.json", json.dumps({**GUI, **arguments}))).network
    assert {key: getattr(network, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("arguments", "steps", "epochs", "warmup"),
    [
        ({"max_train_steps": 1600, "epoch": 10}, 1600, None, 0.1),
        ({"max_train_steps": "", "epoch": 3, "lr_warmup": 0}, 1600, 3, 0.0),
        ({"max_train_epochs": "4", "lr_warmup": 10, "lr_warmup_steps": 50}, 1600, 4, 50.0),
        ({"lr_scheduler": "constant", "lr_warmup": 10}, 1600, 10, 0.0),
    ],
)
def test_lengths_and_warm_up(
    write: Write, arguments: dict[str, object], steps: int, epochs: int | None, warmup: float
) -> None:
    training = load_config(write("g.json", json.dumps({**GUI, **arguments}))).training
    assert (training.max_train_steps, training.max_train_epochs) == (steps, epochs)
    assert training.lr_warmup_steps == pytest.approx(warmup)


def test_quotation_marks_in_additional_parameters(write: Write) -> None:
    extra = r'--output_dir "C:\my loras" --network_dropout 0.1'
    quoted = load_config(write("q.json", json.dumps({**GUI, "additional_parameters": extra})))
    assert str(quoted.saving.output_dir) == r"C:\my loras" and quoted.network.network_dropout == 0.1
    with refused("config-invalid", "additional_parameters"):
        load_config(write("u.json", json.dumps({**GUI, "additional_parameters": '--output_dir "C:'})))


@pytest.mark.parametrize(("kind", "instead"), [("tlora", "network.tlora_min_rank"), ("dylora", "choose lora")])
def test_other_kinds_of_lycoris_are_errors_with_what_to_use(write: Write, kind: str, instead: str) -> None:
    text = f'network_module = "lycoris.kohya"\nnetwork_dim = 8\nv2 = false\nnetwork_args = ["algo={kind}"]\n'
    with refused("config-invalid", instead):
        load_config(write("t.toml", text))


def test_dylora_is_an_error(write: Write) -> None:
    with refused("config-invalid", "LoRA_type: LyCORIS/DyLoRA"):
        load_config(write("g.json", json.dumps({**GUI, "LoRA_type": "LyCORIS/DyLoRA"})))


LYCORIS_GUI: dict[str, dict[str, Any]] = {
    "LyCORIS/LoHa": {"algo": "loha", "use_tucker": True, "use_scalar": True, "dora_wd": True, "wd_on_output": True},
    "LyCORIS/LoKr": {"algo": "lokr", "factor": 8, "use_scalar": True, "decompose_both": True, "is_decomposed": True},
    "LyCORIS/LoCon": {"algo": "locon", "use_tucker": True, "rank_dropout": 0.1},
    "LyCORIS/GLoRA": {"algo": "glora", "conv_dim": 4, "train_norm": True, "dora_wd": False},
    "LyCORIS/Native Fine-Tuning": {"algo": "full", "rank_dropout_scale": True},
    "LyCORIS/Diag-OFT": {"algo": "diag-oft", "constraint": 0.001, "rescaled": True},
    "LyCORIS/BOFT": {"algo": "boft", "constraint": 0.001, "use_scalar": False},
    "LyCORIS/iA3": {"algo": "ia3", "train_norm": False},
    "Kohya LoHa": {"network_module": "networks.loha", "conv_dim": 4, "use_tucker": True, "train_norm": False},
    "Kohya LoKr": {"network_module": "networks.lokr", "conv_dim": 4, "factor": 8, "train_norm": False},
}
"""LoRA types of the GUI, and what of `FILLED` they pass on."""
FILLED = {
    "conv_dim": "4", "conv_alpha": 2, "factor": "8", "use_tucker": True, "use_cp": True, "use_scalar": "True",
    "decompose_both": True, "constrain": 0.001, "rescaled": True, "train_norm": True, "rank_dropout": 0.1,
    "rank_dropout_scale": True, "LyCORIS_preset": "full", "bypass_mode": True, "unit": 1, "dora_wd": True,
}  # fmt: skip


@pytest.mark.parametrize("kind", LYCORIS_GUI)
def test_kinds_of_lycoris(write: Write, kind: str) -> None:
    """Each type passes on its own keys, as in the GUI; the others are reported."""
    expected = {"network_module": "lycoris.kohya", **LYCORIS_GUI[kind]}
    path = write("g.json", json.dumps({**GUI, **FILLED, "LoRA_type": kind}))
    network = load_config(path).network
    assert {key: getattr(network, key) for key in expected} == expected
    results = status(path)
    assert results["LoRA_type"] == "honoured" and results["unit"] == "no effect"
    assert all(key in results for key in FILLED), "nothing is dropped in silence"


@pytest.mark.parametrize(
    ("kind", "is_passed"),
    [("Standard", True), ("Kohya LoCon", True), ("Kohya LoHa", False), ("LyCORIS/LoKr", False), ("LyCORIS/iA3", False)],
)
def test_block_lists_of_the_gui_are_for_plain_loras(write: Write, kind: str, is_passed: bool) -> None:
    lists = {"down_lr_weight": "1,1,1,1,1,1,1,1,1,1,1,1", "block_dims": ",".join("8" * 25), "loraplus_lr_ratio": 4.0}
    path = write("g.json", json.dumps({**GUI, **lists, "LoRA_type": kind}))
    network = load_config(path).network
    assert (network.down_lr_weight is not None) is (network.block_dims is not None) is is_passed
    assert network.loraplus_lr_ratio == 4.0
    assert status(path)["block_dims"] == ("honoured" if is_passed else "no effect")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("algo=lokr factor=8 full_matrix=True", {"algo": "lokr", "factor": 8, "full_matrix": True}),
        ('algo="LoHa" conv_dim=0 use_cp=true', {"algo": "loha", "conv_dim": None, "conv_rank": 16, "use_tucker": True}),
        ("algo=lokr decompose_both=False", {"decompose_both": False}),
        ("algo=diag-oft constrain=1e-3 rescaled=true", {"constraint": 1e-3, "rescaled": True}),
        ("algo=lokr use_scalar=None preset=full bypass_mode=True", {"use_scalar": False}),
        ("algo=locon conv_alpha=2", {"algo": "locon", "conv_rank": 16, "conv_scale": 2.0}),
        ("algo=lora", {"algo": "lora", "conv_rank": 16, "conv_scale": 8.0}),
        ("algo=lora dora_wd=True", {"dora_wd": True, "wd_on_output": True, "is_decomposed": True}),
        ("algo=loha dora_wd=True wd_on_output=False", {"dora_wd": True, "wd_on_output": False}),
        ("algo=lokr dora_wd=False wd_on_output=True rs_lora=True", {"is_decomposed": False, "rs_lora": True}),
        ("algo=glora dora_wd=True", {"is_decomposed": False}),
    ],
)
def test_arguments_of_lycoris(write: Write, arguments: str, expected: dict[str, Any]) -> None:
    text = f'network_module = "lycoris.kohya"\nnetwork_dim = 16\nnetwork_alpha = 8\nnetwork_args = {arguments.split()}'
    network = load_config(write("t.toml", text)).network
    assert {key: getattr(network, key) for key in expected} == expected


@pytest.mark.parametrize("argument", ["algo=lohaa", "factor=many", "constraint=2"])
def test_arguments_of_lycoris_that_cannot_be(write: Write, argument: str) -> None:
    text = f'network_module = "lycoris.kohya"\nunet_lr = 1e-4\nnetwork_args = ["algo=lokr", "{argument}"]'
    with pytest.raises(ConfigError) as caught:
        load_config(write("t.toml", text))
    (problem,) = caught.value.problems
    assert argument.partition("=")[0] in problem.key


def test_a_rank_above_every_layers_is_the_full_matrix_of_a_lokr(write: Write) -> None:
    text = 'network_module = "lycoris.kohya"\nnetwork_dim = 100000\nnetwork_args = ["algo=lokr"]'
    network = load_config(write("t.toml", text)).network
    assert (network.network_dim, network.full_matrix) == (1024, True)


SHELL = """#!/bin/sh
MODEL="/models/sdxl base.safetensors"
export OUT=/out
# accelerate launch nothing.py
accelerate launch --num_cpu_threads_per_process 1 sd-scripts/sdxl_train_network.py \\
  --pretrained_model_name_or_path "$MODEL" --output_dir=${OUT} --output_name 'my cat' \\
  --network_module networks.lora --network_dim 32 --network_args "conv_dim=4" conv_alpha=2 \\
  --learning_rate 1e-4 --cache_latents --no_half_vae --optimizer_args weight_decay=0.1 betas=0.9,0.99 && rm -rf /
"""


def test_a_shell_script_is_read_and_not_run(write: Write) -> None:
    config = load_config(write("train.sh", SHELL))
    assert config.model.pretrained_model_name_or_path == "/models/sdxl base.safetensors"
    assert config.model.family == "sdxl" and config.model.no_half_vae and config.memory.cache_latents
    assert (config.saving.output_dir, config.saving.output_name) == ("/out", "my cat")
    assert (config.network.network_dim, config.network.conv_dim, config.network.conv_alpha) == (32, 4, 2)
    assert config.training.optimizer_args == ["weight_decay=0.1", "betas=0.9,0.99"]


def test_a_batch_file(write: Write) -> None:
    text = "set MODEL=C:\\models\\x.safetensors\r\naccelerate launch train_network.py ^\r\n --network_dim=8 ^\r\n"
    text += ' --pretrained_model_name_or_path "%MODEL%" --unet_lr 1e-4\r\npause\r\n'
    config = load_config(write("train.bat", text))
    assert config.model.pretrained_model_name_or_path == "C:\\models\\x.safetensors" and config.network.network_dim == 8


def test_a_dataset_configuration_alone_is_no_preset(write: Write) -> None:
    path = write("d.toml", '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "x"')
    with refused("kohya-dataset-config", path):
        load_config(path)


def test_our_own_presets_are_not_taken_for_kohyas(write: Write) -> None:
    assert load_config("sd15-realistic").training.max_train_steps == 1800 and not conversion_notes("sd15-realistic")
    path = write("mine.toml", "[training]\nunet_lr = 1e-4\nmax_train_steps = 5")
    assert conversion_of(path, path.read_text()) is None and load_config(path).training.max_train_steps == 5
    assert isinstance(load_config(path), RunConfig)


def test_flux_without_a_prediction_type_is_raw(write: Write) -> None:
    line = "flux_train_network.py --network_module networks.lora_flux --network_dim 16 --unet_lr 1e-4"
    assert load_config(write("a.sh", line)).flow.model_prediction_type == "raw"
    path = write("b.sh", f"{line} --model_prediction_type sigma_scaled --split_mode --fp8_base")
    config = load_config(path)
    assert (config.flow.model_prediction_type, config.memory.base_precision) == ("raw", "fp8")
    assert config.memory.split_mode and any("mismatched target" in note for note in conversion_notes(path))


@pytest.mark.parametrize(
    ("folders", "expected"),
    [((), 1), (("other",), 1), (("5_ann",), None), (("5_ann", "other"), None)],
)
def test_a_flat_folder_has_one_repeat_and_that_is_reported(
    tmp_path: Path, folders: tuple[str, ...], expected: int | None
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    conversion = convert_arguments({"train_data_dir": str(tmp_path)}, "training TOML", CLI_DEFAULTS)
    assert conversion.values["dataset"].get("num_repeats") == expected
    assert [entry.value for entry in conversion.entries if entry.key == "num_repeats"] == ["1"] * (expected == 1)
