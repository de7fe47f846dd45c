"""Passes from a recording: what is recorded when, and that a run with recordings is the run without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from engine.config import RunConfig
from engine.exit_codes import ExitCode
from engine.runs import RunDir, read_events
from engine.training.batch_source import Batch
from engine.training.flat_update import update_layout
from engine.training.graphs import LIMIT, WARM_UP, GraphedPasses, Pass, why_not
from engine.training.objective import Noise
from engine.training.step import TrainStep
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.small_denoisers import SMALL


class Recorder:
    """Stands in for CUDA graphs: a recording computes nothing, a replay gives its loss in the same memory each time."""

    def __init__(self, damage: Callable[[Tensor], Tensor] = lambda loss: loss, refuse: str = "") -> None:
        self.recordings = self.replays = self.releases = 0
        self._damage, self._refuse = damage, refuse

    def capture(self, compute: Pass) -> Pass:
        if self._refuse:
            raise RuntimeError(self._refuse)
        self.recordings += 1
        memory = torch.zeros(())

        def replay() -> Tensor:
            self.replays += 1
            return memory.copy_(self._damage(compute()))

        return replay

    def release(self) -> None:
        self.releases += 1


class Sums:
    """Passes that add the latents to a gradient; they note the memory of their input."""

    def __init__(self, recorder: Recorder, *, exact: bool = True) -> None:
        self.gradient, self.messages, self.inputs = torch.zeros(3), list[str](), list[int]()
        self.passes = GraphedPasses(
            self.compute, lambda: [self.gradient], recorder, self.messages.append, exact=exact, wait=lambda: None
        )

    def compute(self, batch: Batch, parts: int) -> Tensor:
        self.inputs.append(batch.latents.data_ptr())
        self.gradient += batch.latents.sum() / parts
        return batch.latents.mean()

    def run(self, values: list[float], *, width: int = 2, parts: int = 1) -> list[float]:
        return [float(self.passes(batch(value, width), parts)) for value in values]


def batch(value: float, width: int = 2, *, mask: bool = False) -> Batch:
    latents = torch.full((1, 4, 2, width), value)
    return Batch(
        latents=latents,
        noise=Noise(torch.zeros_like(latents), torch.tensor([5]), None),
        captions=["a"],
        tokens={},
        text={"states": torch.zeros(1, 2)},
        weights=torch.ones(1),
        mask=torch.ones(1, 1, 2, width) if mask else None,
        sizes=torch.zeros(1, 6),
    )


def test_a_shape_is_recorded_after_some_passes_and_then_replayed_on_its_own_memory() -> None:
    recorder = Recorder()
    sums, values = Sums(recorder), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert sums.run(values) == values
    assert torch.equal(sums.gradient, torch.full((3,), sum(values) * 16))
    assert recorder.recordings == 1 and recorder.replays == len(values) - WARM_UP
    assert len(set(sums.inputs[WARM_UP:])) == 1
    assert sums.messages == ["Training steps are launched as CUDA graphs, one for each shape of a batch."]


def test_every_shape_and_every_number_of_batches_has_a_recording_of_its_own() -> None:
    recorder = Recorder()
    sums = Sums(recorder)
    for _ in range(WARM_UP + 2):
        sums.run([1.0])
        sums.run([1.0], width=3)
        sums.run([1.0], parts=2)
        sums.passes(batch(1.0, mask=True), 1)
    assert recorder.recordings == 4 and len(sums.messages) == 1


def test_only_so_many_shapes_are_recorded() -> None:
    recorder = Recorder()
    sums = Sums(recorder)
    for width in range(1, LIMIT + 4):
        assert sums.run([2.0] * (WARM_UP + 2), width=width) == [2.0] * (WARM_UP + 2)
    assert recorder.recordings == LIMIT


@pytest.mark.parametrize(
    ("recorder", "exact", "reason"),
    [
        (Recorder(lambda loss: loss + 1e-6), True, "a replay did not give the same bytes"),
        (Recorder(lambda loss: loss * 1.1), False, "a replay gave other values"),
        (Recorder(lambda loss: loss * torch.nan), False, "a replay gave other values"),
        (Recorder(refuse="operation not permitted when stream is capturing\nmore"), True,
         "operation not permitted when stream is capturing"),
        (Recorder(refuse="CUDA out of memory."), True, "there is not enough memory"),
    ],
)  # fmt: skip
def test_without_a_right_recording_the_run_continues_and_logs_that_once(
    recorder: Recorder, exact: bool, reason: str
) -> None:
    sums, values = Sums(recorder, exact=exact), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert sums.run(values) == values
    assert sums.run(values, width=3) == values
    assert torch.equal(sums.gradient, torch.full((3,), sum(values) * (16 + 24)))
    assert sums.messages == [f"Training steps are not launched as CUDA graphs: {reason}."]
    assert recorder.recordings <= 1


def test_a_pass_that_is_not_finite_is_not_what_a_recording_is_compared_with() -> None:
    recorder = Recorder()
    sums = Sums(recorder)
    sums.run([1.0] * WARM_UP)
    assert sums.run([float("inf")]) == [float("inf")] and recorder.recordings == 0
    sums.gradient.fill_(torch.inf)  # fp16's scale was too large
    assert sums.run([1.0]) == [1.0] and recorder.recordings == 0
    sums.gradient.zero_()
    assert sums.run([2.0, 3.0]) == [2.0, 3.0] and recorder.recordings == 1
    assert len(sums.messages) == 1 and "launched as" in sums.messages[0]


def test_kernels_in_any_order_may_differ_a_little() -> None:
    recorder = Recorder(lambda loss: loss * 1.001)
    sums = Sums(recorder, exact=False)
    sums.run([1.0] * (WARM_UP + 3))
    assert recorder.replays == 3


class AtOnce(Recorder):
    """Computes while it records, as CUDA's does for the host."""

    def capture(self, compute: Pass) -> Pass:
        compute()
        return super().capture(compute)


