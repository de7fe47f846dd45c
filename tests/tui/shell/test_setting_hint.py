"""An option that is a setting's key, or an argument of Kohya's scripts, is answered with what to type."""

from __future__ import annotations

import pytest

from tui.shell.setting_hint import setting_hint


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--max_train_steps", "10"], "--set training.max_train_steps=10"),
        (["--max-train-steps=10"], "--set training.max_train_steps=10"),
        (["--unet_lr", "1e-4", "--name", "a"], "--set training.unet_lr=1e-4"),
        (["--enable_bucket"], "--set dataset.enable_bucket=true"),
        (["--enable_bucket", "--name", "a"], "--set dataset.enable_bucket=true"),
        (["--deepspeed"], "argument of Kohya's scripts"),
    ],
)
def test_the_setting(arguments: list[str], expected: str) -> None:
    assert expected in setting_hint(arguments[0].partition("=")[0], arguments)


def test_no_setting() -> None:
    assert setting_hint("--no-such-thing", ["--no-such-thing", "1"]) == ""
