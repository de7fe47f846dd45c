"""The demo from keys: 80 × 24, 16 colours, no mouse, all eight steps, to a trained LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.adapters.inspect import inspect_lora
from engine.models.header import read_header
from engine.runs import RunDir, true_state

Start = Callable[..., Any]
NEXT, CLEAR, QUIT = "\x0e", "\x15", "\x11"
ENTER, TAB, DOWN = "\r", "\t", "\x1b[B"
STEPS = 6

KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("n", ("▸Hardware", "Automatic", "Precision")),
    (NEXT, ("▸Model", "Demo model that comes with the program")),
    (TAB + TAB + DOWN + ENTER, ("✓ Stable Diffusion 1.5", "v_prediction")),
    (NEXT, ("▸Folders", "16 images, all with captions", "results_current")),
    (NEXT, ("▸Captions", "16 of 16 images with a caption")),
    (NEXT, ("▸Parameters", "140 steps = 9 epochs")),
    ("/", ("To the fields",)),
    ("max_train_steps", ("│1 of ",)),
    (ENTER, ("Edit",)),
    (ENTER, ("Cancel",)),
    (CLEAR, ("A number is needed here",)),
    (str(STEPS), (f"Steps                       │{STEPS} ",)),
    (ENTER, (f"{STEPS} steps = 1 epoch", "1 changed")),
    (NEXT, ("▸Review", "Ready to start")),
    (NEXT, ("▸Train", "smithy")),
)
"""What is pressed, and what is then on the screen. One key with a binding at a time: Textual hands letters that
come in the same read to the field before it looks for the binding."""


def take_into_use(terminal: Any, place: Path) -> None:
    """From the verdict: a prompt at two strengths, and the file in a models folder."""
    terminal.send("p")
    terminal.until_shown("Try smithy.safetensors", "Enter generates.", "smithy on a green background", seconds=60)
    for keys in (TAB, CLEAR, "0.6,1.0", ENTER):
        terminal.send(keys)
    terminal.until_shown("grid", seconds=120)
    images = sorted(path.name for path in (place / "smithy/results_current/try").glob("*.png"))
    assert len(images) == 4, images
    terminal.send("\x1b")
    terminal.until_shown("▸Results")
    folder = place / "loras"
    folder.mkdir()
    terminal.send("u")
    terminal.until_shown("in which models folder?")
    terminal.send(str(folder))
    terminal.send(ENTER)
    terminal.until_shown("Ready for use")
    assert read_header(folder / "smithy.safetensors").metadata["modelspec.trigger_phrase"] == "smithy"


@pytest.mark.slow  # a training by the real trainer: half a minute
@pytest.mark.timeout(280)
def test_the_demo_from_keys(start: Start, place: Path) -> None:
    terminal = start("--no-mouse", term="xterm", OMP_NUM_THREADS="1")
    terminal.until_shown("There is no run yet")
    for keys, texts in KEYS:
        terminal.send(keys)
        terminal.until_shown(*texts, seconds=60)
    terminal.until_shown("▶ running", seconds=90)
    terminal.until_shown("✓ finished", seconds=150)
    terminal.send("v")
    terminal.until_shown("▸Results", "1 file", "smithy.safetensors", "● best", "% lower on training images")
    take_into_use(terminal, place)
    run_dir = RunDir(place / "smithy" / "results_current")
    assert true_state(run_dir).step == STEPS
    assert not inspect_lora(run_dir.lora_path()).problems
    terminal.send(QUIT)
    assert terminal.wait() == 0 and terminal.restored and b"?1000h" not in terminal.raw
