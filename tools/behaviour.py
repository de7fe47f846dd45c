"""Records what the program does, so that two versions of it can be compared by `diff -r`.

OUT gets a SHA-256 of every LoRA file and the event log (without times and rates of progress) of seven short trainings,
the reports of `--dry-run` and `plan --json` for every preset, the conversion of every file in `--kohya`, and reports
of `best` and a resume about the run directories of `--runs`, which are copied to PLACE/old first. PLACE must be the
same path for both versions: paths are part of what is hashed.

    python tools/behaviour.py OUT --place PLACE [--kohya DIR] [--runs DIR]
    diff -r OLD NEW
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TIMES = {
    "time", "seq", "pid", "host", "seconds", "seconds_per_step", "eta_seconds", "images_per_second", "memory",
}  # fmt: skip
"""Fields of an event that differ from one run to the next."""

SHORT = {
    "saving.output_name": "zed", "dataset.resolution": 64, "dataset.min_bucket_reso": 32,
    "dataset.bucket_reso_steps": 16, "dataset.num_repeats": 2, "training.max_train_steps": 8,
    "training.train_batch_size": 2, "network.network_dim": 4, "network.network_alpha": 4,
    "training.learning_rate": 1e-3, "saving.save_state_every_n_steps": 4, "saving.save_every_n_steps": 4,
    "sampling.sample_every_n_steps": 4, "sampling.sample_steps": 2, "memory.on_oom": "stop",
}  # fmt: skip

RUNS: dict[str, dict[str, Any]] = {
    "sd15": {"training.gradient_accumulation_steps": 2, "training.noise_offset": 0.05},
    "sd15-conv": {"network.conv_dim": 2, "network.conv_alpha": 1, "training.text_encoder_lr": 1e-4},
    "sd15-reg": {"dataset.reg_data_dir": "REG", "training.min_snr_gamma": 5},
    "sdxl-v": {"memory.cache_text_encoder_outputs": True, "training.lr_scheduler": "cosine"},
    "flux": {"memory.cache_text_encoder_outputs": True, "training.optimizer_type": "AdamW"},
    "flux-text": {"training.text_encoder_lr": 1e-4, "memory.gradient_checkpointing": True},
}


def main() -> None:
    """Record everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("--kohya", type=Path)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    out, place = arguments.out.absolute(), arguments.place.absolute()
    out.mkdir(parents=True)
    place.mkdir(parents=True, exist_ok=True)
    models = make_models(place)
    make_images(place / "images")
    make_images(place / "REG" / "1_thing")
    for name, settings in RUNS.items():
        training(out, place, name, models[name.split("-")[0]], settings)
    demo(out, place)
    for preset in sorted((ROOT / "presets").glob("*.toml")):
        preset_reports(out, place, preset.stem, models)
    for file in sorted(arguments.kohya.iterdir()) if arguments.kohya else ():
        shutil.rmtree(place / "converted", ignore_errors=True)
        (place / "converted").mkdir()
        shutil.copy(file, place / "converted" / file.name)
        keep(
            out,
            f"convert-{file.name}",
            command(place, "convert", f"converted/{file.name}", "--output", "converted/o.toml"),
        )
        converted = place / "converted" / "o.toml"
        (out / f"convert-{file.name}.toml").write_text(converted.read_text() if converted.is_file() else "")
    for run in sorted(arguments.runs.iterdir()) if arguments.runs else ():
        saved_run(out, place, run)


def make_models(place: Path) -> dict[str, dict[str, Any]]:
    """The settings for a tiny model of each family; created once, by the version that comes first."""
    settings_file = place / "models.json"
    if not settings_file.is_file():
        sys.path.insert(0, str(ROOT))
        from tests.tiny_flux import tiny_files
        from tests.tiny_models import tiny_sd15
        from tests.tiny_sdxl import tiny_sdxl

        path = "pretrained_model_name_or_path"
        models: dict[str, dict[str, Any]] = {
            "sd15": {path: str(tiny_sd15(place / "models"))},
            "sdxl": {path: str(tiny_sdxl(place / "models", file=True, markers=("v_pred",)))},
            "flux": tiny_files(place / "models" / "flux").settings,
        }
        settings_file.write_text(
            json.dumps({name: {f"model.{k}": v for k, v in settings.items()} for name, settings in models.items()})
        )
    stored: dict[str, dict[str, Any]] = json.loads(settings_file.read_text())
    return stored