@pytest.mark.parametrize("is_new", [False, True])
def test_compiled_blocks_are_recorded_if_they_are_compiled_before(is_new: bool) -> None:
    """A block that would be compiled while it is recorded is a reason for no recordings."""
    recorder, passes = AtOnce(), 0
    sums, values = Sums(recorder), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    compute, compiled = sums.compute, torch.compile(lambda x: x + 0, backend="eager", dynamic=False)

    def with_a_block(batch: Batch, parts: int) -> Tensor:
        nonlocal passes
        passes += 1
        compiled(torch.ones(passes if is_new else 2))
        return compute(batch, parts)

    sums.passes._compute = with_a_block
    assert sums.run(values) == values
    assert torch.equal(sums.gradient, torch.full((3,), sum(values) * 16))
    assert recorder.recordings == (0 if is_new else 1)
    (message,) = sums.messages
    assert message.startswith("Training steps are " + ("not launched" if is_new else "launched"))
    assert not is_new or "recompile" in message


def test_another_phase_gets_the_memory_and_the_next_batch_is_recorded_anew() -> None:
    recorder = Recorder()
    sums = Sums(recorder)
    sums.passes.release()
    assert recorder.releases == 0
    sums.run([1.0] * (WARM_UP + 2))
    sums.passes.release()
    sums.passes.release()
    assert recorder.releases == 1
    assert sums.run([3.0, 4.0]) == [3.0, 4.0] and recorder.recordings == 2


CLIP: dict[str, Any] = {
    "vocab_size": 8,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
REASONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {}, ""),
    ({}, {"device": torch.device("cpu")}, "it is a run on the CPU"),
    ({}, {"updates": 100}, "the run has fewer than 200 steps"),
    ({"memory": {"cuda_graphs": "on"}}, {"updates": 100}, ""),
    ({"training": {"num_processes": 2}}, {}, "several processes train"),
    ({"memory": {"split_mode": True}}, {}, "split mode moves the weights"),
    ({"memory": {"cpu_offload_checkpointing": True}}, {}, "activations are in the host's memory"),
    ({"memory": {"cache_latents": False}}, {}, "images are encoded in each step"),
    ({}, {"tokenises": True}, "captions are tokenised in each step"),
    ({}, {"parts": [nn.Sequential(nn.Dropout(0.0)), nn.Sequential(nn.Dropout(0.1))]},
     "dropouts of the model draw random numbers in each step"),
    ({}, {"parts": [CLIPTextModel(CLIPTextConfig(**CLIP, attention_dropout=0.1))]},
     "dropouts of the model draw random numbers in each step"),
    ({}, {"parts": [CLIPTextModel(CLIPTextConfig(**CLIP))]}, ""),
    ({"network": {"rank_dropout": 0.1}}, {}, "dropouts draw random numbers in each step"),
    ({"training": {"kohya_exact": True}}, {}, "kohya_exact computes under autocast"),
    ({"training": {"optimizer_type": "pytorch_optimizer.Lamb"}}, {},
     "gradients have no memory that stays in place"),
]  # fmt: skip


