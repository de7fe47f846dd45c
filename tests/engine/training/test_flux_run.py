"""FLUX.1 through the whole path on the CPU: train, save, read back, resume to the byte, draw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from engine.adapters.inspect import inspect_lora
from engine.exit_codes import ExitCode
from engine.models.header import read_header
from engine.runs.events import read_events
from engine.runs.layout import RunDir
from engine.training.step import TrainStep
from engine.training.trainer import Trainer
from tests.soak import mostly_soaked
from tests.tiny_flux import FluxFiles, tiny_files

KEYS = {
    "dataset__min_bucket_reso": 32,
    "dataset__bucket_reso_steps": 16,
    "training__max_train_steps": 4,
    "saving__save_state_every_n_steps": 2,
    "sampling__sample_every_n_steps": 4,
    "sampling__sample_at_first": False,
    "model__t5xxl_max_token_length": 16,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FluxFiles:
    return tiny_files(tmp_path_factory.mktemp("flux"), blocks=(1, 2))


@pytest.fixture
def flux_run(make_run: Any, files: FluxFiles) -> Callable[..., RunDir]:
    def make(place: str = "out", **overrides: object) -> RunDir:
        model = {f"model__{key}": value for key, value in files.settings.items()}
        run: RunDir = make_run(place, **{**model, **KEYS, **overrides})
        return run

    return make


def counts(path: Path) -> tuple[int, int]:
    names = {key.partition(".")[0] for key in read_header(path).tensors}
    return sum(name.startswith("lora_unet_") for name in names), sum(name.startswith("lora_te1_") for name in names)


def test_memory_that_runs_out_while_clip_l_is_trained_alone(
    flux_run: Any, train_here: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The presets cache T5's outputs, which is no contradiction here: the end is reported with what can be done."""

    def refused(_: object) -> None:
        raise RuntimeError("can't allocate memory: you tried to allocate 99999999999999 bytes")

    monkeypatch.setattr(TrainStep, "__call__", refused)
    run = flux_run(
        network__network_train_text_encoder_only=True, training__text_encoder_lr=1e-5,
        memory__cache_text_encoder_outputs=True, sampling__sample_every_n_steps=0,
    )  # fmt: skip
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    ending = json.loads(run.exit_path.read_text())
    assert ending["exit_code"] == ExitCode.OUT_OF_MEMORY and "--set training.train_batch_size=1" in ending["hint"]
    assert [event.type for event in read_events(run.events_path)][-3:] == ["oom", "error", "run_finished"]


