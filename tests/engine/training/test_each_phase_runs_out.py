"""Real out-of-memory in caching, sampling and saving, by a limit on the address space that holds from the beginning of
the phase to the end of the run. For the training step see test_out_of_memory.py."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, PROT_READ, mmap
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.runs import RunDir, read_events
from engine.training.samples import Samples
from engine.training.session import Session
from engine.types import SampleRequest
from tests.engine.training.conftest import MakeRun
from tests.forked import ForkedTrainer

MIB = 2**20


def address_space(name: str) -> int:
    """VmSize or VmPeak of this process, in bytes."""
    (expected,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(expected.split()[1]) * 1024


def limit_to(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def limit_a_phase(name: str, headroom: int, held: int = 0) -> None:
    """From the beginning of a phase on, this process may grow by `headroom`; a new start by `held` bytes more."""
    phase, kept = Session.phase, []

    @contextmanager
    def limited(self: Session, entered: str, **facts: Any) -> Iterator[None]:
        with phase(self, entered, **facts):
            if entered == name:
                if held:
                    kept.append(mmap(-1, held, MAP_PRIVATE | MAP_ANONYMOUS, PROT_READ))
                limit_to(address_space("VmSize") + headroom)
            yield

    Session.phase = limited  # type: ignore[method-assign]


def limit_samples(between: int) -> None:
    """The limit is half-way between what an image takes in less memory and as a whole, measured just before. The two
    must differ by `between`."""
    image, drawn = Samples._image, []

    def measured(self: Samples, request: SampleRequest) -> Image.Image:
        if not drawn:
            drawn.append(self._model.generate(request, low_memory=True))
            low_memory = address_space("VmPeak")
            drawn.append(self._model.generate(request))
            whole = address_space("VmPeak")
            assert whole - low_memory > between, (low_memory, whole)
            limit_to((low_memory + whole) // 2)
        return image(self, request)

    Samples._image = measured  # type: ignore[method-assign]


def story(run: RunDir, *kinds: str) -> list[str]:
    """The events of these types in their order, with the phase or the remedy that they tell."""
    return [
        f"{event.type} {event.get('phase') or event.get('remedy') or event.get('state') or ''}".strip()
        for event in read_events(run.events_path)
        if event.type in kinds
    ]


def require_finished(run: RunDir, code: int, *expected: str) -> None:
    assert code == ExitCode.DONE, run.log_path.read_text()[-3000:]
    reported = story(run, "oom", "retry", "saved", "error", "run_finished")
    assert reported[: len(expected)] == list(expected), run.log_path.read_text()[-3000:]
    (oom,) = [event for event in read_events(run.events_path) if event.type == "oom"]
    assert "allocate" in str(oom.get("message")) and oom.get("total"), oom
    assert inspect_lora(run.lora_path()).modules
    difference = [event.get("difference") for event in read_events(run.events_path) if event.type == "saved"][-1]
    assert isinstance(difference, float) and difference < 0.01


QUIET = {
    "memory__on_oom": "retry", "sampling__sample_every_n_steps": 0, "saving__save_every_n_epochs": 0,
    "saving__save_state_every_n_steps": 0, "training__max_train_steps": 1, "training__train_batch_size": 1,
}  # fmt: skip


@pytest.mark.soak  # test_again.py has the remedy of this phase in a run whose process is not replaced
@pytest.mark.timeout(300)
def test_caching(make_run: MakeRun, tmp_path: Path) -> None:
    """24 images encoded at once do not fit: their first layer's output is 108 MiB, and its normalization wants two
    more of that size. One by one they do, and so does the training, in half of the headroom."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (192, 192), (number * 10, 90, 60)).save(folder / f"{number}.png")
    run = make_run(**QUIET, dataset__train_data_dir=folder, dataset__resolution=192, memory__vae_batch_size=24)
    code = ForkedTrainer(run, partial(limit_a_phase, "cache", 192 * MIB)).wait(300)
    require_finished(run, code, "oom cache", "retry encode_singly", "saved", "run_finished finished")
    assert load_config(run.config_path).memory.vae_batch_size == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sampling(make_run: MakeRun, tmp_path: Path) -> None:
    """An image of 192 px does not fit as a whole; in tiles and without guidance beside it does, and nothing begins
    anew. The VAE is wide at its end, where tiles spare most."""
    kind: Any = AutoencoderKL
    kind(
        block_out_channels=(96, 32, 32), down_block_types=("DownEncoderBlock2D",) * 3, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 3, sample_size=64,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    prompts = '["zed --w 192 --h 192 --s 1 --l 7"]'
    sampling = {"sampling__sample_every_n_steps": 1, "sampling__sample_prompts": prompts}
    run = make_run(**{**QUIET, **sampling}, sampling__sample_at_first="false", model__vae=tmp_path / "vae")
    code = ForkedTrainer(run, partial(limit_samples, 48 * MIB)).wait(300)
    require_finished(run, code, "saved", "oom sample", "retry frugal_samples", "run_finished finished")
    assert not story(run, "warning"), run.log_path.read_text()[-3000:]
    (image,) = run.samples.glob("*.png")
    assert Image.open(image).size == (192, 192)


@pytest.mark.soak  # as for caching
@pytest.mark.timeout(300)
def test_saving(make_run: MakeRun) -> None:
    """What is held takes the room of the 24 MiB of the LoRA's tensors; a new start has it."""
    run = make_run(**QUIET, network__network_dim=1024)
    code = ForkedTrainer(run, partial(limit_a_phase, "save", 4 * MIB, 2**32)).wait(300)
    require_finished(run, code, "oom save", "retry restart", "saved", "run_finished finished")
