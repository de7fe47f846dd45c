"""Prediction type and zero terminal SNR of a checkpoint, from its metadata or markers. Loads no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from engine.config.schema import ModelTable
from engine.errors import ModelError, UsageError
from engine.models.configs import SCHEDULER, read_config
from engine.models.header import Header
from engine.text import printable
from engine.types import Log, PredictionType, Recognition

_PREDICTIONS: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "vpred": "v_prediction",
}


_NAMED_V = re.compile(r"v[-_ ]?pred", re.IGNORECASE)


@dataclass
class Noise:
    """The noise schedule of a checkpoint."""

    prediction_type: PredictionType
    stated: bool
    """Whether the checkpoint states it; else it is the usual one."""
    zero_terminal_snr: bool
    reasons: list[str]


def noise_of_file(header: Header, family: str, name: str) -> Noise:
    """Of the single file `name`: its metadata, then the marker tensors v_pred and ztsnr, then what is usual in the
    family. A file name proves nothing, but is reported."""
    stated_type = header.metadata.get("modelspec.prediction_type", "")
    named = _PREDICTIONS.get(stated_type.lower())
    marked = "v_pred" in header.tensors
    zero = "ztsnr" in header.tensors
    if named is not None:
        prediction, reason = named, f"modelspec.prediction_type in the file's metadata is {stated_type}"
    elif marked:
        prediction, reason = "v_prediction", "the file has the marker tensor v_pred"
    else:
        prediction, reason = "epsilon", f"the file does not state it; nearly all {family} models are"
    reasons = [f"prediction type {prediction}: {reason}"]
    if named is None and not marked and _NAMED_V.search(name):
        reasons.append(
            "but its name has v-prediction: if it is, set model.v_parameterization=true, or the LoRA comes out broken"
        )
    has = "on: the file has" if zero else "off: the file has not"
    reasons.append(f"zero terminal SNR {has} the marker tensor ztsnr")
    return Noise(prediction, named is not None or marked, zero, reasons)


def noise_of_folder(folder: Path) -> Noise:
    """As scheduler/scheduler_config.json has it.

    Raises:
        ModelError: it asks for another prediction type.
    """
    scheduler = read_config(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    stated_type = scheduler.get("prediction_type")
    named = _PREDICTIONS.get(str(stated_type or "epsilon").lower())
    if named is None:
        raise ModelError(
            f"{printable(folder)}/scheduler/scheduler_config.json asks for prediction_type {stated_type!r}.",
            "epsilon and v_prediction can be trained.",
            code="prediction-type-not-supported",
        )
    reason = (
        "scheduler_config.json"
        if stated_type
        else "scheduler_config.json does not state it, and epsilon is the default"
    )
    zero = bool(scheduler.get("rescale_betas_zero_snr", False))
    reasons = [
        f"prediction type {named}: {reason}",
        f"zero terminal SNR {'on' if zero else 'off'}: scheduler_config.json",
    ]
    return Noise(named, stated_type is not None, zero, reasons)


def choose_prediction_type(table: ModelTable, recognition: Recognition, log: Log) -> PredictionType:
    """The checkpoint's prediction type, or that of the run if the checkpoint does not state it.

    Raises:
        UsageError: they contradict each other.
    """
    if table.v_parameterization is None:
        return recognition.prediction_type
    configured: PredictionType = "v_prediction" if table.v_parameterization else "epsilon"
    if configured == recognition.prediction_type:
        return configured
    if recognition.details.get("prediction_type_stated"):
        reason = next((text for text in recognition.reasons if text.startswith("prediction type")), "")
        raise UsageError(
            f"model.v_parameterization = {str(table.v_parameterization).lower()} contradicts "
            f"{printable(recognition.path)} ({reason}).",
            f"Leave model.v_parameterization unset, or set it to {str(not table.v_parameterization).lower()} (Kohya's "
            "v_parameterization); training on the wrong target destroys the model.",
            code="v-parameterization-contradicts-model",
        )
    log(f"Prediction type {configured}: model.v_parameterization; the file does not state it.")
    return configured


def effective_recognition(table: ModelTable, recognition: Recognition) -> Recognition:
    """`recognition` with the run's settings; its reasons name them.

    Raises:
        UsageError: see `choose_prediction_type`.
    """
    prediction = choose_prediction_type(table, recognition, lambda _: None)
    zero = choose_zero_terminal_snr(table, recognition, prediction, lambda _: None)
    reasons = list(recognition.reasons)
    if prediction != recognition.prediction_type:
        reasons = [text for text in reasons if not text.startswith(("prediction type", "but its name"))]
        reasons.append(f"prediction type {prediction}: model.v_parameterization; the file does not state it")
    if zero != recognition.zero_terminal_snr:
        reasons = [text for text in reasons if not text.startswith("zero terminal SNR")]
        reasons.append(f"zero terminal SNR {'on' if zero else 'off'}: model.zero_terminal_snr")
    return replace(recognition, prediction_type=prediction, zero_terminal_snr=zero, reasons=tuple(reasons))


def choose_zero_terminal_snr(table: ModelTable, recognition: Recognition, prediction: PredictionType, log: Log) -> bool:
    """The run's setting, else the checkpoint's; an unusual choice is logged."""
    zero = recognition.zero_terminal_snr
    if table.zero_terminal_snr is not None and table.zero_terminal_snr != zero:
        zero = table.zero_terminal_snr
        log(f"Zero terminal SNR {'on' if zero else 'off'}: model.zero_terminal_snr; the checkpoint has the opposite.")
    if zero and prediction == "epsilon":
        log("Zero terminal SNR with epsilon prediction: the last timestep teaches nothing; it is meant for v models.")
    return zero
