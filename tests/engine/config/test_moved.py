"""Settings that moved into a table of their own: former names in every place where a key is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, RunConfig, digest, load_config, update_toml
from engine.config.kohya.convert import conversion_of
from engine.config.moved import ADDED, MOVED, former_key, former_tables, present_key
from engine.config.problems import keys
from engine.runs import RunDir, prepare_resume, prepare_run
from tests.engine.runs.test_prepare import end
from tests.refusals import refused
from tui.setup.draft import Draft, draft_path, forget_presets

VALUES: dict[str, Any] = {
    "model.clip_l": "/c.safetensors", "model.t5xxl": "/t.safetensors", "model.ae": "/a.safetensors",
    "model.t5_tokenizer": "/t5", "model.t5xxl_max_token_length": 128, "model.apply_t5_attn_mask": True,
    "training.timestep_sampling": "sigma", "training.sigmoid_scale": 2.0, "training.discrete_flow_shift": 3.0,
    "training.model_prediction_type": "additive", "training.weighting_scheme": "mode", "training.logit_mean": 0.5,
    "training.logit_std": 2.0, "training.mode_scale": 1.0, "training.guidance_scale": 3.5,
    "sampling.sample_guidance": 2.0,
}  # fmt: skip
OLD_FILE = """# my run
[model]
ae = '/a.safetensors' # of FLUX

[training]
max_train_steps = 300 # a try
guidance_scale = 3.5 # as Kohya
timestep_sampling = "sigmoid"

[sampling]
sample_guidance = 2.0
"""


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home"))
    forget_presets()


def tables(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        table, _, key = dotted.partition(".")
        made.setdefault(table, {})[key] = value
    return made


def has(config: RunConfig) -> bool:
    return {key: config.value(MOVED[key]) for key in MOVED} == VALUES


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A run's file of an earlier version."""
    path = tmp_path / "old.toml"
    path.write_text(OLD_FILE)
    return path


def test_each_setting_that_moved_is_in_its_table() -> None:
    assert VALUES.keys() == MOVED.keys()
    homes = [(table, key) for table, members in keys().items() for key in members]
    assert all(tuple(now.split(".")) in homes and tuple(old.split(".")) not in homes for old, now in MOVED.items())
    assert all(former_key(present_key(old)) == old for old in MOVED) and present_key("training.seed") == "training.seed"


def test_former_names_are_read_everywhere(tmp_path: Path) -> None:
    text = "\n".join(
        f"[{table}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in members.items())
        for table, members in tables(VALUES).items()
    )
    (tmp_path / "all.toml").write_text(text)
    assert has(load_config(tmp_path / "all.toml"))
    assert has(load_config(None, [f"{key}={json.dumps(value)}" for key, value in VALUES.items()]))
    assert has(load_config(None, (), {key: (key, value) for key, value in VALUES.items()}))
    assert has(RunConfig.model_validate(tables(VALUES)))
    assert has(RunConfig().changed(**tables(VALUES)))
    assert all(RunConfig().changed(**tables(VALUES)).value(key) == value for key, value in VALUES.items())


@pytest.mark.parametrize("override", ["training.guidance_scale=1", "flux.guidance_scale=1"])
def test_an_option_wins_over_a_file_with_the_other_name(old_file: Path, override: str) -> None:
    assert load_config(old_file, [override]).flux.guidance_scale == 1.0


def test_both_names_are_an_error(old_file: Path) -> None:
    both = "training.guidance_scale and flux.guidance_scale"
    with pytest.raises(ValueError, match=both):
        RunConfig.model_validate({"training": {"guidance_scale": 1.0}, "flux": {"guidance_scale": 2.0}})
    with pytest.raises(ValueError, match=both):
        RunConfig().changed(training={"guidance_scale": 1.0}, flux={"guidance_scale": 2.0})
    with refused("config-invalid", both):
        load_config(None, ["training.guidance_scale=1", "flux.guidance_scale=1"])
    old_file.write_text(OLD_FILE + "\n[flux]\nguidance_scale = 2.0\n")
    with pytest.raises(ConfigError, match=both) as caught:
        load_config(old_file)
    assert [problem.where for problem in caught.value.problems] == [f"{old_file}, line 14"]


def test_a_problem_names_the_key_that_was_written(old_file: Path) -> None:
    old_file.write_text(OLD_FILE.replace("guidance_scale = 3.5", "guidance_scale = -1"))
    with pytest.raises(ConfigError) as caught:
        load_config(old_file)
    assert str(caught.value.problems[0]).startswith(f"{old_file}, line 7: training.guidance_scale: -1 is not valid")
    with refused("config-invalid", "--set flux.guidance_scale=-2: flux.guidance_scale: -2"):
        load_config(old_file, ["flux.guidance_scale=-2"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("training.guidence_scale", "flux.guidance_scale"), ("training.timestep_samplin", "flow.timestep_sampling"),
     ("model.t5xl", "flux.t5xxl"), ("flow.sigmoid_scal", "flow.sigmoid_scale"),
     ("sampling.sample_guidanc", "flux.sample_guidance")],
)  # fmt: skip
def test_an_unknown_key_is_led_to_the_present_name(key: str, meant: str) -> None:
    with refused("config-invalid", key, meant):
        load_config(None, [f"{key}=1"])


