"""What a run was trained on, changed between a stop and a resume: named and refused, accepted, or no change at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from engine.config import RunConfig, load_config
from engine.dataset.digests import FileDigests
from engine.errors import DataError
from engine.exit_codes import ExitCode
from engine.runs import read_events, true_state
from engine.runs.compare_inputs import accept, compare, completed
from engine.runs.control import request
from engine.runs.events import EventLog, RetryEvent
from engine.runs.inputs import Inputs, read_inputs, write_inputs
from engine.runs.layout import RunDir
from engine.runs.prepare import prepare_run
from engine.runs.states import newest_state, saved_states
from engine.training import run_reader
from engine.training.statefile import load_tree, save_tree
from engine.training.trainer import Trainer
from tests.engine.training.conftest import SETTINGS
from tests.soak import mostly_soaked
from tests.tiny_models import tiny_sd15

pytestmark = pytest.mark.usefixtures("unread_files")
Train = Callable[[RunDir], int]
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (90, 90, 20))


def write_image(path: Path, colour: tuple[int, int, int] = (9, 9, 9)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), colour).save(path)


def nudge(path: Path) -> None:
    """Other weights, of the same size."""
    tensors = load_file(path)
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, path)


def replace_keeping_time(path: Path) -> None:
    """Another image of the same number of bytes with the old time of change."""
    before, data = path.stat(), path.read_bytes()
    write_image(path, COLOURS[3])
    path.write_bytes(path.read_bytes()[: len(data)].ljust(len(data), b"\0"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Everything that a run can be trained on, and a run that was stopped after its second step: `world / "run"`."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("inputs")
        for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.setenv(variable, str(root / "home"))
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        place = root / "world"
        for folder in ("images", "reg", "validation"):
            for name, colour in zip("abc", COLOURS, strict=False):
                write_image(place / folder / f"{name}.png", colour)
                (place / folder / f"{name}.txt").write_text(f"zed, {name}, {folder}")
        for name in "abc":
            write_image(place / "masks" / f"{name}.png", (128, 0, 0))
        tiny_sd15(place / "model")
        vae = shutil.copytree(place / "model/tiny/vae", place / "other/vae")
        settings = {
            **SETTINGS,
            "training.max_train_steps": 3,
            "sampling.sample_every_n_steps": 0,
            "sampling.sample_at_first": "false",
            "saving.save_every_n_epochs": 0,
            "model.pretrained_model_name_or_path": place / "model/tiny",
            "dataset.train_data_dir": place / "images",
        }
        start = prepare_run(load(settings, place / "start", **{"training.max_train_steps": 1}))
        assert train(start) == ExitCode.DONE
        run = prepare_run(load(settings, place / "run", **{
            "model.vae": vae,
            "dataset.reg_data_dir": place / "reg",
            "dataset.validation_data_dir": place / "validation",
            "dataset.conditioning_data_dir": place / "masks",
            "dataset.masked_loss": "true",
            "network.network_weights": start.path / "zed.safetensors",
        }))  # fmt: skip
        advance = Trainer.advance

        def stop_at_two(self: Trainer) -> bool:
            if self.step == 2:
                self.session.stop_reason = "test"
            return advance(self)

        patch.setattr(Trainer, "advance", stop_at_two)
        assert train(run) == ExitCode.STOPPED
        patch.setattr(Trainer, "advance", advance)
        shutil.copytree(place, root / "backup", symlinks=True)
        yield place


def load(settings: dict[str, object], output: Path, **more: object) -> RunConfig:
    values = {**settings, "saving.output_dir": output, **more}
    return load_config(None, [f"{key}={value}" for key, value in values.items()])


def train(run: RunDir) -> int:
    from tests.engine.training.conftest import train_in_process

    return train_in_process(run)


@pytest.fixture
def run(world: Path, train_here: Train, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunDir]:
    """The stopped run; afterwards its world is as it was."""
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, str(world.parent / "home"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    yield RunDir(world / "run")
    shutil.rmtree(world)
    shutil.copytree(world.parent / "backup", world, symlinks=True)


def result(run: RunDir) -> str:
    return hashlib.sha256((run.path / "zed.safetensors").read_bytes()).hexdigest()


def texts(run: RunDir, kind: str) -> list[str]:
    return [event.data["text"] for event in read_events(run.events_path) if event.type == kind]


Change = Callable[[Path], object]
CHANGES: dict[str, tuple[Change, str]] = {
    "caption edited": (lambda w: (w / "images/a.txt").write_text("other"), "1 caption changed: a.txt"),
    "two captions edited": (
        lambda w: [(w / "images" / name).write_text("other") for name in ("a.txt", "b.txt")],
        "2 captions changed: a.txt, b.txt",
    ),
    "caption removed": (lambda w: (w / "images/a.txt").unlink(), "1 caption changed: a.txt"),
    "caption of another kind": (
        lambda w: [(w / "images/a.txt").unlink(), (w / "images/a.caption").write_text("other")],
        "1 caption changed: a.caption",
    ),
    "image replaced": (lambda w: write_image(w / "images/a.png"), "1 image changed: a.png"),
    "image replaced with its old time": (
        lambda w: replace_keeping_time(w / "images/a.png"), "1 image changed: a.png",
    ),
    "image deleted": (lambda w: (w / "images/a.png").unlink(), "1 image is missing: a.png"),
    "image added": (lambda w: write_image(w / "images/d.png"), "1 image is new: d.png"),
    "image renamed": (
        lambda w: [(w / "images" / f"c.{end}").rename(w / "images" / f"e.{end}") for end in ("png", "txt")],
        "1 image is missing: c.png; 1 image is new: e.png",
    ),
    "mask replaced": (lambda w: write_image(w / "masks/a.png", (250, 0, 0)), "1 mask changed: a.png"),
    "mask removed": (lambda w: (w / "masks/a.png").unlink(), "1 mask changed: a.png"),
    "regularization image replaced": (lambda w: write_image(w / "reg/b.png"), "1 regularization image changed: b.png"),
    "regularization image deleted": (lambda w: (w / "reg/b.png").unlink(), "1 regularization image is missing: b.png"),
    "regularization caption edited": (
        lambda w: (w / "reg/b.txt").write_text("other"), "1 caption of regularization images changed: b.txt",
    ),
    "validation image replaced": (lambda w: write_image(w / "validation/b.png"), "1 validation image changed: b.png"),
    "validation image added": (lambda w: write_image(w / "validation/d.png"), "1 validation image is new: d.png"),
    "base model": (lambda w: nudge(unet(w)), "the base model tiny changed (unet/diffusion_pytorch_model.safetensors)"),
    "text encoder of the base": (
        lambda w: nudge(w / "model/tiny/text_encoder/model.safetensors"),
        "the base model tiny changed (text_encoder/model.safetensors)",
    ),
    "VAE": (lambda w: nudge(w / "other/vae/diffusion_pytorch_model.safetensors"), "the VAE vae changed"),
    "LoRA to start from": (
        lambda w: nudge(w / "start/zed.safetensors"), "the LoRA to start from zed.safetensors changed",
    ),
}  # fmt: skip


MORE = ("image replaced", "VAE")


def unet(world: Path) -> Path:
    return world / "model/tiny/unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_refused_and_can_be_accepted(name: str, run: RunDir, world: Path) -> None:
    change, words = CHANGES[name]
    states = {path.name: path.read_bytes() for path in saved_states(run.checkpoints)}
    change(world)
    assert train(run) == ExitCode.USAGE
    ending = json.loads(run.exit_path.read_text())
    assert words in ending["message"] and "--accept-changes" in ending["hint"]
    assert (true_state(run).state, true_state(run).step) == ("stopped", 2), "nothing lost, nothing failed"
    assert {path.name: path.read_bytes() for path in saved_states(run.checkpoints)} == states
    compared = compare(run)
    assert compared is not None and words in "; ".join(compared.changes), "a resume knows it before it launches"
    accept(run, compared)
    second = compare(run)
    assert second is not None and second.changes == ()


@pytest.mark.parametrize(
    "name",
    ["caption edited", "image deleted", "base model", *(pytest.param(case, marks=pytest.mark.soak) for case in MORE)],
)
def test_an_accepted_change_trains_to_the_end_and_is_noted(name: str, run: RunDir, world: Path) -> None:
    CHANGES[name][0](world)
    compared = compare(run)
    assert compared is not None
    accept(run, compared)
    assert train(run) == ExitCode.DONE
    assert [text for text in texts(run, "warning") if "changed since the state was saved" in text]
    state = newest_state(run.checkpoints)
    assert state is not None and state.value("inputs") == compared.current.digest


def same_bytes(world: Path) -> None:
    for path in sorted(world.rglob("*")):
        if path.is_file() and "run" not in path.relative_to(world).parts:
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)


NO_CHANGES: dict[str, Change] = {
    "nothing": lambda _: None,
    "all files touched": lambda w: [os.utime(path) for path in w.rglob("*") if path.is_file()],
    "the same bytes under the same names": same_bytes,
    "a caption with another line end": lambda w: (w / "images/a.txt").write_text("zed, a, images\n"),
    "files that are no images": lambda w: (w / "images/notes.md").write_text("notes"),
    "a mask for no image": lambda w: write_image(w / "masks/z.png"),
}


TRAINED = ("nothing", "the same bytes under the same names")
"""Of these the run is also resumed; of the others in `make soak`."""


@pytest.fixture(scope="module")
def unchanged(world: Path) -> Iterator[list[str]]:
    """The file of the run that is resumed with nothing changed, once it is known."""
    yield []


@pytest.mark.parametrize("name", NO_CHANGES)
def test_no_change_is_no_question(name: str, run: RunDir, world: Path) -> None:
    NO_CHANGES[name](world)
    compared = compare(run)
    assert compared is not None and compared.changes == ()


@pytest.mark.parametrize("name", mostly_soaked(NO_CHANGES, TRAINED))
def test_no_change_gives_the_same_bytes(name: str, run: RunDir, world: Path, unchanged: list[str]) -> None:
    NO_CHANGES[name](world)
    assert train(run) == ExitCode.DONE
    assert texts(run, "warning") == []
    assert not [text for text in texts(run, "note") if "last start" in text or "record of what" in text]
    unchanged.append(result(run))
    assert len(set(unchanged)) == 1


def test_files_are_read_again_only_where_size_or_time_differ(
    run: RunDir, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = compare(run)
    assert compared is not None
    accept(run, compared)  # a copied world has other times
    read: list[str] = []
    digest = FileDigests.of

    def noted(self: FileDigests, path: Path) -> str:
        read.append(path.name)
        return digest(self, path)

    monkeypatch.setattr(FileDigests, "of", noted)
    compare(run)
    assert read == []
    os.utime(world / "images/a.png")
    compare(run)
    assert read == ["a.png"]


def test_a_start_of_its_own_after_an_out_of_memory_asks_nobody(run: RunDir, world: Path) -> None:
    log = EventLog(run.events_path, run.reserve_path)
    log.emit(RetryEvent(step=2, remedy="restart", text="Starting anew.", changes={}))
    log.close()
    (world / "images/a.txt").write_text("other")
    assert train(run) == ExitCode.DONE
    assert texts(run, "warning") == ["Changed during the run: 1 caption changed: a.txt."]


BROKEN = (None, "", "{", "[]", '{"schema": 1}', '{"schema": 99}', '{"schema": 1, "images": 3}')


def break_record(run: RunDir, broken: str | None) -> None:
    run.inputs_path.unlink()
    if broken is not None:
        run.inputs_path.write_text(broken)


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_record_is_none(broken: str | None, run: RunDir) -> None:
    break_record(run, broken)
    assert read_inputs(run) is None and compare(run) is None


@pytest.mark.parametrize("broken", mostly_soaked(BROKEN, (None, "{")))
def test_a_run_without_a_readable_record_resumes_with_one_note(broken: str | None, run: RunDir, world: Path) -> None:
    break_record(run, broken)
    for path in saved_states(run.checkpoints):  # as an earlier version wrote it
        tree = load_tree(path)
        tree.pop("inputs")
        save_tree(path, tree)
    (world / "images/a.txt").write_text("other")
    assert compare(run) is None
    assert train(run) == ExitCode.DONE
    assert len([text for text in texts(run, "note") if "no record of what it was trained on" in text]) == 1
    assert texts(run, "warning") == [] and read_inputs(run) is not None


def test_before_the_first_state_a_change_is_nobodys_business(run: RunDir, world: Path) -> None:
    shutil.rmtree(run.checkpoints)
    (world / "images/a.txt").write_text("other")
    assert compare(run) is None
    assert train(run) == ExitCode.DONE
    assert texts(run, "warning") == []


def test_nothing_is_saved_before_the_inputs_are_recorded(
    run: RunDir, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run.checkpoints)
    run.inputs_path.unlink()
    saved: list[bool] = []

    def slow(inputs: Inputs, digests: FileDigests) -> Inputs:
        time.sleep(0.5)
        saved.append(run.inputs_path.exists() or run.checkpoints.exists())
        return completed(inputs, digests)

    monkeypatch.setattr(run_reader, "completed", slow)
    monkeypatch.setattr(run_reader, "_LATER", 1)
    assert train(run) == ExitCode.DONE
    record, state = read_inputs(run), newest_state(run.checkpoints)
    assert saved == [False] and record is not None and record.is_complete
    assert state is not None and state.value("inputs") == record.digest
    compared = compare(run)
    assert compared is not None and compared.changes == ()


def test_a_stop_or_an_error_while_files_are_hashed_ends_the_run(
    run: RunDir, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(run.checkpoints)
    run.inputs_path.unlink()
    monkeypatch.setattr(run_reader, "_LATER", 1)
    go_on = threading.Event()

    def stopping(inputs: Inputs, _: FileDigests) -> Inputs:
        request(run, "stop")
        go_on.wait(60)
        return inputs

    monkeypatch.setattr(run_reader, "completed", stopping)
    assert train(run) == ExitCode.STOPPED
    assert not run.inputs_path.exists() and not saved_states(run.checkpoints)
    go_on.set()

    def failing(_: Inputs, __: FileDigests) -> Inputs:
        raise DataError("base cannot be read: gone.", code="file-unreadable")

    monkeypatch.setattr(run_reader, "completed", failing)
    assert train(run) != ExitCode.DONE
    assert json.loads(run.exit_path.read_text())["code"] == "file-unreadable"
    assert not run.inputs_path.exists() and not saved_states(run.checkpoints)


def test_another_version_or_device_is_a_note_and_no_question(run: RunDir) -> None:
    known = read_inputs(run)
    assert known is not None and {"torch", "device", "Pillow"} <= known.environment.keys()
    environment = {**known.environment, "torch": "1.0", "device": "a card"}
    write_inputs(run, type(known)(known.images, known.models, known.places, environment))
    compared = compare(run)
    assert compared is not None and compared.changes == ()
    assert train(run) == ExitCode.DONE
    (note,) = [text for text in texts(run, "note") if "last start" in text]
    assert "torch was 1.0 and is" in note and "device was a card and is CPU" in note


def test_the_record_survives_what_file_names_can_be(run: RunDir, world: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(world / "images") + b"/odd\xff\n.png"))
    write_image(odd)
    compared = compare(run)
    assert compared is not None and compared.changes == ("1 image is new: odd\ufffd\\n.png",)
    accept(run, compared)
    assert read_inputs(run) is not None and str(odd) in read_inputs(run).images  # type: ignore[union-attr]
