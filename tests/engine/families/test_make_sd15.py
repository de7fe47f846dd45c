"""The script that makes a model of real size; here with the shipped configurations made small."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sd15", ROOT / "benchmarks" / "make_sd15.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = tmp_path / "small"
    shutil.copytree(folder, small, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    unet = small / "unet" / "config.json"
    unet.write_text(json.dumps(json.loads(unet.read_text()) | {"norm_num_groups": 32}))
    monkeypatch.setattr(module, "CONFIGURATIONS", small)
    return module


def test_both_layouts_hold_the_same_model(tmp_path: Path, script: ModuleType, load: Any) -> None:
    script.make_folder(tmp_path / "m", "fp16")
    script.make_file(tmp_path / "m.safetensors", "fp16", ema=True, position_ids=True)
    folder, file = load(tmp_path / "m"), load(tmp_path / "m.safetensors")
    assert (folder.vae_key, folder.text_key) == (file.vae_key, file.text_key)
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sizes = torch.zeros(1, 6)
        predictions = [
            model.predict(noisy, torch.tensor([500]), model.encode_text(["cat"]), sizes) for model in (folder, file)
        ]
    assert torch.equal(*predictions)
    assert 0.05 < float(predictions[0].std()) < 20
