"""An exported run is read back as the same run; what differs is named in the export's notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.config import RunConfig, load_config, require_paths
from engine.config.kohya.dataset_file import SubsetSpec, read_dataset_config
from engine.config.kohya.export import KohyaExport, kohya_export
from engine.config.kohya.export_dataset import ExportedSubset
from engine.config.optimizers import check_training
from engine.config.prompts import Prompt
from engine.config.resolve import check_model
from engine.dataset.buckets import BucketGrid
from engine.errors import UsageError
from engine.families.registry import families, family_named
from engine.families.resolved import ResolvedRun, resolve_run
from engine.runs.prepare import path_keys
from engine.types import SampleRequest
from tests.engine.config.kohya_round_trip import differences
from tests.engine.config.kohya_scripts import refusals
from tests.fuzz.search import search

IN_SUBSETS = {
    "train_data_dir", "reg_data_dir", "dataset_config", "conditioning_data_dir", "num_repeats", "class_tokens",
}  # fmt: skip
"""Settings of where the images are: each exported subset has them."""
SUBSET = ExportedSubset("/p/10_zed", 10, "zed dog")
BASE: dict[str, dict[str, Any]] = {
    "model": {"pretrained_model_name_or_path": "/m.safetensors"},
    "dataset": {"train_data_dir": "/p"},
    "saving": {"output_name": "zed"},
}
NUMBERS = [1e-9, 3e-5, 1e-4, 0.05, 1 / 3, 0.5, 0.99, 1.0, 2.5, 10.0, 1234567.0]
TEXTS = ["zed", "a b", "it's", 'a "b"', "back\\slash", "#1", "1", "true", "ü", "$HOME", "a\nb", " a "]
PATHS = ["/m.safetensors", "/a b/it's #1.safetensors", "/ü"]
SEPARATORS = st.sampled_from([None, "|||", ";", "##"])
OPTIMIZERS = {
    "AdamW": ["weight_decay=0.1", "amsgrad=true", "betas=[0.9, 0.99]", "eps=1e-7"],
    "AdamW8bit": ["weight_decay=0.01"],
    "Lion": ["betas=0.9,0.99"],
    "Prodigy": ["d_coef=2", "beta3=none", "growth_rate=inf"],
    "Adafactor": ["relative_step=false", "scale_parameter=no", "warmup_init=false"],
    "AdamWScheduleFree": ["warmup_steps=10", "foreach=false"],
    "SGDNesterov": ["momentum=0.8"],
    "NAdam": ["momentum_decay=0.01"],
}
SCHEDULES = {
    "constant": [], "constant_with_warmup": [], "linear": [], "cosine": ["num_cycles=0.4"],
    "cosine_with_restarts": ["num_cycles=4"], "polynomial": ["power=2", "lr_end=1e-9"],
    "inverse_sqrt": ["timescale=30"], "cosine_with_min_lr": ["min_lr=1e-7", "min_lr_rate=0.1", "num_cycles=1.5"],
    "warmup_stable_decay": ["num_decay_steps=9", "decay_type=linear", "num_cycles=1"],
    "piecewise_constant": ["step_rules=1:10,0.1:20,0.01"], "adafactor": [],
}  # fmt: skip
PROMPTS = [
    "{trigger}",
    "a cat --n dog, bad --w 512 --h 768 --d 7",
    "b --s 9 --l 4.123456789 --g 2.5",
    "c --ss heun",
]


def some(of: list[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(of), unique=True, max_size=3) if of else st.just([])


def together(key: str, arguments: str, table: dict[str, list[str]]) -> st.SearchStrategy[dict[str, Any]]:
    """A name and arguments that belong to it."""
    return st.sampled_from(sorted(table)).flatmap(
        lambda name: some(table[name]).map(lambda own: {key: name, arguments: own})
    )


SPECIAL: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "training.optimizer_type": together("optimizer_type", "optimizer_args", OPTIMIZERS),
    "training.lr_scheduler": together("lr_scheduler", "lr_scheduler_args", SCHEDULES),
}
"""Settings that have a meaning together only."""
OWN: dict[str, st.SearchStrategy[Any]] = {
    "training.changes": st.sampled_from([[], ["20: training.unet_lr=5e-5"]]),
    "dataset.resolution": st.sampled_from([512, 640, 1000, [512, 768]]),
    "dataset.alpha_background": st.just("#00fF00"),
    "dataset.caption_extension": st.sampled_from([".txt", ".caption", ".tags"]),
    "dataset.caption_separator": st.sampled_from([",", ";", " "]),
    "dataset.min_bucket_reso": st.sampled_from([64, 256, 320, 400]),
    "dataset.max_bucket_reso": st.sampled_from([1024, 2048, 1500]),
    "dataset.bucket_reso_steps": st.sampled_from([8, 16, 32, 48, 64, 128]),
    "dataset.keep_tokens_separator": SEPARATORS,
    "dataset.secondary_separator": SEPARATORS,
    "flow.model_prediction_type": st.sampled_from(["raw", "additive"]),
    "memory.device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "sampling.sample_seed": st.integers(0, 2**32 - 1),
    "sampling.sample_prompts": st.lists(st.sampled_from(PROMPTS), max_size=3, unique=True),
    **{f"{table}.{key}": st.sampled_from(PATHS) for table, key in path_keys() if key != "sample_prompts"},
}  # fmt: skip
"""Settings with fewer values than their type has. Two are listed in docs/kohya.md as read with another meaning: the
prediction `sigma_scaled`, and a prompt without a seed."""
FIXED = {
    "dataset.dataset_config", "dataset.in_json", "model.base_weights",
    "training.optimizer_args", "training.lr_scheduler_args",
    "model.family", "network.network_module", *(f"{table}.{key}" for table, keys in BASE.items() for key in keys),
}  # fmt: skip
"""Settings without random values of their own: of the base, of a pair, or chosen by the family."""


def values(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a field, within its limits."""
    if "anyOf" in schema:
        return st.one_of([values(each) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "array":
        return st.lists(values(schema["items"]), max_size=2)
    if schema["type"] == "integer":
        least, most = schema["minimum"], schema.get("maximum", 100_000)
        return st.integers(least, min(most, least + 40)) | st.just(most)
    if schema["type"] == "number":
        return numbers(schema)
    return {"null": st.none(), "boolean": st.booleans(), "string": st.sampled_from(TEXTS)}[schema["type"]]


def numbers(schema: Mapping[str, Any]) -> st.SearchStrategy[float]:
    below = schema.get("exclusiveMaximum", float("inf"))
    above = schema.get("exclusiveMinimum", float("-inf"))
    ends = [schema[key] for key in ("minimum", "maximum") if key in schema]
    least, most = schema.get("minimum", above), schema.get("maximum", below)
    inside = [number for number in NUMBERS if least <= number <= most and above < number < below]
    between = st.floats(max(least, -10), min(most, 1000)).filter(lambda number: above < number < below)
    return st.sampled_from([*inside, *map(float, ends)]) | between


def settings() -> dict[str, st.SearchStrategy[dict[str, Any]]]:
    """Values of each setting, by its dotted key."""
    strategies: dict[str, st.SearchStrategy[dict[str, Any]]] = dict(SPECIAL)
    for table, field in RunConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        for key, schema in field.annotation.model_json_schema()["properties"].items():
            dotted = f"{table}.{key}"
            if dotted not in FIXED and dotted not in SPECIAL:
                own = OWN[dotted] if dotted in OWN else values(schema)
                strategies[dotted] = own.map(lambda value, key=key: {key: value})
    return strategies


SETTINGS = settings()
CHANGES = st.lists(
    st.sampled_from(sorted(SETTINGS)).flatmap(lambda dotted: SETTINGS[dotted].map(lambda own: (dotted, own))),
    min_size=1, max_size=12, unique_by=lambda pair: pair[0],
)  # fmt: skip
NAMES = [family.name for family in families() if family.spec.kohya is not None]


def run_of(changes: list[tuple[str, dict[str, Any]]], family: str) -> ResolvedRun | None:
    """The run of some settings; None where it is refused."""
    try:
        config = RunConfig().changed(**BASE, flux=dict.fromkeys(("clip_l", "t5xxl", "ae"), "/x.safetensors"))
        tables: dict[str, dict[str, Any]] = {}
        for dotted, own in changes:
            tables.setdefault(dotted.partition(".")[0], {}).update(own)
        config = config.changed(**tables)
        require_paths(config)
        run = resolve_run(config, family_named(family).reference_model())
        check_training(run.config.training)
        BucketGrid.of_run(run)
        run.prompts()
        check_model(run.config, run.recognition)
    except (ValidationError, UsageError):
        return None
    return run


@pytest.mark.soak  # which values are tried depends on what else is loaded, and rare ones are still to be looked at
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("examples", [3000])
def test_random_settings_come_back(tmp_path: Path, family: str, examples: int) -> None:
    made = 0

    def check(changes: list[tuple[str, dict[str, Any]]]) -> None:
        nonlocal made
        if (run := run_of(changes, family)) is not None:
            made += 1
            assert problems(run, tmp_path) == []

    search(CHANGES, check, examples)
    assert made > examples / 3


def problems(run: ResolvedRun, target: Path) -> list[str]:
    """What the scripts refuse, and what comes back as something else and is not named in the notes."""
    spec = run.family.spec
    assert spec.kohya is not None
    prompts = run.prompts()
    lines = [prompt.as_line(spec.prompt_flags, run.config.sampling.sample_sampler) for prompt in prompts]
    exported = kohya_export(run.config, spec.kohya, [SUBSET], lines, run.rule_notes)
    for name, text in exported.files.items():
        (target / name).write_text(text, encoding="utf-8")
    with chdir(target):
        exact = ["training.kohya_exact=true"] if run.config.training.kohya_exact else []
        again = resolve_run(load_config(target / "train.sh", exact), run.recognition)
        prompts_again = again.prompts() if again.config.sampling.sample_prompts == "prompts.txt" else prompts
        (subset,), _ = read_dataset_config(target / "dataset.toml", again.config)
    lost = [*differences(run.config, again.config), *lost_of_images(run.config, subset)]
    if again.recognition == run.recognition:  # unset is read from the checkpoint
        lost = [key for key in lost if key not in ("model.v_parameterization", "model.zero_terminal_snr")]
    if written(prompts_again, spec.prompt_flags) != written(prompts, spec.prompt_flags):
        lost.append("sampling.sample_prompts")
    if (subset.image_dir, subset.num_repeats) != (SUBSET.image_dir, SUBSET.num_repeats):
        lost.append("dataset.train_data_dir")
    lost += lost_elsewhere(run.config, again.config, subset)
    named = reported(run, exported)
    missing = [key for key in lost if not re.search(rf"(?<!\w){key.partition('.')[2]}(?!\w)", named)]
    return [*refusals(exported.files, spec.name), *missing]


def written(prompts: list[Prompt], flags: frozenset[str]) -> list[SampleRequest]:
    """Their requests as a line can hold them: without line breaks and repeated blanks; FLUX has no samplers."""
    requests = [prompt.request for prompt in prompts]
    if "g" in flags:
        requests = [replace(request, sampler="") for request in requests]
    return [replace(request, prompt=" ".join(request.prompt.split())) for request in requests]


def lost_elsewhere(before: RunConfig, after: RunConfig, subset: SubsetSpec) -> list[str]:
    """Settings in dataset.toml or train.sh, or that the scripts need in another form."""
    precision = {"auto": "no" if before.memory.device == "cpu" else "bf16"}
    same = {
        "memory.device": (before.memory.device, after.memory.device),
        "memory.mixed_precision": (
            precision.get(before.memory.mixed_precision, before.memory.mixed_precision), after.memory.mixed_precision,
        ),
        "saving.output_dir": (before.saving.output_dir or "output", after.saving.output_dir),
        "training.train_batch_size": (before.training.train_batch_size, subset.batch_size),
    }  # fmt: skip
    return [key for key, (old, new) in same.items() if old != new]


def lost_of_images(config: RunConfig, subset: SubsetSpec) -> list[str]:
    """The same for the images; where they are is in the subsets."""
    after, before = subset.table.model_dump(), config.dataset.model_dump()
    if not config.sets_aside:
        before["validation_split"] = before["validation_split"] or 0.0
    return [f"dataset.{key}" for key in after if after[key] != before[key] and key not in IN_SUBSETS]


def reported(run: ResolvedRun, exported: KohyaExport) -> str:
    """What the export names as different; of the run's own notes only the settings without effect."""
    idle = [note.partition(" no effect")[0] for note in run.rule_notes if " no effect" in note]
    own = [note.replace("Prompt ", "sample_prompts ") for note in exported.notes if note not in run.rule_notes]
    return " ".join([*own, *idle])
