"""First values of a LoRA and T-LoRA's mask through the whole path: trained, saved, checked, resumed, continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.estimate.disk import lora_parameters
from engine.exit_codes import ExitCode
from engine.families.resolved import resolve_run
from engine.runs.layout import RunDir
from engine.training import first_values
from engine.training.first_values import InputSketch, _patches
from engine.training.trainer import Trainer
from tests.engine.adapters.test_doubled import TARGETS, attach
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_train import Train, digest, events, losses
from tests.soak import mostly_soaked
from tests.tiny_flux import tiny_files
from tests.tiny_sdxl import tiny_sdxl

SETTINGS = {
    "training__max_train_steps": 4,
    "training__text_encoder_lr": 1e-3,
    "network__conv_dim": 2,
    "network__scale_weight_norms": 0.2,
    "network__rank_dropout": 0.1,
    "saving__save_state_every_n_steps": 2,
    "saving__save_every_n_epochs": 0,
    "saving__save_precision": "float",
    "sampling__sample_every_n_steps": 0,
    "training__max_check_share": 0,
}
HOW = {
    "gaussian": {"network__init_lora_weights": "gaussian"},
    "orthogonal": {"network__init_lora_weights": "orthogonal"},
    "pissa": {"network__init_lora_weights": "pissa"},
    "olora": {"network__init_lora_weights": "olora"},
    "eva": {"network__init_lora_weights": "eva"},
    "T-LoRA": {"network__tlora_min_rank": 1, "network__tlora_alpha": 2},
    "both": {"network__init_lora_weights": "pissa", "network__tlora_min_rank": 2},
}
DOUBLED = ("pissa", "olora", "both")


def halted_at(step: int, monkeypatch: pytest.MonkeyPatch, train: Train, run: RunDir) -> None:
    """Stop at a step, and continue in a second process's place."""
    advance = Trainer.advance

    def stop(self: Trainer) -> bool:
        if self.step == step:
            self.session.stop_reason = "test"
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", stop)
        assert train(run) == ExitCode.STOPPED
    assert train(run) == ExitCode.DONE


