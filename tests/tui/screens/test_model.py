"""The step of the model: entering, recognising, known models, the demo."""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import OptionList

from tests.tiny_flux import tiny_files
from tui.app import LoraSmithApp
from tui.screens.folders import FoldersScreen
from tui.screens.hardware import HardwareScreen
from tui.screens.model import ModelScreen
from tui.setup.demo import DEMO_BASE, follow_demo
from tui.setup.draft import Draft
from tui.setup.model_finding import KEY
from tui.setup.recent import recent_models, record_model
from tui.widgets.lines import Lines
from tui.widgets.path_input import PathInput

NARROW = (80, 24)
Until = Callable[..., Awaitable[None]]
Smith = Callable[..., LoraSmithApp]
Shown = Callable[[LoraSmithApp], str]


@pytest.fixture
def begin(smith: Smith) -> Smith:
    """The app at the step of the model."""

    def make(values: dict[str, Any] | None = None, **options: Any) -> LoraSmithApp:
        app = smith("model", values, **options)
        app.first_step = "model"
        return app

    return make


def checkpoint(path: Path, *names: str) -> Path:
    """A file with tensors of these names, one number each."""
    table = {
        name: {"dtype": "F16", "shape": [1], "data_offsets": [2 * place, 2 * place + 2]}
        for place, name in enumerate(names)
    }
    header = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 2 * len(names))
    return path