@pytest.mark.parametrize(("tables", "facts", "reason"), REASONS)
def test_which_runs_are_recorded(tables: dict[str, Any], facts: dict[str, Any], reason: str) -> None:
    values = {**tables, "memory": {"cuda_graphs": "auto", **tables.get("memory", {})}}
    config = RunConfig().changed(**values)
    layout = update_layout(SMALL["unet"]().climb().network, config, torch.bfloat16)
    usual = {"device": torch.device("cuda"), "updates": 1000, "parts": [], "tokenises": False}
    assert why_not(config, layout, **{**usual, **facts}) == reason


@pytest.mark.parametrize(
    "text",
    [
        {"network__network_train_unet_only": True, "memory__cache_text_encoder_outputs": True},
        {"network__network_train_unet_only": True},
        {"training__text_encoder_lr": 1e-3, "model__clip_skip": 2, "memory__gradient_checkpointing": True},
    ],
)
def test_a_run_from_recordings_is_the_run_without_them(
    make_run: MakeRun, train_here: Callable[[RunDir], int], monkeypatch: pytest.MonkeyPatch, text: dict[str, Any]
) -> None:
    """With accumulation, a shorter last update of an epoch, and samples between; with outputs of the text encoder that
    are cached, that each step computes, and of one that is trained but for its last layer."""
    settings = {
        **text,
        "training__gradient_accumulation_steps": 2,
        "training__max_train_steps": 20,
        "sampling__sample_every_n_steps": 16,
    }
    recorder, results = Recorder(), []
    plain = make_run("plain", **settings)
    assert train_here(plain) == ExitCode.DONE
    monkeypatch.setattr(
        Trainer, "_use_graphs", lambda self: self.train_step.use_graphs(recorder, self.session.log, exact=True)
    )
    recorded = make_run("recorded", **settings)
    assert train_here(recorded) == ExitCode.DONE
    for run in (plain, recorded):
        steps = [event for event in read_events(run.events_path) if event.type == "step"]
        losses = [(event.data["step"], event.data["loss"], event.data["grad_norm"]) for event in steps]
        results.append((losses, run.lora_path().read_bytes()))
    assert len(results[0][0]) == 20 and results[0] == results[1]
    assert recorder.recordings >= 2 and recorder.releases > 0 and recorder.replays > 8


def test_after_a_step_that_is_not_finite_nothing_is_replayed_that_was_recorded_before(
    make_run: MakeRun, train_here: Callable[[RunDir], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernels may be other ones from there on (`CudnnAttention.give_up`)."""
    settings = {
        "network__network_train_unet_only": True,
        "memory__cache_text_encoder_outputs": True,
        "training__max_train_steps": 14,
        "sampling__sample_every_n_steps": 0,
    }
    loss_of, release, releases = TrainStep._loss_of, GraphedPasses.release, []
    for bad in (None, 12):
        recorder, calls = Recorder(), list[GraphedPasses]()

        def released(self: GraphedPasses, calls: list[GraphedPasses] = calls) -> None:
            calls.append(self)
            release(self)

        def loss(self: TrainStep, batch: Batch, bad: int | None = bad) -> Tensor:
            value = loss_of(self, batch)
            return value * torch.nan if self.state.step == bad else value

        def use(self: Trainer, recorder: Recorder = recorder) -> None:
            self.train_step.use_graphs(recorder, self.session.log, exact=True)

        monkeypatch.setattr(GraphedPasses, "release", released)
        monkeypatch.setattr(TrainStep, "_loss_of", loss)
        monkeypatch.setattr(Trainer, "_use_graphs", use)
        assert train_here(make_run(f"bad {bad}", **settings)) == ExitCode.DONE
        assert recorder.replays > 0
        releases.append(len(calls))
    assert releases[1] == releases[0] + 1
