"""`[logging]`: other programs that show a run, and a check of these settings. Loads none of these programs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from engine.config.fields import Table, setting
from engine.errors import LoraSmithError, UsageError
from engine.reading import parse_toml, read_text
from engine.text import listing, printable

LogWith = Literal["tensorboard", "wandb", "trackio", "all"]
TRACKER = "network_train"
"""The scripts' name of the folder, and of the project, where none is set."""
WANDB_KEY = "WANDB_API_KEY"
_OFFLINE = ("offline", "dryrun", "disabled")


@dataclass(frozen=True)
class LoggerFacts:
    """A program that shows runs."""

    title: str
    install: str
    """The command that installs its package, which is also its module."""
    options: tuple[str, ...] = ()
    """Arguments of its `init` that a file may set (`log_tracker_config`): none is a secret or the address of a
    server."""


LOGGERS = {
    "tensorboard": LoggerFacts("TensorBoard", 'pip install "lorasmith[tensorboard]"'),
    "wandb": LoggerFacts(
        "Weights & Biases",
        "pip install wandb",
        ("project", "name", "entity", "group", "job_type", "tags", "notes"),
    ),
    "trackio": LoggerFacts("trackio", "pip install trackio", ("project", "name", "group", "space_id", "private")),
}
"""By Kohya's names; trackio is one more."""


class LoggingTable(Table):
    """`[logging]`: programs that show the loss, the rates and the samples of a run."""

    log_with: LogWith | None = setting(
        None,
        "Log with",
        "tensorboard, wandb, trackio, or all that are installed. Unset: TensorBoard where logging_dir is set.",
        advanced=True,
    )
    logging_dir: str | None = setting(
        None,
        "Log folder",
        "Each run gets a folder in it, named by the time of its start. Unset: logs in the output folder.",
        advanced=True,
    )
    log_prefix: str | None = setting(None, "Log prefix", "Comes before the time in the folder's name.", advanced=True)
    log_tracker_name: str | None = setting(
        None, "Project", "Also the name of TensorBoard's folder. Unset: network_train.", advanced=True
    )
    wandb_run_name: str | None = setting(
        None, "Run name", "Of Weights & Biases and trackio; unset: the name of the LoRA.", advanced=True
    )
    log_tracker_config: str | None = setting(
        None, "Logger settings", 'A TOML file with arguments of their init: [wandb] entity = "team".', advanced=True
    )
    log_config: bool = setting(
        False, "Log the settings", "The loggers get the settings too, without paths.", advanced=True
    )

    @field_validator("log_tracker_name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and (not name.strip() or name in (".", "..") or set("/\\") & set(name)):
            raise ValueError("a name without / and \\")
        return name

    @property
    def project(self) -> str:
        """Name of the project, and of TensorBoard's folder."""
        return self.log_tracker_name or TRACKER


@dataclass(frozen=True)
class UsedLoggers:
    """The loggers of a run on this machine."""

    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """A sentence on each of them, and on each that is left out."""
    on_hub: bool = False
    """trackio writes to a Space of the Hugging Face hub."""


def used_loggers(logging: LoggingTable, environment: Mapping[str, str] = os.environ) -> UsedLoggers:
    """The loggers that a run with these settings writes to.

    Without `log_with`, and with "all", those that cannot be used are left out with a note.

    Raises:
        UsageError: a logger is chosen that cannot be used, or `log_tracker_config` is wrong.
    """
    if logging.log_with is None and logging.logging_dir is None:
        return UsedLoggers()
    wanted = tuple(LOGGERS) if logging.log_with == "all" else (logging.log_with or "tensorboard",)
    problems = {name: problem for name in wanted if (problem := _problem(name, environment)) is not None}
    names = tuple(name for name in wanted if name not in problems)
    if not names and logging.log_with is not None:
        raise next(iter(problems.values()))
    options = tracker_options(logging)
    subject = "logging.logging_dir has no effect." if logging.log_with is None else "A logger is left out."
    left_out = [f"{subject} {problem.message} {problem.hint}" for problem in problems.values()]
    places = [_place(name, logging, options.get(name, {}), environment) for name in names]
    space = options.get("trackio", {}).get("space_id") or environment.get("TRACKIO_SPACE_ID")
    return UsedLoggers(names, (*places, *left_out), "trackio" in names and bool(space))


def tracker_options(logging: LoggingTable) -> dict[str, dict[str, Any]]:
    """The arguments in `log_tracker_config`, by logger; empty without such a file.

    Raises:
        UsageError: it cannot be read, or has an argument that a file may not set.
    """
    if logging.log_tracker_config is None:
        return {}
    path = Path(logging.log_tracker_config).expanduser()
    where = f"logging.log_tracker_config: {printable(path)}"
    try:
        content = parse_toml(read_text(path))
    except (OSError, ValueError, LoraSmithError) as error:
        raise UsageError(
            f"{where} cannot be read: {error}.", "Name a TOML file.", code="logger-config-not-readable"
        ) from None
    options: dict[str, dict[str, Any]] = {}
    for name, table in content.items():
        allowed = LOGGERS[name].options if name in LOGGERS else ()
        strange = [key for key in table if key not in allowed] if isinstance(table, dict) else [name]
        if name != "tensorboard" and (strange or name not in LOGGERS):
            what = f"[{printable(name)}] {listing([printable(key) for key in strange], 3)}"
            has = "; ".join(f"[{key}] {', '.join(facts.options)}" for key, facts in LOGGERS.items() if facts.options)
            raise UsageError(
                f"{where} sets {what}, which no file may set.",
                f"It may set {has}. Keys and addresses of servers are taken from the environment only.",
                code="logger-config-not-possible",
            )
        options[name] = table if name != "tensorboard" else {}
    return options


def _problem(name: str, environment: Mapping[str, str]) -> UsageError | None:
    """Why a logger cannot be used here; None if it can."""
    facts = LOGGERS[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # no package, or a folder of that name
        return UsageError(
            f"logging.log_with: {facts.title} needs the package {name}, which is not installed.",
            f"Install it: {facts.install}.",
            code="logger-package-missing",
        )
    if name == "wandb" and not environment.get(WANDB_KEY) and environment.get("WANDB_MODE") not in _OFFLINE:
        return UsageError(
            f"logging.log_with: {facts.title} needs a key in the environment variable {WANDB_KEY}.",
            "Set it, or WANDB_MODE=offline: `wandb sync` then sends the run later.",
            code="logger-key-missing",
        )
    return None


def _place(name: str, logging: LoggingTable, options: Mapping[str, Any], environment: Mapping[str, str]) -> str:
    """A sentence on where a logger's data go."""
    what = "The loss, the learning rates and the samples go to"
    folder = printable(logging.logging_dir) if logging.logging_dir else "logs in the output folder"
    project = printable(str(options.get("project", logging.project)))
    if name == "tensorboard":
        return f"{what} TensorBoard's files in {folder}."
    if name == "wandb" and environment.get("WANDB_MODE") in _OFFLINE:
        return f"{what} Weights & Biases' files in {folder} (WANDB_MODE={environment['WANDB_MODE']})."
    if name == "wandb":
        of = f" of {printable(str(options['entity']))}" if "entity" in options else ""
        return f"{what} Weights & Biases, to the project {project}{of}, with the key in {WANDB_KEY}."
    space = options.get("space_id") or environment.get("TRACKIO_SPACE_ID") or environment.get("TRACKIO_SERVER_URL")
    return f"{what} trackio, project {project}, {f'at {printable(str(space))}' if space else 'on this machine'}."