async def test_next_shows_why_a_half_typed_folder_cannot_be_used(
    begin: Smith, until: Until, text: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is hidden while the completions are shown; Next needs it."""
    (tmp_path / "ann").mkdir()
    monkeypatch.chdir(tmp_path)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Demo model" in text(app))
        await pilot.press("a", "n", "n")
        await until(pilot, lambda: app.screen.query_one("#model", PathInput).list_open)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "This cannot be used; see above." in text(app))
        verdict = str(app.screen.query_one("#verdict", Lines).render())
        assert verdict.startswith("✗ ") and "ann" in verdict and not app.screen.query_one("#model", PathInput).list_open


async def test_the_demo_model_by_keys(begin: Smith, until: Until, text: Shown) -> None:
    app = begin({"memory.device": "cuda:0"})
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Demo model" in text(app))
        assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in text(app)
        await pilot.press("tab", "tab", "enter")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        for sentence in (
            "diffusers' layout",
            "fp16",
            "MiB on disk",
            "v_prediction, no zero terminal SNR",
            "scheduler_config.json",
        ):
            assert sentence in text(app)
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert (app.draft.preset, app.draft.values) == ("demo", {KEY: DEMO_BASE})
        assert app.draft.get("memory.device") == "cpu" and recent_models() == []


async def test_typing_recognises_and_enter_continues(begin: Smith, home: Path, until: Until, text: Shown) -> None:
    (home / "base").symlink_to(DEMO_BASE)
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        await pilot.press(*"base", "enter")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.draft.get(KEY) == str(home / "base") and app.draft.preset == "sd15-realistic"
        assert recent_models() == [str(home / "base")]
        await pilot.press("escape")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        assert app.screen.query_one("#model", PathInput).value == str(home / "base")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, HardwareScreen))
        assert app.draft.get(KEY) == str(home / "base")


async def test_next_waits_for_what_is_still_looked_at(begin: Smith, until: Until) -> None:
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        app.screen.query_one("#model", PathInput).value = DEMO_BASE
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.draft.done == ["model"]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "There is no file or folder"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + b"\0" * 99), "is a Python pickle"),
        (lambda path: path.write_bytes(b"\0" * 3), "is cut short"),
        (lambda path: path.write_text("<html>a page that was saved</html>"), "is not a safetensors file"),
        (lambda path: checkpoint(path, "lora_unet_x.lora_down.weight"), "is a LoRA, not a base model"),
        (lambda path: checkpoint(path, "conditioner.embedders.0.x"), "is an SDXL checkpoint"),
        (lambda path: path.mkdir(), "is not a diffusers model"),
    ],
)  # fmt: skip
async def test_what_is_no_model_is_reported_at_once(
    begin: Smith, home: Path, until: Until, text: Shown, make: Callable[[Path], object], sentence: str
) -> None:
    make(home / "m.safetensors")
    app = begin({KEY: "m.safetensors"})
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: sentence in text(app) and "✗" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "✗ This cannot be used; see above." in text(app))
        assert isinstance(app.screen, ModelScreen) and app.draft.done == []


async def test_a_hub_id_that_is_not_in_the_cache(begin: Smith, until: Until, text: Shown) -> None:
    app = begin({KEY: "no-such-owner/no-such-model"})
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "lorasmith fetch no-such-owner/no-such-model" in " ".join(text(app).split()))
        await pilot.press("ctrl+n")
        assert app.draft.get(KEY) == "no-such-owner/no-such-model"


async def test_no_model(begin: Smith, until: Until, text: Shown) -> None:
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "Demo model" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "✗ Enter a model, or choose one below." in text(app))


async def test_another_vae(begin: Smith, home: Path, until: Until, text: Shown) -> None:
    checkpoint(home / "vae.safetensors", "encoder.down.0.x")
    checkpoint(home / "lora.safetensors", "lora_unet_x.lora_down.weight")
    app = begin({KEY: DEMO_BASE}, preset="demo")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        await pilot.press("tab", *"lora.safetensors")
        await until(pilot, lambda: "✗ VAE: lora.safetensors is a LoRA" in text(app))
        assert "✓ Stable Diffusion 1.5" in text(app)
        await pilot.press("ctrl+n")
        assert isinstance(app.screen, ModelScreen)
        await pilot.press("ctrl+u", *"vae.safetensors", "ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.draft.get("model.vae") == str(home / "vae.safetensors")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.screen.query_one("#vae", PathInput).value == str(home / "vae.safetensors")
        await pilot.press("tab", "ctrl+u", "ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert app.draft.get("model.vae") is None


async def test_the_files_of_flux(begin: Smith, home: Path, until: Until, text: Shown) -> None:
    files = tiny_files(home / "flux dev")
    app = begin({KEY: str(files.transformer), "flux.clip_l": str(files.clip_l)})
    async with app.run_test(size=NARROW) as pilot:
        missing = "T5-XXL and the autoencoder are not set."
        await until(pilot, lambda: missing in " ".join(text(app).split()))
        assert "CLIP-L (" not in text(app)
        for key in ("t5xxl", "ae", "t5_tokenizer"):
            app.screen.query_one(f"#flux-{key}", PathInput).value = str(getattr(files, key))
        await until(pilot, lambda: "✗" not in text(app) and "✓ FLUX.1" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        config = app.draft.config()
        assert {key: config.value(f"model.{key}") for key in files.settings} == files.settings
        await pilot.press("escape")
        await until(pilot, lambda: "✓ FLUX.1" in text(app) and "T5-XXL" in text(app))
        assert app.screen.query_one("#flux-ae", PathInput).value == str(files.ae)
        app.screen.query_one("#model", PathInput).value = DEMO_BASE
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app) and "T5-XXL" not in text(app))


async def test_a_prediction_type_that_contradicts_the_model(begin: Smith, until: Until, text: Shown) -> None:
    app = begin({KEY: DEMO_BASE, "model.v_parameterization": False}, preset="demo")
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "✗ v-prediction = false contradicts" in text(app))
        await pilot.press("ctrl+n")
        assert isinstance(app.screen, ModelScreen)


async def test_known_models_and_the_ones_that_are_gone(begin: Smith, home: Path, until: Until, text: Shown) -> None:
    (home / "my [base]").symlink_to(DEMO_BASE)
    record_model(str(home / "my [base]"))
    record_model("/nowhere/old.safetensors")
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: "✗ not there: /nowhere/old.safetensors" in text(app) and "my [base]" in text(app))
        await pilot.press("tab", "tab", "down", "enter")
        await until(pilot, lambda: "✗ There is no file or folder /nowhere/old.safetensors" in text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "✓ Stable Diffusion 1.5" in text(app))
        await pilot.press("ctrl+n")
        await until(pilot, lambda: isinstance(app.screen, FoldersScreen))
        assert recent_models()[0] == str(home / "my [base]")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        assert app.screen.query_one("#known", OptionList).highlighted == 1


async def test_half_a_path_is_no_error_yet(begin: Smith, home: Path, until: Until, text: Shown) -> None:
    (home / "models").mkdir()
    app = begin()
    async with app.run_test(size=NARROW) as pilot:
        await until(pilot, lambda: isinstance(app.screen, ModelScreen))
        screen = app.screen
        assert isinstance(screen, ModelScreen)
        field = screen.query_one("#model", PathInput)
        await until(pilot, lambda: field._listing)
        await pilot.press("m")
        await until(pilot, lambda: screen._finding is not None)
        assert field.list_open and "✗" not in text(app)
        app.set_focus(screen.query_one("#known"))
        await until(pilot, lambda: "✗ There is no file or folder m" in text(app))


def test_the_demo_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = Draft(values={"memory.device": "cuda:1", "training.seed": 5})
    follow_demo(draft, DEMO_BASE)
    assert (draft.preset, draft.values) == ("demo", {"training.seed": 5})
    follow_demo(draft, "")
    assert draft.preset == "demo"
    follow_demo(draft, "/a/real/one")
    assert (draft.preset, draft.values) == ("sd15-realistic", {"training.seed": 5, "memory.device": "cuda:1"})
    assert "model.before_demo" not in draft.extras
    chosen = Draft(preset="sd15-anime")
    follow_demo(chosen, DEMO_BASE)
    assert chosen.preset == "sd15-anime"
    demo = Draft(preset="demo")
    follow_demo(demo, "/a/real/one")
    assert demo.preset == "demo"
