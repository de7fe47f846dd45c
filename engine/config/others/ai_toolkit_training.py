"""ai-toolkit: the adapter, learning rates, optimizer, schedule and length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config.kohya.argument_values import number_of
from engine.config.kohya.arguments import installed_optimizer
from engine.config.others.ai_toolkit_keys import NAME, REMARKS, SETTINGS
from engine.config.others.kinds import kronecker
from engine.config.others.table import Reading, brief, our_default
from engine.config.problems import Problem

_SCHEDULE_LENGTHS = frozenset({"total_iters", "T_max", "T_0", "steps", "factor", "max_iterations"})
"""Settings of a schedule that follow from the number of steps."""


def training(reading: Reading) -> None:
    """Convert the keys of network and train."""
    _network(reading)
    _rates(reading)
    _optimizer(reading)
    _length(reading)


def _network(reading: Reading) -> None:
    """The kind of adapter, its ranks and alphas."""
    algo = reading.chosen("network.type")
    if algo is not None:
        reading.use("network.type", "network.algo", algo)
    if algo == "lokr":
        _lokr(reading)
    else:
        _ranks(reading, algo_has_alpha=reading.family != "flux")
        if (value := reading.get("network.dropout")) is not None:
            reading.use("network.dropout", "network.network_dropout", value)


def _lokr(reading: Reading) -> None:
    """LoKr: with full matrices, or with ranks as a LoRA. Its file has alphas for FLUX too."""
    if reading.has("network.dropout"):
        reading.record("network.dropout", "no effect", f"lokr has none in {NAME} either")
    full = reading.get("network.lokr_full_rank")
    if full is None and not reading.has("network.lokr_full_rank"):
        message = f"required for lokr, and missing: its default is not the same in all versions of {NAME}."
        reading.conversion.problems.append(Problem("", "network.lokr_full_rank", message, "Write true or false."))
    elif full:
        reading.use("network.lokr_full_rank", "network.full_matrix", True)
        for name in ("rank", "linear", "linear_alpha", "alpha", "conv", "conv_alpha"):
            if reading.has(f"network.{name}"):
                reading.record(f"network.{name}", "no effect", "lokr_full_rank: the matrices have no rank")
        if reading.family != "flux":
            dim = reading.conversion.values.get("network", {}).get("network_dim") or our_default("network.network_dim")
            reading.conversion.set("network.conv_dim", dim, "network.lokr_full_rank")
    elif full is False:
        reading.record("network.lokr_full_rank", "honoured", "with ranks")
        _ranks(reading, algo_has_alpha=True)
    kronecker(reading, "network.lokr_factor")


def _ranks(reading: Reading, *, algo_has_alpha: bool) -> None:
    """Ranks and alphas; without an alpha of its own it is the rank."""
    key = "network.rank" if reading.has("network.rank") else "network.linear"
    rank = reading.get(key)
    if rank is None and not reading.has(key):
        message = "required, and missing: the rank of the LoRA."
        reading.conversion.problems.append(Problem("", "network.linear", message))
    elif rank is not None:
        reading.use(key, "network.network_dim", rank)
    conv = _convolutions(reading)
    if not algo_has_alpha:
        for name in ("network.linear_alpha", "network.alpha"):
            if reading.has(name):
                reading.record(name, "no effect", f"for FLUX alpha is the rank, as {NAME} trains and saves it")
        if rank is not None:
            reading.conversion.set("network.network_alpha", float(rank))
        return
    alpha = "network.linear_alpha" if reading.has("network.linear_alpha") else "network.alpha"
    if (value := reading.get(alpha)) is not None:
        reading.use(alpha, "network.network_alpha", value)
    if conv and reading.has("network.conv_alpha"):
        if (value := reading.get("network.conv_alpha")) is not None:
            reading.use("network.conv_alpha", "network.conv_alpha", value)
    elif conv:
        reading.conversion.set("network.conv_alpha", float(conv))


def _convolutions(reading: Reading) -> int | None:
    """The rank of convolutions; None where none are trained, or the model has none."""
    if not reading.has("network.conv"):
        return None
    if reading.family == "flux":
        reading.record("network.conv", "no effect", "for Stable Diffusion 1.5 and SDXL only")
        return None
    conv: int | None = reading.get("network.conv")
    if conv is not None:
        reading.use("network.conv", "network.conv_dim", conv)
    return conv


def _rates(reading: Reading) -> None:
    """Which parts are trained, and their learning rates."""
    rate = reading.get("train.lr")
    finds = str(reading.get("train.optimizer")).lower().startswith(("prodigy", "dadaptation"))
    low = finds and rate is not None and rate < 0.1
    if rate is not None:
        text = f"1, as the optimizer finds the rate: {NAME} takes 1 instead of a rate below 0.1" if low else ""
        reading.use("train.lr", "training.learning_rate", 1.0 if low else rate, text)
    unet, texts = reading.get("train.train_unet"), reading.get("train.train_text_encoder")
    if unet is False:
        reading.use("train.train_unet", "network.network_train_text_encoder_only", True)
    elif reading.has("train.train_unet"):
        reading.record("train.train_unet", "honoured", "trained")
    if not texts:
        reading.use("train.train_text_encoder", "network.network_train_unet_only", True, "no text encoder is trained")
    elif reading.family == "flux":
        reading.fail("train.train_text_encoder", "T5 is never trained: set it to false")
    else:
        reading.record("train.train_text_encoder", "honoured", "trained")
    if reading.has("train.unet_lr") and (value := reading.get("train.unet_lr")) is not None:
        reading.use("train.unet_lr", "training.unet_lr", value)
    if texts and reading.has("train.text_encoder_lr") and (value := reading.get("train.text_encoder_lr")) is not None:
        reading.use("train.text_encoder_lr", "training.text_encoder_lr", value)


def _optimizer(reading: Reading) -> None:
    """The optimizer with its settings, and the schedule."""
    chosen = reading.chosen("train.optimizer")
    settings = reading.get("train.optimizer_params") or {}
    lines = [f"{key}={_joined(value)}" for key, value in settings.items()]
    own = [line for line in SETTINGS.get(str(chosen), ()) if line.partition("=")[0] not in settings]
    lines += own
    if chosen is not None:
        name, other = installed_optimizer(chosen)
        other = other or REMARKS.get(str(reading.get("train.optimizer")).lower(), "")
        text = "; ".join(part for part in (other, f"with {NAME}'s {', '.join(own)}" if own else "") if part)
        reading.use("train.optimizer", "training.optimizer_type", name, text, "better" if other else "honoured")
    if reading.has("train.optimizer_params"):
        text = ", ".join(lines)
        reading.record("train.optimizer_params", "honoured", "", "training.optimizer_args", value=text or "a table")
    if lines:
        source = "train.optimizer_params" if settings else "train.optimizer"
        reading.conversion.set("training.optimizer_args", lines, source)
    schedule = reading.chosen("train.lr_scheduler")
    parameters = reading.get("train.lr_scheduler_params") or {}
    if schedule is not None:
        _schedule(reading, schedule, parameters)


def _joined(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _schedule(reading: Reading, schedule: str, parameters: Mapping[str, Any]) -> None:
    """The schedule and its settings."""
    warmup = 1000 if schedule == "constant_with_warmup" else 0
    lowest: float | None = None
    for name, raw in parameters.items():
        key, value = f"train.lr_scheduler_params.{name}", number_of(raw)
        if name in _SCHEDULE_LENGTHS:
            reading.record(key, "no effect", "it follows from the number of steps", value=brief(raw))
        elif value is None:
            message = f"{brief(repr(raw))} is not valid: enter a number."
            reading.conversion.problems.append(Problem("", key, message))
        elif name == "num_warmup_steps" and schedule != "constant":
            warmup = int(value)
            reading.record(key, "honoured", "", "training.lr_warmup_steps", value=warmup)
        elif name == "eta_min" and schedule.startswith("cosine"):
            lowest = value
            reading.record(key, "honoured", "", "training.lr_scheduler_min_lr_ratio", value=raw)
        else:
            reading.record(key, "no effect", f"no setting of the schedule {schedule}", value=brief(raw))
    rate = reading.get("train.lr")
    if lowest and rate:
        schedule = "cosine_with_min_lr"
        reading.conversion.set("training.lr_scheduler_min_lr_ratio", lowest / rate, "train.lr_scheduler_params")
    reading.use("train.lr_scheduler", "training.lr_scheduler", schedule)
    if warmup:
        reading.conversion.set("training.lr_warmup_steps", warmup, "train.lr_scheduler_params")


def _length(reading: Reading) -> None:
    """Steps and accumulation."""
    steps, accumulated = reading.get("train.steps"), reading.get("train.gradient_accumulation")
    older = reading.get("train.gradient_accumulation_steps") or 1
    text = ""
    if older > 1:
        accumulated = older
        steps = None if steps is None else max(1, steps // older)
        text = f"{NAME} counts batches here: divided by gradient_accumulation_steps"
    elif older < 0:
        reading.fail("train.gradient_accumulation_steps", "a whole epoch as one step: give a number")
    if steps is not None:
        reading.use("train.steps", "training.max_train_steps", steps, text)
    key = "train.gradient_accumulation_steps" if older > 1 else "train.gradient_accumulation"
    if accumulated is not None:
        reading.use(key, "training.gradient_accumulation_steps", accumulated)
    if older == 1 and reading.has("train.gradient_accumulation_steps"):
        reading.record("train.gradient_accumulation_steps", "honoured", "1: as it is here")