def make_images(folder: Path) -> None:
    """Six images in three sizes, with captions."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for index in range(6):
        size = (64 + 16 * (index % 3), 64)
        Image.linear_gradient("L").resize(size).convert("RGB").rotate(30 * index).save(folder / f"p{index}.png")
        (folder / f"p{index}.txt").write_text(f"zed, tag{index}, blue, round, big")


def command(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """One shell command of this version, with caches and settings of its own."""
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000",
        "XDG_CACHE_HOME": str(place / "cache"), "XDG_CONFIG_HOME": str(place / "config"), "COLUMNS": "120",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "tui.main", *words], cwd=place, env=environment, capture_output=True, text=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


def lasting(text: str) -> str:
    """Text without times, free space and the place of this version."""
    figures = r"\b\d+(\.\d+)? (s|ms|min|h|GiB (are )?free|it/s|% of the time)\b|\b\d+:\d\d(:\d\d)?\b|(pid|process) \d+"
    return re.sub(figures, "#", text).replace(str(ROOT), "ROOT")


def timeless(value: Any) -> Any:
    """An event without the fields that differ from run to run, at any depth."""
    if isinstance(value, dict):
        return {key: timeless(entry) for key, entry in sorted(value.items()) if key not in TIMES}
    if isinstance(value, list):
        return [timeless(entry) for entry in value]
    return lasting(value) if isinstance(value, str) else value


def keep(out: Path, name: str, done: subprocess.CompletedProcess[str]) -> None:
    """Exit code and both streams."""
    text = f"exit {done.returncode}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}\n"
    text = re.sub(r"^step \d+ of .*\n", "", text, flags=re.MULTILINE)
    (out / f"{name}.txt").write_text(lasting(text))


def words_of(settings: dict[str, Any]) -> list[str]:
    """Settings as `--set` takes them."""
    return [
        f"--set={key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in settings.items()
    ]


def training(out: Path, place: Path, name: str, model: dict[str, Any], settings: dict[str, Any]) -> None:
    """One run of a tiny model."""
    shutil.rmtree(place / name, ignore_errors=True)
    settings = {**SHORT, **model, **settings}
    if settings.get("dataset.reg_data_dir"):
        settings["dataset.reg_data_dir"] = str(place / "REG")
    preset = {"sd15": "sd15-realistic", "sdxl": "sdxl", "flux": "flux-dev"}[name.split("-")[0]]
    words = words_of(
        {**settings, "memory.device": "cpu", "memory.mixed_precision": "no", "memory.base_precision": "auto"}
    )
    words += ["--images", str(place / "images"), "--output_dir", str(place / name), "--json"]
    done = command(place, "--preset", preset, *words)
    written(out, place / name, name, done)


def demo(out: Path, place: Path) -> None:
    """A short run of the demo's preset."""
    shutil.rmtree(place / "demo", ignore_errors=True)
    settings = words_of({"training.max_train_steps": 24, "saving.save_every_n_steps": 12})
    written(
        out,
        place / "demo",
        "demo",
        command(place, "--preset", "demo", "--output_dir", str(place / "demo"), "--json", *settings),
    )


def digest(file: Path) -> str:
    """SHA-256 of a LoRA's tensors, and of the file if it contains no path of this version."""
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    file_digest = "" if str(ROOT).encode() in data[:header] else f" {hashlib.sha256(data).hexdigest()}"
    return hashlib.sha256(data[header:]).hexdigest() + file_digest


def written(out: Path, run: Path, name: str, done: subprocess.CompletedProcess[str]) -> None:
    """Hashes and events of a run, and its exit code."""
    lines = [f"exit {done.returncode}"] + ([done.stderr] if done.returncode else [])
    lines += [f"{digest(file)}  {file.name}" for file in sorted(run.glob("*.safetensors"))]
    log = run / ".run" / "events.jsonl"
    for line in log.read_text().splitlines() if log.is_file() else ():
        event = json.loads(line)
        if event["type"] != "progress":
            lines.append(json.dumps(timeless(event)))
    (out / f"run-{name}.txt").write_text("\n".join(lines) + "\n")


def preset_reports(out: Path, place: Path, name: str, models: dict[str, dict[str, Any]]) -> None:
    """What a preset's plan and dry run report."""
    keep(out, f"plan-{name}", command(place, "plan", "--preset", name, "--json"))
    model = models["flux" if "flux" in name else "sdxl" if "sdxl" in name else "sd15"]
    words = [] if name == "demo" else ["--images", str(place / "images"), "--name", "zed", *words_of(model)]
    words += ["--output_dir", str(place / "dry"), "--dry-run"]
    keep(out, f"dry-{name}", command(place, "--preset", name, *words))


def saved_run(out: Path, place: Path, run: Path) -> None:
    """What is reported of an old run, and the result of a resume."""
    for what in ("best", "resume"):
        copy = place / "old" / run.name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy, symlinks=True)
        keep(out, f"old-{run.name}-{what}", command(place, what, str(copy)))
    files = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(copy.glob("*.safetensors"))
    ]
    (out / f"old-{run.name}-files.txt").write_text("\n".join(files) + "\n")


if __name__ == "__main__":
    main()
