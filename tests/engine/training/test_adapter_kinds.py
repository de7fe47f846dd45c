"""What every kind of adapter that is trained must pass: train, save, check, inspect, merge, resume.

A kind that no module of the program knows passes the same test as LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import plugins
from engine.adapters.inspect import inspect_lora
from engine.adapters.kinds import registry
from engine.adapters.tools.lora_file import read_lora
from engine.adapters.tools.merge import merge
from engine.adapters.tools.requests import MergeRequest
from engine.config import load_config
from engine.estimate.disk import lora_parameters
from engine.exit_codes import ExitCode
from engine.families.resolved import resolve_run
from engine.runs.layout import RunDir
from engine.training.statefile import load_tree
from engine.training.trainer import Trainer
from tests.engine.training.conftest import MakeRun
from tests.engine.training.test_train import Train, digest, events, losses
from tests.soak import mostly_soaked

SETTINGS = {
    "training__max_train_steps": 4,
    "training__text_encoder_lr": 1e-3,
    "network__scale_weight_norms": 0.2,
    "saving__save_state_every_n_steps": 2,
    "saving__save_every_n_epochs": 0,
    "saving__save_precision": "float",
    "sampling__sample_every_n_steps": 0,
    "training__max_check_share": 0,
}
TOY = EntryPoint("cross", "tests.toy_kind:Cross", registry.PLUGINS)


@dataclass(frozen=True)
class Case:
    """A kind and what chooses it."""

    name: str
    """Of most of its modules, in `inspect`."""
    settings: dict[str, object] = field(default_factory=dict)
    """Of `[network]`."""
    installed: EntryPoint | None = None
    """Where a kind is found that is not ours."""
    inspected: str = ""
    """What `inspect` calls the file, where that is not `name`."""

    merged: bool = True
    """Whether its files can be merged into a LoRA."""

    @property
    def keys(self) -> dict[str, object]:
        return {f"network__{key}": value for key, value in self.settings.items()}


KINDS = {
    "LoRA": Case("LoRA"),
    "cross": Case("cross", installed=TOY),
    "LoHa": Case("LoHa", {"algo": "loha"}),
    "LoKr": Case("LoKr", {"algo": "lokr", "factor": 4, "network_dim": 2}),
    "LoKr with a scalar": Case(
        "LoKr", {"algo": "lokr", "use_scalar": True, "module_dropout": 0.1, "rank_dropout": 0.1}, merged=False
    ),
    "LoCon with Tucker": Case(
        "LoRA with Tucker decomposition", {"use_tucker": True}, inspected="LoRA and LoRA with Tucker decomposition"
    ),
    "DoRA": Case("DoRA", {"dora_wd": True}, merged=False),
    "DoRA of a LoHa": Case("LoHa with DoRA", {"algo": "loha", "dora_wd": True, "wd_on_output": True}, merged=False),
    "DoRA of a LoKr": Case("LoKr with DoRA", {"algo": "lokr", "dora_wd": True, "rs_lora": True}, merged=False),
    "rsLoRA": Case("LoRA", {"network_module": "lycoris.kohya", "rs_lora": True}),
    "GLoRA": Case("GLoRA", {"algo": "glora"}, merged=False),
    "full": Case("full difference", {"algo": "full"}, merged=False),
    "OFT": Case("OFT", {"algo": "diag-oft", "rescaled": True, "constraint": 0.1}, merged=False),
    "BOFT": Case("BOFT", {"algo": "boft"}, merged=False),
    "(IA)³": Case("(IA)³", {"algo": "ia3"}, merged=False),
    "norm": Case("LoHa", {"algo": "loha", "train_norm": True}, inspected="LoHa and norm", merged=False),
}


RESUMED = ("LoRA", "cross", "LoKr with a scalar", "DoRA")
"""Those whose resume is tested always; it is the same for all of them."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Case]]:
    """Install the kind of a case."""

    def install(name: str) -> Case:
        chosen = KINDS[name]
        points = [chosen.installed] if chosen.installed else []
        monkeypatch.setattr(plugins, "entry_points", lambda group: points if group == registry.PLUGINS else [])
        registry.kinds.cache_clear()
        return chosen

    yield install
    registry.kinds.cache_clear()


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_trains_is_saved_checked_read_and_merged(
    name: str, installed: Callable[[str], Case], make_run: MakeRun, train_here: Train, tmp_path: Path
) -> None:
    case = installed(name)
    run = make_run(**{**SETTINGS, **case.keys, "training__max_train_steps": 2})
    assert train_here(run) == ExitCode.DONE
    path = run.path / "zed.safetensors"

    (saved,) = events(run, "saved")
    assert saved.data["difference"] < 1e-4, "an independent reader gives the same output"
    _is_counted(run, path, case)
    notes = [event.data["text"] for event in events(run, "note")]
    assert sum(note.startswith("Files of the kind") for note in notes) == (case.name != "LoRA"), (
        "who reads it is reported"
    )

    report = inspect_lora(path)
    assert (report.kind, report.problems) == (case.inspected or case.name, [])
    module = "lycoris.kohya" if case.settings else "networks.lora"
    assert report.no_start is None and report.metadata["ss_network_module"] == module
    arguments = json.loads(report.metadata.get("ss_network_args", "{}"))
    expected = {key: str(value) for key, value in case.settings.items() if not key.startswith("network_")}
    assert expected.items() <= arguments.items()
    if case.merged:
        _is_merged(path, tmp_path / "merged.safetensors")


