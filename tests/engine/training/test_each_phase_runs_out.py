"""Real out-of-memory in caching, sampling and saving, by a limit on the address space that holds from the beginning of
the phase to the end of the run. For the training step see test_out_of_memory.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from diffusers import AutoencoderKL
from PIL import Image

from engine.adapters.inspect import inspect_lora
from engine.config import load_config
from engine.exit_codes import ExitCode
from engine.runs import RunDir, read_events
from engine.runs.launch import trainer_environment
from tests.engine.training.conftest import ROOT, MakeRun
from tests.memory_limit import FRUGAL

MIB = 2**20
LIMITED = """
import mmap, resource, sys
from contextlib import contextmanager
from engine.training import __main__
from engine.training.outputs import Outputs
from engine.training.session import Session
run, name, headroom = sys.argv[1], sys.argv[2], int(sys.argv[3])
phase, picture = Session.phase, Outputs._picture
held = []

def address_space(name):
    (told,) = [line for line in open("/proc/self/status") if line.startswith(name + ":")]
    return int(told.split()[1]) * 1024

def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

@contextmanager
def limited(self, entered, **facts):
    with phase(self, entered, **facts):
        if entered == name:
            if name == "save":
                held.append(mmap.mmap(-1, 4 * 2**30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ))
            limit(address_space("VmSize") + headroom)
        yield

def measured(self, request):
    if not held:
        self.trainer.model.draw(request, frugal=True)
        frugal = address_space("VmPeak")
        held.append(self.trainer.model.draw(request))
        whole = address_space("VmPeak")
        assert whole - frugal > 2 * headroom, (frugal, whole)
        limit((frugal + whole) // 2)
    return picture(self, request)

if name == "sample":
    Outputs._picture = measured
else:
    Session.phase = limited
sys.exit(__main__.main([run]))
"""
"""The trainer's process; when it begins anew it is the plain trainer, and the limit stays. For saving, 4 GiB of address
space are held from its beginning on, which a new start has again. For sampling, the limit is half-way between what a
picture takes in less memory and as a whole, as measured just before; the two must differ by twice the headroom."""


def train_limited(run: RunDir, phase: str, headroom: int) -> int:
    """The exit code of a run whose process may grow by `headroom` from the beginning of `phase` on; see LIMITED."""
    environment = {**trainer_environment(), **FRUGAL, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED, str(run.path), phase, str(headroom)]
    with run.log_path.open("ab") as log:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, timeout=300, check=False
        )
    return done.returncode


def story(run: RunDir, *kinds: str) -> list[str]:
    """The events of these types in their order, with the phase or the remedy that they tell."""
    return [
        f"{event.type} {event.get('phase') or event.get('remedy') or event.get('state') or ''}".strip()
        for event in read_events(run.events_path)
        if event.type in kinds
    ]


def require_a_whole_end(run: RunDir, code: int, *told: str) -> None:
    assert code == ExitCode.DONE, run.log_path.read_text()[-3000:]
    story_told = story(run, "oom", "retry", "saved", "error", "run_finished")
    assert story_told[: len(told)] == list(told), run.log_path.read_text()[-3000:]
    (oom,) = [event for event in read_events(run.events_path) if event.type == "oom"]
    assert "allocate" in str(oom.get("message")) and oom.get("total"), oom
    assert inspect_lora(run.lora_path()).modules
    difference = [event.get("difference") for event in read_events(run.events_path) if event.type == "saved"][-1]
    assert isinstance(difference, float) and difference < 0.01


QUIET = {
    "memory__on_oom": "retry", "sampling__sample_every_n_steps": 0, "saving__save_every_n_epochs": 0,
    "saving__save_state_every_n_steps": 0, "training__max_train_steps": 1, "training__train_batch_size": 1,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_caching(make_run: MakeRun, tmp_path: Path) -> None:
    """24 pictures encoded at once do not fit: their first layer's output is 108 MiB, and its normalization wants two
    more of that size. One by one they do, and so does the training, in half of the headroom."""
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (192, 192), (number * 10, 90, 60)).save(folder / f"{number}.png")
    run = make_run(**QUIET, dataset__train_data_dir=folder, dataset__resolution=192, memory__vae_batch_size=24)
    code = train_limited(run, "cache", 192 * MIB)
    require_a_whole_end(run, code, "oom cache", "retry encode_singly", "saved", "run_finished finished")
    assert load_config(run.config_path).memory.vae_batch_size == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_sampling(make_run: MakeRun, tmp_path: Path) -> None:
    """A picture of 256 px does not fit as a whole; in tiles and without guidance beside it does, and nothing begins
    anew. The VAE is wide at its end, where tiles spare most."""
    kind: Any = AutoencoderKL
    kind(
        block_out_channels=(64, 32, 32), down_block_types=("DownEncoderBlock2D",) * 3, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * 3, sample_size=64,
    ).save_pretrained(tmp_path / "vae")  # fmt: skip
    prompts = '["zed --w 256 --h 256 --s 1 --l 7"]'
    sampling = {"sampling__sample_every_n_steps": 1, "sampling__sample_prompts": prompts}
    run = make_run(**{**QUIET, **sampling}, sampling__sample_at_first="false", model__vae=tmp_path / "vae")
    code = train_limited(run, "sample", 24 * MIB)
    require_a_whole_end(run, code, "saved", "oom sample", "retry frugal_samples", "run_finished finished")
    assert not story(run, "warning"), run.log_path.read_text()[-3000:]
    (picture,) = run.samples.glob("*.png")
    assert Image.open(picture).size == (256, 256)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_saving(make_run: MakeRun) -> None:
    """What is held takes the room of the 24 MiB of the LoRA's tensors; a new start has it."""
    run = make_run(**QUIET, network__network_dim=1024)
    code = train_limited(run, "save", 4 * MIB)
    require_a_whole_end(run, code, "oom save", "retry restart", "saved", "run_finished finished")
