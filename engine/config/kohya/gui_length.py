"""How long a configuration of the GUI trains: steps or epochs, warm-up, restarts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from engine.config.kohya.gui_keys import COUNTED
from engine.config.kohya.gui_reading import GuiReading, as_float, is_nothing
from engine.text import printable


def read_length(reading: GuiReading) -> None:
    """Steps or epochs, warm-up in percent or steps, restarts."""
    steps, epochs = reading.integer("max_train_steps"), reading.integer("max_train_epochs")
    pages = reading.integer("epoch", 1 if "max_train_steps" in reading.content else 0)
    configured = bool(reading.content.get("dataset_config"))
    if epochs:
        reading.take("max_train_epochs", epochs, "max_train_epochs")
        for key, value in (("max_train_steps", steps), ("epoch", pages)):
            if value and key in reading.content:
                reading.record(key, "no effect", f"max_train_epochs = {epochs} decides")
    elif steps:
        reading.take("max_train_steps", steps, "max_train_steps")
        if pages and "epoch" in reading.content:
            reading.record("epoch", "no effect", f"max_train_steps = {steps} decides, as in the GUI")
    elif pages and reading.exact and configured:
        text = "the GUI passes no length on with dataset_config, so that the scripts' 1600 steps hold"
        reading.record("epoch", "no effect", text)
    elif pages and reading.exact:
        text = "the GUI's count of steps, from the images that are there now"
        reading.record("epoch", "honoured", text, "training.max_train_steps")
        reading.take("max_train_steps", gui_steps(reading.content, pages))
    elif pages:
        text = "whole epochs: the GUI's own count cuts the last one short"
        reading.record("epoch", "better", text, "training.max_train_epochs")
        reading.take("max_train_epochs", pages, source="epoch")
    name = reading.content.get("lr_scheduler", "cosine")
    scheduler = name if isinstance(name, str) and not is_nothing(name) else "constant"
    _warmup(reading, scheduler, steps, configured)
    empty = reading.content.get("lr_scheduler_num_cycles") == ""
    cycles = pages if empty else reading.integer("lr_scheduler_num_cycles")
    if cycles > 1 and scheduler == "cosine_with_restarts":
        reading.take("lr_scheduler_num_cycles", cycles, "lr_scheduler_num_cycles")
    elif not reading.off("lr_scheduler_num_cycles"):
        reading.record("lr_scheduler_num_cycles", "no effect", "for cosine_with_restarts, and above 1")


def _warmup(reading: GuiReading, scheduler: str, steps: int, configured: bool) -> None:
    percent, absolute = reading.number("lr_warmup", 10), reading.number("lr_warmup_steps")
    if absolute and configured and not steps:
        reading.record(
            "lr_warmup_steps", "no effect", "with dataset_config and no max_train_steps the GUI takes lr_warmup"
        )
        absolute = 0.0
    elif absolute and reading.number("lr_warmup"):
        reading.record("lr_warmup", "no effect", "lr_warmup_steps decides")
    key = "lr_warmup_steps" if absolute else "lr_warmup"
    if not percent and not absolute:
        return
    if scheduler in ("constant", "adafactor"):
        text = f"the schedule {scheduler} has no warm-up; the GUI would stop here"
        reading.record(key, "better", text, value=absolute or percent)
        return
    if absolute:
        value: float = int(absolute)
    elif configured and steps:
        value = round(percent * steps / 100)
    else:
        value = percent / 100
    text = "" if absolute else "percent" + ("" if "lr_warmup" in reading.content else ", the GUI's default")
    reading.record(key, "honoured", text, "training.lr_warmup_steps", f"{absolute or percent:g}")
    reading.take("lr_warmup_steps", value, source=key)


def gui_steps(content: Mapping[str, Any], epochs: int) -> int:
    """Steps in this number of epochs as the GUI counts them: images with repeats, ignoring buckets, doubled with
    regularization images.

    Raises:
        DataError: train_data_dir does not exist.
    """
    from engine.config.kohya.dataset_file import kohya_path
    from engine.errors import DataError

    folder = kohya_path(str(content.get("train_data_dir") or ""))
    if not folder.is_dir():
        raise DataError(
            f"train_data_dir: the folder {printable(folder)} does not exist.",
            "The GUI counts steps from its images. Without --kohya-exact the length is one in epochs.",
            code="folder-missing",
        )
    items = 0
    for inner in folder.iterdir():
        repeats = inner.name.partition("_")[0]
        if inner.is_dir() and repeats.isdecimal():
            items += int(repeats) * sum(path.suffix.lower() in COUNTED for path in inner.iterdir())
    batch, accumulation = (
        int(as_float(content.get(key))) or 1 for key in ("train_batch_size", "gradient_accumulation_steps")
    )
    return math.ceil(items / batch / accumulation * epochs * (2 if content.get("reg_data_dir") else 1))
