"""Resolves the written configuration into the settings that a run really uses: `resolve_run`. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.config import RunConfig, resolve
from engine.config.prompts import Prompt, read_prompts
from engine.config.resolve import ResolvedConfig, check_model
from engine.config.unused import without_effect
from engine.errors import ModelError, UsageError
from engine.families.base import Family
from engine.families.block_lists import read_block_lists
from engine.families.registry import (
    families,
    family_named,
    foreign_lists,
    foreign_settings,
    foreign_values,
    recognise,
    specs,
)
from engine.hardware import process_count
from engine.text import plural
from engine.types import Recognition


@dataclass(frozen=True)
class ResolvedRun:
    """A run with its effective settings. Only `resolve_run` creates one."""

    written: RunConfig
    """The written configuration: changes of settings are made in it."""
    config: ResolvedConfig
    """The effective settings, without contradictions."""
    recognition: Recognition
    """Of the checkpoint, or of a reference model (`reference_model`), with what `[model]` decides."""
    family_notes: tuple[str, ...]
    """A sentence for each setting that the family changes or does not have."""
    rule_notes: tuple[str, ...]
    """A sentence for each setting that another one changes or makes ineffective."""

    @property
    def family(self) -> Family:
        """The family of its model."""
        return family_named(self.recognition.family)

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each effective setting that differs from the written one."""
        return (*self.family_notes, *self.rule_notes)

    def prompts(self, log: Callable[[str], None] = lambda _: None) -> list[Prompt]:
        """The prompts of its samples.

        Args:
            log: called with a sentence for each flag that does nothing.

        Raises:
            UsageError: the file cannot be read, or a line is wrong.
        """
        return read_prompts(self.config, log, self.family.spec.prompt_flags)


def resolve_run(config: RunConfig, recognition: Recognition | None = None) -> ResolvedRun:
    """The run of a written configuration. Resolving the result's `config` again changes nothing and is never refused.

    Args:
        recognition: of the checkpoint, or a reference model; None: see `recognition_of`.

    Raises:
        UsageError: a contradiction, between settings or with the checkpoint, that only the user can resolve.
        ModelError: the checkpoint cannot be used.
    """
    recognition = recognition or recognition_of(config)
    family = family_named(recognition.family)
    recognition = family.effective_recognition(config, recognition)
    foreign = foreign_settings(family.spec) | foreign_values(family.spec, config) | foreign_lists(family.spec)
    own, foreign_notes = without_effect(config, foreign)
    own, rate_notes = _rates_of_encoders(own, family)
    own, process_notes = _counted_processes(own)
    normalized, family_notes = family.normalize_config(own, recognition)
    resolved, rule_notes = resolve(normalized, partial_text_cache=family.spec.partial_text_cache)
    blocks = read_block_lists(resolved.network, family.spec.block_lists)
    rule_notes += [] if blocks is None else blocks.notes
    if recognition.layout != "configurations":  # a reference model does not have a checkpoint's properties
        check_model(resolved, recognition)
    own_notes = (*foreign_notes, *rate_notes, *process_notes, *family_notes)
    return ResolvedRun(config, resolved, recognition, own_notes, tuple(rule_notes))


def _rates_of_encoders(config: RunConfig, family: Family) -> tuple[RunConfig, list[str]]:
    """At most one learning rate for each text encoder that can be trained, and a note where there were more."""
    rates, count = config.training.text_rates, sum(encoder.is_trainable for encoder in family.spec.encoders)
    if not 0 < count < len(rates):
        return config, []
    note = (
        f"training.text_encoder_lr has {len(rates)} rates, and {plural(count, 'text encoder')} can be trained: the "
        "rest is unused."
    )
    return config.changed(training={"text_encoder_lr": list(rates[:count]) if count > 1 else rates[0]}), [note]


def _counted_processes(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """With the number of processes that "auto" comes to on this machine, and a note with it."""
    if config.training.num_processes != "auto":
        return config, []
    count = process_count("auto", config.memory.device)
    cards = f"{count} GPUs are visible" if count > 1 else "no second GPU is used"
    return config.changed(training={"num_processes": count}), [f"training.num_processes is {count}: {cards}."]


def resolve_without_model(config: RunConfig) -> ResolvedRun:
    """The same, but with a reference model if the checkpoint is not chosen, gone or on another machine.

    Raises:
        UsageError: as `resolve_run`.
    """
    try:
        recognition = recognition_of(config)
    except (ModelError, UsageError):
        recognition = reference_model(config)
    return resolve_run(config, recognition)


def recognition_of(config: RunConfig) -> Recognition:
    """The checkpoint of a run, or the reference model of its family where it has none.

    Raises:
        UsageError: it has none and names no family.
        ModelError: the checkpoint cannot be used.
    """
    if config.model.pretrained_model_name_or_path:
        return recognise(config.model.pretrained_model_name_or_path)
    names = [family.name for family in families()]
    if config.model.family not in names:
        raise UsageError(
            "The plan needs a model, or the family of one.",
            f"Add --model PATH, or --set model.family=NAME with one of {', '.join(names)}.",
            code="plan-without-model",
        )
    return family_named(config.model.family).reference_model()


def family_of_settings(config: RunConfig) -> Family | None:
    """The family that the settings are for: by its name, its network module or its companion files; None if unknown."""
    name, module = config.model.family, config.network.network_module
    if name == "auto" and module != RunConfig().network.network_module:
        name = next((spec.name for spec in specs() if spec.network_module == module), name)
    named = [family for family in families() if family.name == name]
    by_companion = [family for family in families() if any(config.value(key) for key in family.spec.companions)]
    return next(iter([*named, *by_companion]), None)


def reference_model(config: RunConfig) -> Recognition:
    """The reference model of the family that the settings are for, to resolve a run without a checkpoint. If they are
    for none, that with the smallest multiple of bucket sides, among the families whose models are one file."""
    family = family_of_settings(config)
    if family is not None:
        return family.reference_model()
    single_file = [family for family in families() if not family.spec.companions]
    return min((family.reference_model() for family in single_file), key=lambda recognition: recognition.multiple)
