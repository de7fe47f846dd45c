"""Plans that were made before: those that ship with the program, and those in the user's cache. Loads no torch.

A plan is found by everything that it depends on. The user's cache counts the program's own source among that; the
shipped ones belong to the presets as they ship, and `make plans` makes them again.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import engine
from engine import paths
from engine.atomic import read_json, write_text
from engine.errors import LoraSmithError
from engine.hardware.packages import version_of
from engine.memory.plan import PHASES, Plan, restored
from engine.models.header import read_header

if TYPE_CHECKING:
    from engine.memory.planner import Request

SHIPPED = paths.ASSETS / "plans.json"
_NO_MATTER = {
    "model": {"pretrained_model_name_or_path", "family", "v_parameterization", "zero_terminal_snr"},
    "network": {"network_alpha", "conv_alpha", "network_weights"},
    "memory": {"device", "mixed_precision", "on_oom", "cache_dir", "num_cpu_threads_per_process", "torch_compile"},
}
"""Settings that change no size, or that stand elsewhere in the key: precision, sizes of pictures, the batch."""
_TRAINING = {"gradient_accumulation_steps", "optimizer_type", "optimizer_args", "max_grad_norm"}
"""Of `[training]` what takes memory besides; learning rates count as whether they are 0."""
_SOURCES = ("adapters", "config", "memory", "models", "planning", "training")
_PACKAGES = ("torch", "diffusers", "transformers", "peft")


def find(request: Request) -> Plan | None:
    """The plan, if it was made before."""
    key = key_of(request)
    stored = _shipped().get(key)
    if stored is None:
        for phases in dict.fromkeys((PHASES, request.phases)):
            stored = stored or _kept(_path(key, phases))
    with suppress(TypeError, KeyError):
        return restored(stored) if stored else None
    return None


def keep(request: Request, plan: Plan) -> None:
    """Put a plan into the user's cache; that it cannot be written is no harm."""
    path = _path(key_of(request), request.phases)
    with suppress(OSError, LoraSmithError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"plan": plan.stored(), "sha256": _seal(path, plan.stored())}))


def _kept(path: Path) -> Any | None:
    """The plan in a file of the cache; None where there is none, or it was changed or renamed."""
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
    found = read_json(SHIPPED)
    return found if isinstance(found, dict) else {}


def key_of(request: Request) -> str:
    """sha256 of everything but the program's source, in hexadecimal."""
    config = request.config
    values: dict[str, dict[str, Any]] = {}
    for table in (*_NO_MATTER, "training"):
        # Without defaults: a setting that is new in the program leaves the old keys as they are.
        given = getattr(config, table).model_dump(mode="json", exclude_defaults=True)
        values[table] = {key: value for key, value in given.items() if _counts(table, key)}
    values["model"] = {key: bool(value) if isinstance(value, str) else value for key, value in values["model"].items()}
    everything = {
        "config": values,
        "rates": [bool(rate) for rate in config.training.rates],
        "files": [_contents(Path(path)) for path in _files(request)],
        "known": [request.recognition.family, request.recognition.layout, request.recognition.prediction_type],
        "work": asdict(request.work),
        "precision": request.precision,
        "versions": {name: version_of(name) for name in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True, default=str).encode()).hexdigest()


def _counts(table: str, key: str) -> bool:
    return key in _TRAINING if table == "training" else key not in _NO_MATTER[table]


def _files(request: Request) -> list[str]:
    """The checkpoint and what is named beside it."""
    table, network = request.config.model.model_dump(), request.config.network
    named = [value for key, value in sorted(table.items()) if isinstance(value, str) and key != "family"]
    start = [network.network_weights] if network.network_weights else []
    return start if request.recognition.layout == "configurations" else [str(request.recognition.path), *named, *start]


def _contents(path: Path) -> str:
    """What of a file or folder decides about sizes: names and shapes of tensors, and configurations."""
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
    """sha256 of the program's modules that a plan comes from."""
    home, digest = Path(engine.__file__).parent, hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((home / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()