def test_a_file_is_rewritten_with_the_comments_on_its_lines(old_file: Path) -> None:
    config = load_config(old_file)
    text = update_toml(OLD_FILE, config.changed(training={"max_train_steps": 400}))
    assert "max_train_steps = 400 # a try" in text and "# my run" in text
    place = text.index("[flux]")
    assert "guidance_scale = 3.5 # as Kohya" in text[place:] and "ae = '/a.safetensors' # of FLUX" in text[place:]
    assert (
        "guidance" not in text[: text.index("[fl")] and 'timestep_sampling = "sigmoid"' in text[text.index("[flow]") :]
    )
    old_file.write_text(text)
    assert load_config(old_file) == config.changed(training={"max_train_steps": 400})
    assert update_toml(text, load_config(old_file)) == text


def old_run(tmp_path: Path) -> RunDir:
    """An ended run whose file an earlier version wrote."""
    config = RunConfig().changed(saving={"output_name": "robot", "output_dir": str(tmp_path / "robot")})
    run = prepare_run(config.changed(**tables({key: VALUES[key] for key in MOVED if key.startswith("training.")})))
    text = run.config_path.read_text()
    for table in ("flow", "flux"):
        text = text.replace(f"[{table}]\n", "")
    newer = ("sample_guidance", "apply_t5_attn_mask", *ADDED["flux"])
    run.config_path.write_text(re.sub(rf"^({'|'.join(newer)}) = .*\n", "", text, flags=re.MULTILINE))
    end(run, "failed", 0)
    return run


def test_an_old_run_is_resumed(tmp_path: Path) -> None:
    run = old_run(tmp_path)
    assert "[flux]" not in run.config_path.read_text()
    before = load_config(run.config_path)
    assert before.flux.guidance_scale == 3.5
    prepare_resume(run, changes={"sampling.sample_guidance": 2.0})
    assert load_config(run.config_path) == before.changed(flux={"sample_guidance": 2.0})
    assert "[flux]" in run.config_path.read_text()


def test_what_a_resume_refuses(tmp_path: Path) -> None:
    run = old_run(tmp_path)
    with refused("key-not-changeable", "training.guidance_scale"):
        prepare_resume(run, changes={"training.guidance_scale": 2.0})
    with refused("config-invalid", "the resume: sampling.sample_guidance: -1"):
        prepare_resume(run, changes={"sampling.sample_guidance": -1})
    with refused("config-invalid", "sampling.sample_guidance and flux.sample_guidance"):
        prepare_resume(run, changes={"sampling.sample_guidance": 1, "flux.sample_guidance": 1})


def test_an_old_draft_is_taken_over() -> None:
    values = {"training.guidance_scale": 3.5, "model.ae": "/a"}
    draft = Draft(values=dict(values))
    draft.mark_started()
    draft.save()
    assert json.loads(draft_path().read_text())["values"] == values
    read = Draft.load()
    assert read.values == {"flux.guidance_scale": 3.5, "flux.ae": "/a"}
    assert not read.unfinished and read.config().flux.ae == "/a"
    assert read.take_notice() == ""


def test_a_preset_with_former_names_is_none_of_kohyas(old_file: Path) -> None:
    text = "\n".join(f"[{table}]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in members.items())
                     for table, members in tables(VALUES).items())  # fmt: skip
    assert conversion_of(old_file, text) is None


def test_digests_and_caches_know_the_settings_by_their_former_names() -> None:
    """Of the version before the tables."""
    assert digest(RunConfig()) == "518b4a763979cfe9"
    some = {
        "training.guidance_scale": 2.0,
        "model.ae": "/x",
        "sampling.sample_guidance": 1.0,
        "training.mode_scale": 2.0,
    }
    assert digest(RunConfig().changed(**tables(some))) == "59f81e1ea3d9e799"
    former = former_tables(RunConfig().model_dump())
    assert list(former) == [
        "model",
        "dataset",
        "network",
        "training",
        "memory",
        "sampling",
        "saving",
        "logging",
        "flux",
    ]
    assert former["flux"].keys() == set(ADDED["flux"])
    assert all(key in former[table] for table, key in (old.split(".") for old in MOVED))


@pytest.mark.parametrize(
    "text",
    ['training.guidance_scale = 2.0 # x\nmodel.ae = "/a"\n', 'model = {ae = "/a"}\ntraining = {guidance_scale = 2.0}\n',
     '[model]\r\nae = "/a" # c\r\n[flux]\r\nt5xxl = "/t"\r\n[training]\r\nguidance_scale = 2.0',
     '[flux]\nae = "/a"\n[sampling]\nsample_guidance = 1.0\n'],
)  # fmt: skip
def test_every_form_of_toml_is_rewritten(text: str, tmp_path: Path) -> None:
    path = tmp_path / "form.toml"
    path.write_text(text)
    before = load_config(path)
    for after in (before, before.changed(flux={"ae": None, "guidance_scale": 9.0}, training={"seed": 3})):
        path.write_text(update_toml(text, after))
        assert load_config(path) == after
