"""Out of memory for real: told with numbers, nothing lost, and the first remedy brings the run to its end."""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.errors import ModelError
from engine.exit_codes import ExitCode
from engine.runs import RunDir, prepare_resume, read_events
from engine.training import trainer as trainer_module
from engine.training.statefile import load_tree
from engine.training.step import TrainStep
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun, start
from tests.forked import ForkedTrainer
from tests.memory_limit import peak_address_space

Train = Callable[[RunDir], int]
HEADROOM = 256 * 2**20
"""Above what a batch of one needs; a batch of 32 needs about 850 MiB more."""
NO_SAMPLES = {"sampling__sample_every_n_steps": 0, "saving__save_every_n_epochs": 0}


def events(run: RunDir, kind: str) -> list[dict[str, object]]:
    return [dict(event.data) for event in read_events(run.events_path) if event.type == kind]


def state_steps(run: RunDir) -> list[int]:
    """Steps of the states on disk, each of them whole."""
    paths = sorted(run.checkpoints.iterdir())
    assert all(load_tree(path) is not None for path in paths)
    return [int(path.stem.removeprefix("state-")) for path in paths]


@pytest.fixture
def two_shapes(tmp_path: Path) -> Path:
    """One wide image that comes twice an epoch and one square that comes 32 times: two batches an epoch."""
    for repeats, size in ((2, (192, 64)), (32, (128, 128))):
        folder = tmp_path / "shapes" / f"{repeats}_zed"
        folder.mkdir(parents=True)
        Image.new("RGB", size, (90, 120, 60)).save(folder / "image.png")
    return tmp_path / "shapes"


@pytest.mark.slow  # a trainer that starts over
@pytest.mark.timeout(600)
def test_it_runs_out_and_goes_on_by_itself(make_run: MakeRun, two_shapes: Path) -> None:
    settings = {
        **NO_SAMPLES,
        "dataset__train_data_dir": two_shapes,
        "dataset__num_repeats": "none",
        "dataset__resolution": 128,
        "saving__save_state_every_n_steps": 0,
        "memory__num_cpu_threads_per_process": 1,
        "memory__on_oom": "auto",
    }
    small = make_run("small", **settings, training__train_batch_size=1, training__max_train_steps=1)
    limit = peak_address_space(start(small)) + HEADROOM
    assert (small.path / "zed.safetensors").is_file(), small.log_path.read_text()[-3000:]

    # With this seed the small batch of the first epoch comes first.
    run = make_run(**settings, training__train_batch_size=32, training__max_train_steps=2, training__seed=4)
    process = ForkedTrainer(run, partial(resource.setrlimit, resource.RLIMIT_AS, (limit, limit)))
    assert process.wait(timeout=300) == ExitCode.DONE, run.log_path.read_text()[-3000:]
    (oom,) = events(run, "oom")
    assert (oom["phase"], oom["step"], oom["device"], oom["total"]) == ("train", 1, "cpu", limit)
    requested, free, reserved, allocated = (oom[key] for key in ("requested", "free", "reserved", "allocated"))
    assert isinstance(requested, int) and 0 < requested < limit and (free is None or free < requested)
    assert isinstance(reserved, int) and isinstance(allocated, int) and 0 < allocated < reserved <= limit
    assert "allocate" in str(oom["message"]) and "\n" not in str(oom["message"])
    (retry,) = events(run, "retry")
    assert retry["remedy"] == "smaller_batch" and retry["step"] == 1
    assert [start["pid"] for start in events(run, "run_started")] == [process.pid, process.pid]
    kinds = [event.type for event in read_events(run.events_path)]
    order = [kinds.index(kind) for kind in ("oom", "retry", "saved", "run_finished")]
    assert order == sorted(order) and "error" not in kinds
    assert "Resumed at step 1 from state-00000001.safetensors." in [note["text"] for note in events(run, "note")]
    assert [step["step"] for step in events(run, "step")] == [1, 2]
    assert "From step 2 on images come in another order, 1 at a time; a step still takes 32." in [
        note["text"] for note in events(run, "note")
    ]
    assert inspect_lora(run.lora_path()).modules
    assert events(run, "saved")[-1]["difference"] is not None


def no_memory(*_: object, **__: object) -> None:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99999999999999 bytes.")


@pytest.mark.parametrize(
    ("phase", "where"),
    [
        ("load", "engine.training.prepare.apply_memory_settings"),
        ("cache", "engine.training.prepare._latents"),
        ("save", "engine.training.lora_files.write_lora"),
        ("validate", "engine.training.measuring.Meter.losses"),
    ],
)
def test_every_phase_is_reported(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch, phase: str, where: str
) -> None:
    """And an out-of-memory before the first state is as good a start for a resume as any."""
    run = make_run(**NO_SAMPLES, training__max_train_steps=1, dataset__validation_split=0.2)
    with monkeypatch.context() as broken:
        broken.setattr(where, no_memory)
        assert train_here(run) == ExitCode.OUT_OF_MEMORY
    (oom,) = events(run, "oom")
    assert oom["phase"] == phase and oom["requested"] == 99999999999999
    prepare_resume(run, changes={"memory.gradient_checkpointing": True})
    assert train_here(run) == ExitCode.DONE
    assert run.lora_path().is_file()