@pytest.mark.parametrize("name", mostly_soaked(KINDS, RESUMED))
def test_a_resume_gives_the_same_bytes(
    name: str,
    installed: Callable[[str], Case],
    make_run: MakeRun,
    train_here: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = installed(name)
    straight, halted = (make_run(place, **SETTINGS, **case.keys) for place in ("straight", "halted"))
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
    assert losses(straight) == losses(halted) and digest(straight) == digest(halted)
    first, second = (load_tree(run.checkpoints / "state-00000004.safetensors") for run in (straight, halted))
    assert all(torch.equal(mine, again) for mine, again in zip(first["adapter"], second["adapter"], strict=True))
    torch.testing.assert_close(first["optimizer"]["state"], second["optimizer"]["state"], rtol=0, atol=0)


def _is_counted(run: RunDir, path: Path, case: Case) -> None:
    """The parameters that are estimated before the start are those of the file, and what is reported."""
    ends = (".alpha", ".on_input")
    numbers = sum(tensor.numel() for key, tensor in load_file(path).items() if not key.endswith(ends))
    assert lora_parameters(resolve_run(load_config(run.config_path))) == numbers
    notes = " ".join(event.data["text"] for event in events(run, "note"))
    scalars = sum(inspect_lora(path).modules.values()) if case.settings.get("use_scalar") else 0
    assert f"{case.name} modules: text_encoder" in notes and f"{numbers + scalars:,} parameters in fp32" in notes


def _is_merged(path: Path, merged: Path) -> None:
    """The change that the file makes is, halved, that of the LoRA that `merge` makes of it."""
    report = merge(MergeRequest(files=[(str(path), 0.5)], rank=16, out=str(merged)), lambda *_: None)
    before, after = read_lora(path).layers, read_lora(merged).layers
    assert after.keys() == before.keys() and {layer.kind for layer in after.values()} == {"LoRA"}
    changed = 0
    for name, layer in before.items():
        delta = layer.delta().flatten(1)
        changed += bool(delta.any())
        torch.testing.assert_close(after[name].delta().flatten(1), delta / 2, atol=1e-6, rtol=1e-4)
        assert delta.norm() <= 0.2001 and prod(layer.matrix_shape) == delta.numel(), "scale_weight_norms is kept"
    assert changed == len(before) and report.layers
