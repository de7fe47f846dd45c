"""Which model a file is drawn with: the named one, its run's, the one that its metadata name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.config import RunConfig
from engine.paths import ASSETS
from engine.results.base_choice import choose_base, run_of
from engine.results.try_request import prompts_of
from engine.runs import RunDir
from tests.fake_run import prepared_run
from tests.refusals import refused
from tests.tiny_flux import tiny_folder
from tests.tiny_models import tiny_sd15
from tests.tiny_sdxl import tiny_sdxl

DEMO = str(ASSETS / "demo_base")
NAME = "lora_unet_down_blocks_0_attentions_0_proj_in"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def lora(path: Path, **metadata: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{NAME}.lora_down.weight": torch.ones(2, 16), f"{NAME}.lora_up.weight": torch.ones(16, 2)}
    save_file(tensors, path, metadata)
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return prepared_run(
        tmp_path, model={"pretrained_model_name_or_path": DEMO, "clip_skip": 2},
        dataset={"class_tokens": "smithy", "resolution": 64},
        sampling={"sample_prompts": ["a {trigger} --d 5", "a house"], "sample_steps": 7},
    )  # fmt: skip


def test_the_runs_own_model_settings_and_prompts(run_dir: RunDir) -> None:
    file = lora(run_dir.lora_path())
    base = choose_base([file])
    assert (base.recognition.path, base.config.model.clip_skip, base.run_dir) == (Path(DEMO), 2, run_dir)
    assert "on which the run robot was trained" in base.reason
    messages: list[str] = []
    prompts = prompts_of(base, file, (), {"steps": 3}, messages.append)
    assert [(prompt.prompt, prompt.seed, prompt.steps, prompt.width) for prompt in prompts] == [
        ("a smithy", 5, 3, 64), ("a house", 1, 3, 64),
    ]  # fmt: skip
    assert messages == ["The prompts are those of the run robot."]
    typed_prompts = prompts_of(base, file, ["{trigger} on a beach --w 128"], {"seed": 9}, messages.append)
    assert [(prompt.prompt, prompt.seed, prompt.width, prompt.steps) for prompt in typed_prompts] == [
        ("smithy on a beach", 9, 128, 7)
    ]


def test_a_named_model_goes_first_and_leaves_the_runs_parts_behind(run_dir: RunDir, tmp_path: Path) -> None:
    other = tiny_sd15(tmp_path / "other")
    base = choose_base([lora(run_dir.lora_path())], str(other))
    assert base.recognition.path == other and base.config.model.vae is None and base.config.model.clip_skip == 2
    assert base.config.model.pretrained_model_name_or_path == str(other)


def test_the_metadata_of_a_file_without_a_run(tmp_path: Path) -> None:
    model = tiny_sd15(tmp_path / "models", ldm=True)
    with model.open("rb") as file:
        file.seek(0x100000)
        digest = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    metadata = {"ss_sd_model_name": "renamed.safetensors", "ss_sd_model_hash": digest, "ss_clip_skip": "2",
             "ss_resolution": "(96, 64)", "modelspec.trigger_phrase": "ohwx"}  # fmt: skip
    stranger = lora(tmp_path / "downloads/a.safetensors", **metadata)
    neighbour = str(tmp_path / "models/gone.safetensors")
    base = choose_base([stranger], used_models=[neighbour])  # the folder of a model that was used before
    assert base.recognition.path == model and base.config.model.clip_skip == 2 and base.run_dir is None
    messages: list[str] = []
    (prompt,) = prompts_of(base, stranger, (), {}, messages.append)
    assert (prompt.prompt, prompt.width, prompt.height) == ("ohwx", 96, 64)
    assert messages == ["The prompt is the trigger of a.safetensors, from its metadata: ohwx."]


def test_a_folder_is_found_by_its_name(tmp_path: Path) -> None:
    stranger = lora(tmp_path / "a.safetensors", ss_sd_model_name="demo_base", ss_sd_model_hash="IsADirectory")
    base = choose_base([stranger], used_models=["/nowhere/x.safetensors", DEMO])
    assert base.recognition.path == Path(DEMO)
    assert base.config.dataset.size == (512, 512)
    with refused("no-prompt"):
        prompts_of(base, stranger, (), {}, print)


@pytest.mark.parametrize(
    ("metadata", "code", "part"),
    [
        ({}, "base-model-unknown", "a.safetensors"),
        (
            {"ss_sd_model_name": "x.safetensors", "ss_sd_model_hash": "00000000"},
            "base-model-not-found",
            "x.safetensors",
        ),
    ],
)
def test_a_file_whose_model_is_unknown_asks_for_one(
    tmp_path: Path, metadata: dict[str, str], code: str, part: str
) -> None:
    with refused(code, part, "--model PATH"):
        choose_base([lora(tmp_path / "a.safetensors", **metadata)], used_models=[DEMO])


def test_another_family_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "xl.safetensors"
    name = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    save_file({f"{name}.lora_down.weight": torch.ones(2, 2048), f"{name}.lora_up.weight": torch.ones(640, 2)}, path)
    with refused("lora-for-other-model"):
        choose_base([path], DEMO)
    base = choose_base([path], str(tiny_sdxl(tmp_path / "model")))
    assert base.recognition.family == "sdxl" and base.config.dataset.size == (1024, 1024)


def test_flux_without_a_run(tmp_path: Path) -> None:
    path, name = tmp_path / "flux.safetensors", "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 64), f"{name}.lora_up.weight": torch.ones(192, 2)}
    save_file(tensors, path, {"modelspec.trigger_phrase": "ohwx"})
    base = choose_base([path], str(tiny_folder(tmp_path / "model")))
    assert base.recognition.family == "flux" and base.config.dataset.size == (1024, 1024)
    (prompt,) = prompts_of(base, path, (), {"width": 64}, lambda _: None)
    assert (prompt.scale, prompt.guidance, prompt.width, prompt.height) == (1.0, 3.5, 64, 1024)


def test_a_damaged_run_is_no_run(run_dir: RunDir, tmp_path: Path) -> None:
    file = lora(run_dir.lora_path())
    assert run_of(file) == run_dir
    run_dir.state_path.unlink(missing_ok=True)
    run_dir.state_path.mkdir()
    assert run_of(file) is None
    assert run_of(lora(tmp_path / "elsewhere/a.safetensors")) is None


def test_memory_settings_are_changed_and_nothing_is_compiled(run_dir: RunDir) -> None:
    base = choose_base([lora(run_dir.lora_path())], memory={"device": "cpu"})
    assert base.config.memory.device == "cpu" and base.config.memory.torch_compile == "off"
    assert isinstance(base.config, RunConfig)
