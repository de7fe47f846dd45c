"""Which loggers a run uses, and what is refused before it starts."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.config import RunConfig, load_config, resolve
from engine.config.loggers import LoggingTable, tracker_options, used_loggers
from engine.errors import UsageError

KEY = {"WANDB_API_KEY": "0123456789"}
ALL = ("tensorboard", "wandb", "trackio")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Only these packages are there; a folder called wandb, as that program makes one, is no package."""

    def spec(name: str) -> ModuleSpec | None:
        if name in request.param:
            return ModuleSpec(name, None, origin=f"/{name}/__init__.py")
        return ModuleSpec(name, None) if name == "wandb" else None

    monkeypatch.setattr("importlib.util.find_spec", spec)


@pytest.mark.parametrize(
    ("installed", "settings", "environment", "names", "sentence"),
    [
        (ALL, {}, {}, (), ""),
        (ALL, {"logging_dir": "/l"}, {}, ("tensorboard",), "go to TensorBoard's files in /l."),
        (ALL, {"log_with": "tensorboard"}, {}, ("tensorboard",), "TensorBoard's files in logs in the output folder."),
        (ALL, {"log_with": "wandb"}, KEY, ("wandb",), "to the project network_train, with the key in WANDB_API_KEY."),
        (ALL, {"log_with": "wandb", "logging_dir": "/l"}, {"WANDB_MODE": "offline"}, ("wandb",),
         "Weights & Biases' files in /l (WANDB_MODE=offline)."),
        (ALL, {"log_with": "trackio", "log_tracker_name": "dogs"}, {}, ("trackio",),
         "trackio, project dogs, on this machine."),
        (ALL, {"log_with": "trackio"}, {"TRACKIO_SPACE_ID": "me/dogs"}, ("trackio",), "network_train, at me/dogs."),
        (ALL, {"log_with": "all"}, KEY, ALL, "TensorBoard's files"),
        (("tensorboard",), {"log_with": "all"}, KEY, ("tensorboard",),
         "A logger is left out. logging.log_with: Weights & Biases needs the package wandb"),
        (ALL, {"log_with": "all"}, {}, ("tensorboard", "trackio"), "WANDB_API_KEY"),
        # an old file with a log folder still trains
        ((), {"logging_dir": "/l"}, {}, (),
         "logging.logging_dir has no effect. logging.log_with: TensorBoard needs the "
         'package tensorboard, which is not installed. Install it: pip install "lorasmith[tensorboard]".'),
    ],
    indirect=["installed"],
)  # fmt: skip
@pytest.mark.usefixtures("installed")
def test_loggers_of_a_run(
    settings: dict[str, str], environment: dict[str, str], names: tuple[str, ...], sentence: str
) -> None:
    used = used_loggers(LoggingTable.model_validate(settings), environment)
    assert used.names == names
    assert sentence in " ".join(used.notes) and bool(used.notes) == bool(sentence)


@pytest.mark.parametrize(
    ("installed", "name", "sentence"),
    [
        (
            (),
            "tensorboard",
            'the package tensorboard, which is not installed. Install it: pip install "lorasmith[tensorb',
        ),
        ((), "wandb", "the package wandb, which is not installed. Install it: pip install wandb."),
        ((), "trackio", "the package trackio, which is not installed. Install it: pip install trackio."),
        (
            (),
            "all",
            'the package tensorboard, which is not installed. Install it: pip install "lorasmith[tensorboard]"',
        ),
        (("wandb",), "wandb", "WANDB_API_KEY. Set it, or WANDB_MODE=offline"),
    ],
    indirect=["installed"],
)
@pytest.mark.usefixtures("installed")
def test_a_chosen_logger_that_cannot_be_used_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        used_loggers(LoggingTable.model_validate({"log_with": name}), {})
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            '[wandb]\nbase_url = "http://here"\n',
            "sets [wandb] base_url, which no file may set. It may set [wandb] project",
        ),
        ('[wandb]\nsettings = {api_key = "x"}\n', "sets [wandb] settings, which no file may set"),
        ('[trackio]\nserver_url = "http://here"\n', "sets [trackio] server_url"),
        ("[comet_ml]\n", "sets [comet_ml]"),
        ('wandb = "x"\n', "sets [wandb] wandb"),
        ("[wandb\n", "cannot be read"),
    ],
)
def test_a_file_of_settings_sets_no_address_and_no_key(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        tracker_options(LoggingTable(log_tracker_config=str(path)))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["a/b", "..", " ", "a\\b"])
def test_a_project_is_a_name(name: str) -> None:
    with pytest.raises(ValidationError, match="a name without / and"):
        LoggingTable(log_tracker_name=name)


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        (
            {"log_prefix": "a", "log_config": True},
            "logging.log_prefix and logging.log_config have no effect: log_with and",
        ),
        (
            {"logging_dir": "/l", "wandb_run_name": "a"},
            "logging.wandb_run_name has no effect: TensorBoard has no names",
        ),
        ({"log_with": "trackio", "wandb_run_name": "a"}, ""),
    ],
)
def test_settings_without_a_logger(settings: dict[str, object], note: str) -> None:
    notes = [text for text in resolve(RunConfig().changed(logging=settings))[1] if "logging." in text]
    assert [text.startswith(note) for text in notes] == ([True] if note else [])


def test_kohyas_arguments(tmp_path: Path) -> None:
    path = tmp_path / "kohya.toml"
    path.write_text(
        'network_dim = 8\nunet_lr = 1e-4\nlogging_dir = "/l"\nlog_with = "all"\nlog_prefix = "a-"\nlog_config = true\n'
        'log_tracker_name = "dogs"\nwandb_run_name = "rex"\nlog_tracker_config = "t.toml"\nwandb_api_key = "secret"\n'
    )
    table = load_config(path).logging
    assert table.model_dump() == {
        "log_with": "all", "logging_dir": "/l", "log_prefix": "a-", "log_tracker_name": "dogs",
        "wandb_run_name": "rex", "log_tracker_config": "t.toml", "log_config": True,
    }  # fmt: skip
