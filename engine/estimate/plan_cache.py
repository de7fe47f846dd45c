"""The cache of memory plans: those that ship with the program, and those in the user's cache. Loads no torch.

A plan's key is a hash of everything that it depends on. For the user's cache that includes the program's own source;
the shipped plans are for the presets as they ship, and `make plans` updates them.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine import paths
from engine.atomic import read_json, write_text
from engine.config.moved import former_tables
from engine.errors import LoraSmithError
from engine.estimate.plan import PHASES, Plan, restored
from engine.families.registry import families
from engine.hardware.packages import version_of
from engine.models.header import read_header

if TYPE_CHECKING:
    from engine.estimate.request import Request

SHIPPED = paths.ASSETS / "plans.json"
_NO_MATTER = {
    "model": {
        "pretrained_model_name_or_path",
        "family",
        "v_parameterization",
        "zero_terminal_snr",
        "weighted_captions",
        "base_weights",
        "base_weights_multiplier",
    },
    "network": {"network_alpha", "conv_alpha", "network_weights", "rs_lora"},
    "memory": {
        "device",
        "mixed_precision",
        "on_oom",
        "cache_dir",
        "num_cpu_threads_per_process",
        "torch_compile",
    },
}
"""Settings that do not change any size, or that are elsewhere in the key: precision, image sizes, the batch."""
_TRAINING = {"gradient_accumulation_steps", "optimizer_type", "optimizer_args", "max_grad_norm", "kohya_exact"}
"""Settings of `[training]` that change the memory; of learning rates only whether they are 0."""
_IN_WORKLOAD = {"dataset", "sampling", "saving"}
"""Tables whose settings count by the workload; those of one family that are left are in the key as they are."""
_STORED_NAMES = {"validates": "held_out", "images": "pictures"}
"""Fields of a workload, and their names in the keys of plans."""
SOURCES = ("adapters", "config", "estimate", "families", "lowmem", "models", "training")
"""Packages of the program whose changes invalidate the plans in the user's cache."""
_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def find(request: Request) -> Plan | None:
    """The plan, if it is in a cache."""
    key = key_of(request)
    stored = _shipped().get(key)
    if stored is None:
        for phases in dict.fromkeys((PHASES, request.phases)):
            stored = stored or _kept(_path(key, phases))
    with suppress(TypeError, KeyError):
        return restored(stored) if stored else None
    return None


def keep(request: Request, plan: Plan) -> None:
    """Put a plan into the user's cache; a failure is ignored."""
    path = _path(key_of(request), request.phases)
    with suppress(OSError, LoraSmithError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"plan": plan.stored(), "sha256": _seal(path, plan.stored())}))


def _kept(path: Path) -> Any | None:
    """The plan in a file of the cache; None if there is none, or it was changed or renamed."""
    record = read_json(path)
    if not isinstance(record, dict) or record.get("sha256") != _seal(path, record.get("plan")):
        return None
    return record["plan"]


def _seal(path: Path, plan: Any) -> str:
    return hashlib.sha256(f"{path.stem} {json.dumps(plan, sort_keys=True)}".encode()).hexdigest()


def _path(key: str, phases: tuple[str, ...]) -> Path:
    digest = hashlib.sha256(f"{key} {phases} {_source()}".encode()).hexdigest()
    return paths.user_cache() / "plans" / f"{digest[:32]}.json"


@cache
def _shipped() -> dict[str, Any]:
    stored_plans = read_json(SHIPPED)
    return stored_plans if isinstance(stored_plans, dict) else {}


def key_of(request: Request) -> str:
    """sha256 of everything but the program's source, in hexadecimal."""
    config = request.config
    values: dict[str, dict[str, Any]] = {}
    # Without defaults, and with former names, so that changes of the program do not change old keys.
    set_values = former_tables(config.model_dump(mode="json", exclude_defaults=True))
    for table in (*_NO_MATTER, "training"):
        values[table] = {key: value for key, value in set_values.get(table, {}).items() if _counts(table, key)}
    values |= {table: set_values[table] for table in set_values.keys() - values.keys() - _IN_WORKLOAD}
    values["model"] = {key: bool(value) if isinstance(value, str) else value for key, value in values["model"].items()}
    training = config.training
    rates = training.rates if len(training.text_rates) == 1 else (training.rates[0], *training.text_rates)
    everything = {
        "config": values,
        "rates": [bool(rate) for rate in rates],
        "files": [_contents(Path(path)) for path in _files(request)],
        "known": [request.recognition.family, request.recognition.layout, request.recognition.prediction_type],
        "work": _in_stored_names(_workload(request)),
        "precision": request.precision,
        "versions": {name: version_of(name) for name in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()


def _workload(request: Request) -> dict[str, Any]:
    values = asdict(request.work)
    if request.config.memory.cuda_graphs == "off":
        del values["shapes"]  # only graphs depend on it
    return values


def _in_stored_names(value: Any) -> Any:
    """A workload with the names that its fields had when the shipped plans were made."""
    if not isinstance(value, dict):
        return value
    return {_STORED_NAMES.get(name, name): _in_stored_names(entry) for name, entry in value.items()}


def _counts(table: str, key: str) -> bool:
    return key in _TRAINING if table == "training" else key not in _NO_MATTER[table]


def _files(request: Request) -> list[str]:
    """The checkpoint and the other model files of the run."""
    table, network = former_tables(request.config.model_dump())["model"], request.config.network
    named = [value for key, value in sorted(table.items()) if isinstance(value, str) and key != "family"]
    start = [network.network_weights] if network.network_weights else []
    return start if request.recognition.layout == "configurations" else [str(request.recognition.path), *named, *start]


def _contents(path: Path) -> str:
    """sha256 of what decides the sizes in a file or folder: names and shapes of tensors, and configurations."""
    digest = hashlib.sha256()
    with suppress(OSError, LoraSmithError):
        if path.is_dir():
            for file in sorted(path.rglob("config.json")):
                digest.update(file.read_bytes())
        elif path.is_file() and path.suffix == ".safetensors":
            digest.update(json.dumps(sorted(read_header(path).tensors.items())).encode())
        else:
            digest.update(str(path).encode())
    return digest.hexdigest()


@cache
def _source() -> str:
    """sha256 of the modules that a plan depends on: the program's, and those of plugin families."""
    home, digest = Path(engine.__file__).parent, hashlib.sha256()
    family_folders = {Path(inspect.getfile(type(family))).parent for family in families()}
    for folder in (
        *(home / name for name in SOURCES),
        *sorted(folder for folder in family_folders if home not in folder.parents),
    ):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
