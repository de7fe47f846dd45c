"""Changes of settings in the middle of a run: those in `training.changes`, and those that the user requests meanwhile.

A requested change is added to `training.changes` in the run's own configuration before it takes effect, so that it is
made at the same step again when the step is repeated: after a kill, or in a repeat of the run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from engine.atomic import write_text
from engine.config import RunConfig, load_config, update_toml
from engine.config.change import CAPTION_KEYS, LENGTH_KEYS, RATE_KEYS, WEIGHT_KEYS, Change, read_change
from engine.config.changes import EffectiveConfig, changed_by, changes_of, effective_config, with_change
from engine.config.optimizers import check_rates
from engine.config.prompts import read_prompts
from engine.config.rates import RateGroup
from engine.dataset.arithmetic import StepPlan
from engine.dataset.captions import CaptionRules
from engine.errors import LoraSmithError
from engine.reading import read_text
from engine.runs.events import ChangedEvent
from engine.training.batch_source import BatchSource
from engine.training.ranks import Ranks
from engine.training.schedules import set_rates, stretch
from engine.training.session import Session
from engine.training.texts import missing_captions
from engine.training.train_state import TrainState


class Changes:
    """The changes of one run, each applied at its step.

    Args:
        state: its settings, length and learning rates are changed.
        flags: the family's own prompt flags.
    """

    def __init__(
        self, session: Session, state: TrainState, batches: BatchSource, ranks: Ranks, flags: frozenset[str]
    ) -> None:
        self.session, self.state, self.batches, self.ranks, self._flags = session, state, batches, ranks, flags
        self.base = state.config
        """The settings at the start of the run."""
        self._listed = list(changes_of(batches.config))
        self.prompts = read_prompts(state.config, session.log, flags)
        """The current prompts."""
        self._initial_plan: StepPlan = state.plan

    @property
    def applied(self) -> list[str]:
        """The changes that took effect, as text; part of the saved state."""
        return self.state.progress.applied

    def pending(self) -> list[Change]:
        """The changes that did not take effect yet."""
        counts, pending = Counter(self.applied), []
        for change in self._listed:
            if counts[str(change)]:
                counts[str(change)] -= 1
            else:
                pending.append(change)
        return pending

    def plan_at(self, step: int) -> StepPlan:
        """The run's length as of `step`, with the changes made until then."""
        now = effective_config(self._with_listed(), step)
        return self._initial_plan.of_length(now.training)

    def last_step(self) -> int:
        """The step at which the run ends, with the changes that are due at the current step."""
        step = self.state.step
        if any(change.step <= step and change.key in LENGTH_KEYS for change in self.pending()):
            return self.plan_at(step).max_train_steps
        return self.state.plan.max_train_steps

    def restore_settings(self) -> None:
        """Apply the settings of the restored state; the learning rates come from the state itself."""
        config: RunConfig = self.base
        listed, edited = {str(change) for change in self._listed}, []
        for text in self.applied:
            change = read_change(text)
            if text in listed or change.key in WEIGHT_KEYS:  # a changed interval may be replaced at a resume
                config = changed_by(config, change)
            if text not in listed and change.key in WEIGHT_KEYS:
                edited.append(text)
        edited += [
            str(change) for change in self.pending() if change.step < self.state.step and change.key in WEIGHT_KEYS
        ]
        if edited:
            self.session.warn(
                "settings_changed",
                f"training.changes was edited for steps that are made already: {'; '.join(edited)}. The result is not "
                "that of a run that had them from the start.",
                once=True,
            )
        self._apply_config(EffectiveConfig(config))

    def adopt_earlier(self, earlier: Mapping[str, Any], replaced: Mapping[str, Any]) -> None:
        """Add the changes of a state by an earlier version, which has them without their step, to the list, at the
        state's step.

        Args:
            earlier: dotted keys to the values that were set; the rates of the state have them already.
            replaced: the configuration's values of those keys at that time. If they were edited since, the edit wins.
        """
        for key, value in earlier.items():
            change = Change(self.state.step, key, value)
            now = self.base.value(key)
            if replaced.get(key, now) != now:
                self.session.log(f"{change.text}, set while the run trained, gives way to the .toml's {now}.")
                continue
            problem = self.ranks.broadcast(self._write_to_config(change) if self.session.is_main else "")
            if problem:
                text = f"{change.text}, set while an earlier version trained, is not taken over: {problem}."
                self.session.warn("old_changes", text)
                continue
            self._listed = list(changes_of(with_change(self._with_listed(), change)[0]))
            self.applied.append(str(change))

    def are_due(self) -> bool:
        """Whether a change is due at the current step."""
        return any(change.step <= self.state.step for change in self.pending())

    def apply_due(self) -> None:
        """Apply the changes that are due at the current step."""
        for change in self.pending():
            if change.step <= self.state.step:
                self._apply(change)

    def request(self, key: str, value: Any) -> str:
        """Change a setting from the next step on, by a command; returns the reply to it."""
        change = Change(self.state.step, key, value)
        try:
            config = EffectiveConfig(changed_by(self.state.config, change))
            if config == self.state.config:
                return f"done: {change.text} is its value already"
            refusal = self._refusal(change, config)
        except ValidationError as error:
            reason = error.errors()[0]["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            return f"refused: {value!r} is given, allowed is {reason}"
        except LoraSmithError as error:
            return f"refused: {error}"
        if refusal:
            return f"refused: {refusal}"
        if problem := self.ranks.broadcast(self._write_to_config(change) if self.session.is_main else ""):
            return f"refused: {problem}"
        listing, replaced = with_change(self._with_listed(), change)
        self._listed = list(changes_of(listing))
        text = self._apply(change)
        return " ".join([text, *(f"{old} is dropped." for old in replaced)])

    def _with_listed(self) -> RunConfig:
        return self.base.changed(training={"changes": [str(change) for change in self._listed]})

    def _write_to_config(self, change: Change) -> str:
        """Write a change into the run's configuration; returns the error, empty if there is none."""
        path = self.session.run.config_path
        try:
            config, _ = with_change(load_config(str(path)), change)
            write_text(path, update_toml(read_text(path), config))
        except ValidationError as error:
            return f"{path.name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        except (LoraSmithError, OSError) as error:
            return f"it cannot be noted in {path.name}: {error}"
        return ""

    def _refusal(self, change: Change, config: EffectiveConfig) -> str:
        """Why a change cannot be made now; empty if it can."""
        state, key = self.state, change.key
        if key in RATE_KEYS:
            return self._rate_refusal(change, config)
        plan = self._initial_plan.of_length(config.training)
        if key in LENGTH_KEYS and plan.max_train_steps <= state.step:
            end = plan.max_train_steps
            return f"{change.text} would end the run at step {end}, which it has passed; stop the run instead"
        if key in CAPTION_KEYS and all(item.rules for item in self.batches.items):
            return f"{key} has no effect here: the dataset configuration sets the caption rules"
        if key in (*LENGTH_KEYS, *CAPTION_KEYS):
            count = missing_captions(self.batches, CaptionRules.from_config(config), plan, state.step)
            if count:
                return (
                    f"{count} captions of the steps to come are not encoded, and the text encoder is not loaded; stop "
                    f"the run and resume it with --set {key}=…"
                )
        if key == "sampling.sample_prompts":
            prompts = read_prompts(config, lambda _: None, self._flags)
            requests = [prompt.request for prompt in prompts]
            texts = [text for request in requests for text in (request.prompt, request.negative_prompt)]
            if not self.batches.model.can_sample(texts):
                return "the text encoder that new prompts need was freed; stop the run and resume it with --set"
        return ""

    def _rate_refusal(self, change: Change, config: EffectiveConfig) -> str:
        state, key = self.state, change.key
        old, new = _rates(state.config, state.groups), _rates(config, state.groups)
        if not all(old.values()) or not all(new.values()):
            return f"{key} cannot become 0 while the run continues"
        check_rates(config.training.optimizer_type, {group.name: rate for group, rate in new.items()})
        if state.built.relative_step:
            return f"{change.text} changes nothing here, the optimizer sets its own rate"
        if old == new:
            return f"{change.text} changes nothing here, no group trains with it"
        return ""

    def _apply(self, change: Change) -> str:
        """Make a change, report it, and return the reported text."""
        state = self.state
        before, config = state.config, EffectiveConfig(changed_by(state.config, change))
        old, new = _rates(before, state.groups), _rates(config, state.groups)
        for group in state.groups:
            if old[group] and old[group] != new[group]:
                state.scale_rate(group, new[group] / old[group])
        self.applied.append(str(change))
        longer = self._apply_config(config)
        if longer and state.schedule is not None:
            set_rates(state.schedule)
        plan = state.plan
        facts: dict[str, Any] = {"max_train_steps": plan.max_train_steps, "epochs": plan.epochs} if longer else {}
        text = f"{change.text} from step {state.step + 1} on."
        if longer:
            text += f" The run ends after step {plan.max_train_steps}, in epoch {plan.epochs}."
        if longer or old != new:
            text += f" Learning rate of the next step: {state.rates_text()}."
        self.session.events.emit(ChangedEvent(step=state.step, key=change.key, value=change.value, text=text, **facts))
        self.session.state.update(max_train_steps=plan.max_train_steps)
        return text

    def _apply_config(self, config: EffectiveConfig) -> bool:
        """Use these settings everywhere from now on; True if the run's length changed."""
        state = self.state
        plan = self._initial_plan.of_length(config.training)
        new_length = plan.max_train_steps != state.plan.max_train_steps
        new_prompts = config.sampling.sample_prompts != state.config.sampling.sample_prompts
        state.config, state.plan = config, plan
        self.batches.use(config, plan)
        if new_prompts:
            self.prompts = read_prompts(config, self.session.log, self._flags)
        if new_length and state.schedule is not None:
            stretch(state.schedule, self.base.training, plan.max_train_steps * state.steps_per_update)
        return new_length


def _rates(config: EffectiveConfig, groups: list[RateGroup]) -> dict[RateGroup, float]:
    return {group: group.rate(config.training) for group in groups}
