"""SDXL through the whole path on the CPU: train, sample, save, read back, resume to the byte, start from a LoRA."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from engine.adapters.inspect import inspect_lora
from engine.exit_codes import ExitCode
from engine.runs import RunDir, prepare_resume, read_events
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.soak import mostly_soaked
from tests.tiny_sdxl import tiny_sdxl

Train = Callable[[RunDir], int]


@pytest.fixture(scope="module")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sdxl(tmp_path_factory.mktemp("xl"), file=True)


def events_of(run: RunDir, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == kind]


def test_the_whole_path_and_a_resume_to_the_byte(
    make_run: MakeRun, train_here: Train, tiny_xl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "model__pretrained_model_name_or_path": tiny_xl, "training__max_train_steps": 4, "network__conv_dim": 2,
        "training__text_encoder_lr": 1e-3, "dataset__flip_aug": True, "sampling__sample_every_n_steps": 4,
        "sampling__sample_at_first": False,
    }  # fmt: skip
    straight, halted = make_run("straight", **settings), make_run("halted", **settings)
    assert train_here(straight) == ExitCode.DONE, straight.log_path
    saved = events_of(straight, "saved")[-1]
    assert saved["difference"] is not None and float(str(saved["difference"])) < 2e-3
    report = inspect_lora(straight.lora_path())
    assert report.base == "SDXL" and set(report.modules) == {"text encoder 1", "text encoder 2", "U-Net"}
    assert report.metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    assert report.metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    names = load_file(straight.lora_path())
    for name in (
        "lora_te1_text_model_encoder_layers_1_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_unet_output_blocks_8_0_in_layers_2",
    ):
        assert float(names[f"{name}.lora_up.weight"].abs().max()) > 0, f"{name} was not trained"
    assert events_of(straight, "sample") and not events_of(straight, "warning")
    assert {key for step in events_of(straight, "step") for key in step["lr"]} == {
        "text_encoder", "text_encoder_2", "unet",
    }  # fmt: skip

    advance = Trainer.advance

    def stop_at_two(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 2 and not events_of(halted, "run_finished") else ""
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_two)
    assert train_here(halted) == ExitCode.STOPPED
    prepare_resume(halted)
    assert train_here(halted) == ExitCode.DONE
    assert halted.lora_path().read_bytes() == straight.lora_path().read_bytes()


def test_cached_texts_and_a_lora_to_start_from(make_run: MakeRun, train_here: Train, tiny_xl: Path) -> None:
    """Both encoders are cached and leave; a second run begins where the first one ended."""
    settings = {
        "model__pretrained_model_name_or_path": tiny_xl, "sampling__sample_every_n_steps": 0,
        "memory__cache_text_encoder_outputs": True, "training__max_train_steps": 2, "saving__save_precision": "float",
    }  # fmt: skip
    first = make_run("first", **settings, training__max_check_share=1)
    assert train_here(first) == ExitCode.DONE
    assert all(0 < float(str(event["bleed"])) < 1 for event in events_of(first, "measures")) and events_of(
        first, "measures"
    )
    assert inspect_lora(first.lora_path()).modules == {"U-Net": len(load_file(first.lora_path())) // 3}
    before = load_file(first.lora_path())
    renamed = first.path / "renamed.safetensors"
    save_file({in_diffusers_names(key): tensor for key, tensor in before.items()}, renamed)
    assert not load_file(renamed).keys() & before.keys()
    for start in (first.lora_path(), renamed):
        again = make_run(start.stem + "-again", **{**settings, "training__max_train_steps": 1,
                         "training__learning_rate": 1e-9}, network__network_weights=start)  # fmt: skip
        assert train_here(again) == ExitCode.DONE
        after = load_file(again.lora_path())
        assert all((after[key] - before[key]).abs().max() < 1e-6 for key in before)


OTHER_KINDS: dict[str, dict[str, object]] = {
    "loha": {"train_norm": True, "rank_dropout": 0.1}, "lokr": {"use_tucker": True, "factor": 4, "network_dim": 1},
    "locon": {"use_tucker": True}, "glora": {}, "full": {}, "diag-oft": {"rescaled": True}, "boft": {"network_dim": 16},
    "ia3": {},
}  # fmt: skip


@pytest.mark.parametrize("algo", mostly_soaked(OTHER_KINDS, ["loha"]))
def test_other_kinds(algo: str, make_run: MakeRun, train_here: Train, tiny_xl: Path) -> None:
    """In half precision, with checkpointing, and with a sample."""
    run = make_run(
        model__pretrained_model_name_or_path=tiny_xl, training__max_train_steps=2, training__text_encoder_lr=1e-3,
        sampling__sample_every_n_steps=2, sampling__sample_at_first=False, memory__mixed_precision="bf16",
        memory__gradient_checkpointing=True, network__algo=algo,
        **{f"network__{key}": value for key, value in OTHER_KINDS[algo].items()},
    )  # fmt: skip
    assert train_here(run) == ExitCode.DONE
    assert float(str(events_of(run, "saved")[-1]["difference"])) < 0.05
    report = inspect_lora(run.lora_path())
    assert report.base == "SDXL" and report.problems == [] and ("norm" in report.kinds) == (algo == "loha")
    names = load_file(run.lora_path())
    assert any(key.startswith("lora_unet_output_blocks_8_0_in_layers_2.") for key in names) == (algo != "ia3")
    assert ("lora_unet_input_blocks_4_1_transformer_blocks_0_norm1.w_norm" in names) == (algo == "loha")
    assert ("lora_unet_input_blocks_4_0_out_layers_0.b_norm" in names) == (algo == "loha")
    assert events_of(run, "sample")


def in_diffusers_names(key: str) -> str:
    """A layer of the U-Net as ComfyUI and diffusers know it too, with the blocks numbered by level."""
    key = re.sub(r"input_blocks_(\d)_1_", lambda match: f"down_blocks_{(int(match[1]) - 1) // 3}_attentions_"
                 f"{(int(match[1]) - 1) % 3}_", key)  # fmt: skip
    key = re.sub(r"output_blocks_(\d)_1_", lambda match: f"up_blocks_{int(match[1]) // 3}_attentions_"
                 f"{int(match[1]) % 3}_", key)  # fmt: skip
    return key.replace("middle_block_1_", "mid_block_attentions_0_")