def test_the_whole_path(flux_run: Any, train_here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = flux_run(
        training__loss_type="huber", training__min_snr_gamma=5, dataset__validation_split=0.3,
        training__max_check_share=1,
    )  # fmt: skip
    assert train_here(run) == 0
    events = list(read_events(run.events_path))
    saved = next(event for event in events if event.type == "saved" and event.get("path") == str(run.lora_path()))
    assert saved.get("difference") < 1e-2
    assert counts(run.lora_path()) == (10 + 2 * 3, 0)
    assert any(event.type == "validation" and event.get("loss") > 0 for event in events)
    assert any(event.type == "measures" and 0 < event.get("bleed") < 1 for event in events)
    images = list(run.samples.glob("*.png"))
    assert len(images) == 1
    metadata = read_header(run.lora_path()).metadata
    assert metadata["ss_base_model_version"] == "flux1"
    assert metadata["ss_network_module"] == "networks.lora_flux"
    assert metadata["modelspec.architecture"] == "flux-1-dev/lora"
    assert metadata["ss_timestep_sampling"] == "shift"
    assert metadata["ss_min_snr_gamma"] == "None"
    lines = capsys.readouterr().out.splitlines()
    for start in (
        "FLUX.1 dev: it has a guidance embedding",
        "training.min_snr_gamma has no effect",
        "The text encoders are not trained",
        "huber_schedule is constant",
        "T5's outputs are cached and T5 is freed",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, start


def test_a_resume_gives_the_same_bytes(flux_run: Any, train_here: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    straight, halted = (flux_run(place, sampling__sample_every_n_steps=0) for place in ("straight", "halted"))
    assert train_here(straight) == ExitCode.DONE
    advance = Trainer.advance

    def stop_at_three(self: Trainer) -> bool:
        if self.step == 3:
            self.session.stop_reason = "test"
        return advance(self)

    monkeypatch.setattr(Trainer, "advance", stop_at_three)
    assert train_here(halted) == ExitCode.STOPPED
    monkeypatch.setattr(Trainer, "advance", advance)
    assert train_here(halted) == ExitCode.DONE
    assert halted.lora_path().read_bytes() == straight.lora_path().read_bytes()


def test_clip_can_be_trained_beside_cached_t5_outputs(
    flux_run: Any, train_here: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = flux_run(
        training__text_encoder_lr=1e-4, memory__cache_text_encoder_outputs=True, memory__gradient_checkpointing=True
    )
    assert train_here(run) == 0
    assert counts(run.lora_path()) == (16, 12)
    tensors = load_file(run.lora_path())
    assert all(tensor.any() for key, tensor in tensors.items() if key.endswith("lora_up.weight"))
    assert "\nCLIP-L is trained" in capsys.readouterr().out
    assert len(list(run.samples.glob("*.png"))) == 1


def test_on_a_base_of_four_bits_in_split_mode(
    flux_run: Any, train_here: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saved file passes its check on codes that wait on the host."""
    run = flux_run(memory__base_precision="nf4", memory__split_mode=True, memory__cpu_offload_checkpointing=True)
    assert train_here(run) == 0
    saved = [event for event in read_events(run.events_path) if event.type == "saved"]
    assert saved and saved[-1].get("difference") < 1e-2
    output = capsys.readouterr().out
    assert "transformer, base_precision nf4: 4 in int8, 22 in nf4; " in output
    assert "Split mode: 3 of 3 blocks" in output


@pytest.mark.parametrize("precision", ["int8_w8a8", "fp8_w8a8"])
def test_with_products_in_8_bits_in_split_mode(
    precision: str, flux_run: Any, train_here: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained, sampled and saved; T5 only stores 8 bits. The check of the file computes with decoded weights."""
    run = flux_run(memory__base_precision=precision, memory__split_mode=True, memory__gradient_checkpointing=True)
    assert train_here(run) == 0
    saved = [event for event in read_events(run.events_path) if event.type == "saved"]
    assert saved and saved[-1].get("difference") < 1e-2
    output, stored = capsys.readouterr().out, precision.removesuffix("_w8a8")
    assert f"transformer, base_precision {precision}: 4 in {stored}, 22 in {precision}; " in output
    assert f"text_encoder_2, base_precision {stored}: " in output


OTHER_KINDS: dict[str, dict[str, object]] = {
    "lokr": {"factor": 4}, "loha": {}, "glora": {}, "full": {}, "diag-oft": {"constraint": 0.01},
    "boft": {"network_dim": 64}, "ia3": {}, "lora": {"use_scalar": True},
}  # fmt: skip


@pytest.mark.parametrize("algo", mostly_soaked(OTHER_KINDS, ["lokr"]))
def test_other_kinds_on_a_quantised_base_in_split_mode(
    algo: str, flux_run: Any, train_here: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """With checkpointing and CLIP-L; a file starts another run, which has the layers and sizes of it."""
    settings = {f"network__{key}": value for key, value in OTHER_KINDS[algo].items()}
    small = {"sampling__sample_every_n_steps": 0, "training__max_train_steps": 2, "saving__save_precision": "float"}
    run = flux_run(
        network__algo=algo, memory__base_precision="int8", memory__split_mode=True, memory__gradient_checkpointing=True,
        training__text_encoder_lr=1e-4, **settings, **small,
    )  # fmt: skip
    assert train_here(run) == 0
    (saved,) = [event for event in read_events(run.events_path) if event.type == "saved"]
    assert saved.get("difference") < 1e-2
    report = inspect_lora(run.lora_path())
    assert report.base == "FLUX" and report.problems == [] and report.no_start is None
    output = capsys.readouterr().out
    assert report.metadata["ss_network_module"] == "lycoris.kohya" and "A1111 (it has no FLUX)" in output
    assert ("rounded to int8 here" in output) == (algo in ("glora", "diag-oft", "boft", "ia3"))
    again = flux_run(
        "again", network__algo=algo, network__network_weights=run.lora_path(), network__dim_from_weights=True,
        training__learning_rate=1e-12, training__text_encoder_lr=1e-12, **small,
    )  # fmt: skip
    assert train_here(again) == 0
    before, after = load_file(run.lora_path()), load_file(again.lora_path())
    assert before.keys() == after.keys()
    assert all((after[key] - before[key]).abs().max() < 1e-6 for key in before)


def test_a_run_goes_on_from_a_file_of_another_run(flux_run: Any, train_here: Any) -> None:
    quiet = {"sampling__sample_every_n_steps": 0, "training__max_train_steps": 1}
    first = flux_run("first", network__network_dim=2, **quiet)
    assert train_here(first) == ExitCode.DONE
    second = flux_run(
        "second",
        network__network_weights=first.lora_path(),
        network__dim_from_weights=True,
        training__learning_rate=1e-12,
        saving__save_precision="float",
        **quiet,
    )
    assert train_here(second) == ExitCode.DONE
    expected, other = (load_file(run.lora_path()) for run in (first, second))
    assert expected.keys() == other.keys()
    for key, tensor in expected.items():
        assert other[key].sub(tensor.float()).abs().max() < 1e-6, key