def test_outside_of_any_phase(make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "prepare", no_memory)
    run = make_run()
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    assert events(run, "oom")[0]["phase"] == "start"


def test_behind_another_error(make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model file that cannot be mapped for want of memory is not a broken model file."""

    def unreadable(*_: object) -> None:
        raise ModelError("model.safetensors cannot be read.", "Check it.") from OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("engine.training.prepare.family_named", unreadable)
    assert train_here(make_run()) == ExitCode.OUT_OF_MEMORY


def test_in_the_middle_of_an_update_the_older_state_stays_the_last(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An optimizer that ran out has changed some weights and not others: those are not saved."""
    run = make_run(**NO_SAMPLES, training__max_train_steps=6, saving__save_state_every_n_steps=2)
    step, calls = torch.optim.AdamW.step, []

    def failing(self: torch.optim.AdamW, *arguments: object) -> None:
        step(self, *arguments)  # type: ignore[arg-type]
        calls.append(self)
        if len(calls) == 4:
            no_memory()

    with monkeypatch.context() as broken:
        broken.setattr(torch.optim.AdamW, "step", failing)
        assert train_here(run) == ExitCode.OUT_OF_MEMORY
    assert events(run, "oom")[0]["step"] == 3 and state_steps(run) == [0, 2]


def test_the_saved_step_is_the_same_as_without_running_out(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out between two saved states, and the resumed run ends with the bytes of an uninterrupted one."""
    straight, halted = (make_run(place, **NO_SAMPLES, training__max_train_steps=6) for place in ("straight", "halted"))
    assert train_here(straight) == ExitCode.DONE
    loss, calls = TrainStep.loss, []

    def failing(self: TrainStep, micro: int) -> torch.Tensor:
        calls.append(micro)
        if len(calls) == 4:
            no_memory()
        return loss(self, micro)

    with monkeypatch.context() as broken:
        broken.setattr(TrainStep, "loss", failing)
        assert train_here(halted) == ExitCode.OUT_OF_MEMORY
    assert state_steps(halted) == [0, 3]
    prepare_resume(halted)
    assert train_here(halted) == ExitCode.DONE
    assert halted.lora_path().read_bytes() == straight.lora_path().read_bytes()


def test_a_state_that_memory_does_not_suffice_to_read_is_not_damaged(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(**NO_SAMPLES, training__max_train_steps=2)
    assert train_here(run) == ExitCode.DONE
    kept = state_steps(run)

    def refuse(*_: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("engine.training.statefile.safe_open", refuse)
    assert train_here(run) == ExitCode.OUT_OF_MEMORY
    monkeypatch.undo()
    assert state_steps(run) == kept and not events(run, "warning")


def test_a_batch_size_changed_inside_an_epoch(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two buckets of 8 and 4 items: five batches of 3 an epoch, two of them short, but four steps of 3 one by one."""
    run = make_run(
        sampling__sample_every_n_steps=0, training__train_batch_size=3, training__max_train_epochs=2,
        dataset__shuffle_caption=True, network__network_train_unet_only=True, memory__cache_text_encoder_outputs=True,
    )  # fmt: skip
    advance = Trainer.advance

    def stop_at_seven(self: Trainer) -> bool:
        self.session.stop_reason = "test" if self.step == 7 else ""
        return advance(self)

    with monkeypatch.context() as stopping:
        stopping.setattr(Trainer, "advance", stop_at_seven)
        assert train_here(run) == ExitCode.STOPPED
    first_epoch = (run.path / "zed-000001.safetensors").read_bytes()
    prepare_resume(run, changes={"training.train_batch_size": 1, "training.gradient_accumulation_steps": 3})
    assert train_here(run) == ExitCode.DONE
    steps = [(step["step"], step["epoch"]) for step in events(run, "step")]
    assert steps == [*((step, 1) for step in range(1, 6)), *((step, 2) for step in range(6, 11))]
    assert any(
        "continues at step 2 of 4 in epoch 2, and ends after step 10" in str(n["text"]) for n in events(run, "note")
    )
    assert (run.path / "zed-000001.safetensors").read_bytes() == first_epoch, "the first epoch ended once"
    assert run.lora_path().is_file()


def test_a_later_value_of_the_file_counts_more_than_what_was_set_before(
    make_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that was set while the run continued stays through a change of other settings; an interval gives way."""
    run = make_run(**NO_SAMPLES, training__max_train_steps=6, training__lr_scheduler="constant")
    advance = Trainer.advance

    def setting(self: Trainer) -> bool:
        if self.step == 1 and not self.state.progress.applied:
            self.changes.request("training.unet_lr", 2e-3)
            self.changes.request("saving.save_state_every_n_steps", 50)
        self.session.stop_reason = "test" if self.step == 3 else ""
        return advance(self)

    with monkeypatch.context() as live:
        live.setattr(Trainer, "advance", setting)
        assert train_here(run) == ExitCode.STOPPED
    prepare_resume(run, changes={"memory.gradient_checkpointing": True, "saving.save_state_every_n_steps": 5})
    assert train_here(run) == ExitCode.DONE
    assert events(run, "step")[-1]["lr"] == {"text_encoder": 1e-3, "unet": 2e-3}
    assert any("set while the run trained, gives way" in str(note["text"]) for note in events(run, "note"))
    assert state_steps(run) == [5, 6]