@pytest.mark.parametrize("name", mostly_soaked(HOW, ["olora", "eva", "both"]))
def test_a_run_is_saved_checked_and_resumed_to_the_byte(
    name: str, make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, halted = (make_run(place, **SETTINGS, **HOW[name]) for place in ("straight", "halted"))
    assert train_here(run) == ExitCode.DONE
    (saved,) = events(run, "saved")
    assert saved.data["difference"] < 1e-4, "diffusers' loader gives the same output"
    report = inspect_lora(run.lora_path())
    factor = 2 if name in DOUBLED else 1
    assert (report.kind, report.problems, report.no_start) == ("LoRA", [], None)
    assert report.ranks.keys() == {str(4 * factor), str(2 * factor)} and report.readers
    metadata, chosen = report.metadata, {key.removeprefix("network__"): str(value) for key, value in HOW[name].items()}
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == (str(4 * factor), f"{4.0 * factor}")
    arguments = json.loads(metadata["ss_network_args"])
    assert chosen.items() <= arguments.items() and arguments["conv_dim"] == str(2 * factor)
    unseen = [key for key in chosen if (name in DOUBLED and key.startswith("init")) or key == "tlora_min_rank"]
    assert all(f"{key} = {chosen[key]}" in " ".join(report.notes) for key in unseen), "what no tensor shows"
    numbers = sum(tensor.numel() for key, tensor in load_file(run.lora_path()).items() if tensor.dim())
    assert lora_parameters(resolve_run(load_config(run.config_path))) == numbers
    halted_at(1, monkeypatch, train_here, halted)
    assert losses(run) == losses(halted) and digest(run) == digest(halted)


def test_each_gives_another_file_from_the_same_first_step(make_run: MakeRun, train_here: Train) -> None:
    """The first loss is the base's to the bit: nothing is changed yet, and no random number of the run is used. Of
    "orthogonal" the product is 0 up to rounding, while no rank is dropped."""
    quick = {**SETTINGS, "training__max_train_steps": 1, "network__rank_dropout": 0}
    digests, first = set(), {}
    for name, keys in {"default": {}, **HOW}.items():
        run = make_run(name.replace("-", ""), **quick, **keys)
        assert train_here(run) == ExitCode.DONE
        digests.add(digest(run))
        first[name] = losses(run)[0]
    assert len(digests) == 1 + len(HOW)
    assert first.pop("orthogonal") == pytest.approx(first["default"], rel=1e-5)
    assert len({*first.values()}) == 1, first


@pytest.mark.parametrize("key_format", ["kohya", "diffusers", pytest.param("comfy", marks=pytest.mark.soak)])
def test_a_file_is_continued_by_the_same_setting_and_by_a_usual_lora(
    key_format: str, make_run: MakeRun, train_here: Train
) -> None:
    settings = {**SETTINGS, "training__max_train_steps": 3, "network__scale_weight_norms": "none"}
    first = make_run("first", **settings, **HOW["pissa"], saving__key_format=key_format)
    assert train_here(first) == ExitCode.DONE
    quick = {
        **settings, "training__max_train_steps": 1, "network__network_weights": first.lora_path(),
        "training__unet_lr": 1e-9, "training__text_encoder_lr": 1e-9,
    }  # fmt: skip
    changed = deltas(first.lora_path()) if key_format == "kohya" else None
    for place, keys in {
        "same": HOW["pissa"],
        "usual": {"network__network_dim": 8, "network__conv_dim": 4},
        "from the file": {**HOW["pissa"], "network__dim_from_weights": True},
    }.items():
        if key_format != "kohya" and place != "same":
            continue
        run = make_run(place, **{**quick, **keys})
        assert train_here(run) == ExitCode.DONE, place
        after = deltas(run.lora_path())
        assert inspect_lora(run.lora_path()).ranks.keys() == {"8", "4"}
        for name, delta in (changed or after).items():
            torch.testing.assert_close(after[name], delta, atol=1e-5, rtol=1e-3)
    wrong = make_run("wrong", **{**quick, **HOW["pissa"], "network__network_dim": 8})
    assert train_here(wrong) == ExitCode.BAD_DATA
    assert events(wrong, "error")[-1].data["code"] == "lora-wrong-shape"


def deltas(path: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(path)
    names = {key.partition(".")[0] for key in tensors}
    return {
        name: tensors[f"{name}.lora_up.weight"].flatten(1) @ tensors[f"{name}.lora_down.weight"].flatten(1)
        * (tensors[f"{name}.alpha"] / len(tensors[f"{name}.lora_down.weight"]))
        for name in names
    }  # fmt: skip


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Settings of a model of each other family."""
    flux = tiny_files(tmp_path_factory.mktemp("flux"), blocks=(1, 1)).settings
    more = {"model__t5xxl_max_token_length": 16, "training__text_encoder_lr": 0, "network__conv_dim": "none"}
    return {
        "SDXL": {"model__pretrained_model_name_or_path": tiny_sdxl(tmp_path_factory.mktemp("xl"), file=True)},
        "FLUX": {**{f"model__{key}": value for key, value in flux.items()}, **more},
    }


@pytest.mark.parametrize("family", ["SDXL", "FLUX"])
@pytest.mark.parametrize("name", ["eva", "both"])
def test_other_families(
    family: str, name: str, others: dict[str, dict[str, object]], make_run: MakeRun, train_here: Train
) -> None:
    run = make_run(**{**SETTINGS, "training__max_train_steps": 2, **others[family], **HOW[name]})
    assert train_here(run) == ExitCode.DONE
    assert events(run, "saved")[-1].data["difference"] < 2e-3


@pytest.mark.parametrize("name", ["both", pytest.param("eva", marks=pytest.mark.soak)])
def test_separate_layers_of_flux_and_split_mode(
    name: str, others: dict[str, dict[str, object]], make_run: MakeRun, train_here: Train, monkeypatch: Any
) -> None:
    more = {"flux__split_qkv": True, "memory__split_mode": True, "memory__gradient_checkpointing": True}
    runs = [make_run(place, **{**SETTINGS, **others["FLUX"], **HOW[name], **more}) for place in ("straight", "halted")]
    assert train_here(runs[0]) == ExitCode.DONE
    halted_at(3, monkeypatch, train_here, runs[1])
    assert digest(runs[0]) == digest(runs[1])
    ranks = inspect_lora(runs[0].lora_path()).ranks
    assert {"24" if name == "both" else "12"} <= ranks.keys()


def test_eva_finds_the_directions_of_all_inputs() -> None:
    """In bounded memory: as numpy's SVD of all inputs together, where a few directions stand out."""
    _, network = attach(TARGETS["linear"], how="default", begin=False)
    (module,) = network.modules
    generator = np.random.default_rng(0)
    directions = np.linalg.qr(generator.normal(size=(8, 3)))[0] * [9, 4, 2]
    batches = [generator.normal(size=(2, 50, 3)) @ directions.T + generator.normal(size=(2, 50, 8)) * 0.01
               for _ in range(20)]  # fmt: skip
    sketch = InputSketch(module)  # type: ignore[arg-type]
    for batch in batches:
        sketch.add(torch.from_numpy(batch).float())
        assert sketch._rows is not None and len(sketch._rows) <= 6
    with torch.no_grad():
        assert sketch.set_down() == 3
    expected = np.linalg.svd(np.concatenate([batch.reshape(-1, 8) for batch in batches]), full_matrices=False)[2][:3]
    mine = module.parameters[0].detach().numpy()
    np.testing.assert_allclose(np.abs(mine @ expected.T), np.eye(3), atol=1e-3)


def test_eva_reads_patches_of_convolutions_and_keeps_values_where_there_are_few_inputs() -> None:
    _, network = attach(TARGETS["conv"], how="default", begin=False)
    (module,) = network.modules
    before = module.parameters[0].detach().clone()
    sketch, image = InputSketch(module), torch.zeros(1, 4, 3, 3)  # type: ignore[arg-type]
    image[0, 2, 1, 1] = 5.0  # with a margin of 1 each output sees it at another place of its kernel
    sketch.add(image)
    with torch.no_grad():
        assert sketch.set_down() == 3
    rows = module.parameters[0].detach().flatten(1)
    assert not rows.view(3, 4, 9)[:, [0, 1, 3]].any() and rows.norm(dim=1).allclose(torch.ones(3))
    large = torch.rand(3, 4, 64, 64)
    seen = _patches(large, module.layers[0].lora_A["default"])
    assert 256 <= len(seen) < 4 * 256 and seen.shape[1] == 36
    assert torch.equal(seen[1].view(4, 3, 3)[:, 1:], large[0, :, :2, 5:8]), "the second place, 6 to the right"
    _, network = attach(TARGETS["linear"], how="default", begin=False)
    (module,) = network.modules
    before = module.parameters[0].detach().clone()
    sketch = InputSketch(module)  # type: ignore[arg-type]
    sketch.add(torch.tensor([[0.0, 3, 0, 4, 0, 0, 0, 0]]))
    with torch.no_grad():
        assert sketch.set_down() == 1
    assert module.parameters[0][0].abs().tolist() == pytest.approx([0, 0.6, 0, 0.8, 0, 0, 0, 0])
    assert torch.equal(module.parameters[0][1:], before[1:])


def test_eva_sees_the_run_s_own_batches_once(make_run: MakeRun, train_here: Train, monkeypatch: Any) -> None:
    calls: list[int] = []
    original = first_values.batch_loss

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(len(args[2].captions))
        return original(*args, **kwargs)

    monkeypatch.setattr(first_values, "batch_loss", counted)
    run = make_run(**{**SETTINGS, **HOW["eva"]})
    halted_at(2, monkeypatch, train_here, run)
    assert sum(calls) == 4 * 2, "4 updates have 4 batches of 2; a resume reads none"
    assert any(event.data["text"].startswith("EVA") for event in events(run, "note"))


def test_a_stop_before_the_first_step_leaves_nothing_half_done(
    make_run: MakeRun, train_here: Train, monkeypatch: Any
) -> None:
    straight, halted = (make_run(place, **SETTINGS, **HOW["pissa"]) for place in ("straight", "halted"))
    assert train_here(straight) == ExitCode.DONE
    original: Callable[..., None] = first_values.begin_with_base

    def stopping(*args: Any) -> None:
        original(*args)
        sessions[-1].request_stop("test")

    sessions: list[Any] = []
    set_values = first_values.set_first_values

    def recorded(session: Any, *args: Any) -> None:
        sessions.append(session)
        set_values(session, *args)

    with monkeypatch.context() as patch:
        patch.setattr(first_values, "begin_with_base", stopping)
        patch.setattr("engine.training.trainer.set_first_values", recorded)
        assert train_here(halted) == ExitCode.STOPPED
    assert not list(halted.checkpoints.glob("*"))
    assert train_here(halted) == ExitCode.DONE and digest(halted) == digest(straight)


def test_a_state_of_another_start_is_refused(make_run: MakeRun, train_here: Train) -> None:
    run = make_run(**{**SETTINGS, **HOW["pissa"], "training__max_train_steps": 2})
    assert train_here(run) == ExitCode.DONE
    text = run.config_path.read_text()
    run.config_path.write_text(
        text.replace('"pissa"', '"default"').replace("max_train_steps = 2", "max_train_steps = 4")
    )
    run.exit_path.unlink()
    assert train_here(run) == ExitCode.USAGE
    assert events(run, "error")[-1].data["code"] == "state-of-other-lora"


def test_gradient_checkpointing_changes_nothing(make_run: MakeRun, train_here: Train) -> None:
    keys = {**SETTINGS, **HOW["both"], "training__max_train_steps": 2}
    runs = [make_run(str(on), **keys, memory__gradient_checkpointing=on) for on in (False, True)]
    for run in runs:
        assert train_here(run) == ExitCode.DONE
    assert losses(runs[0]) == losses(runs[1])
    for mine, theirs in zip(
        load_file(runs[0].lora_path()).values(), load_file(runs[1].lora_path()).values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
