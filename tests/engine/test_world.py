"""A process's place among those of a run, as launchers describe it."""

from __future__ import annotations

import pytest

from engine.processes import trainer_environment
from engine.world import LEADER, World, own_world
from tests.refusals import refused

HERE = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("variables", "world"),
    [
        ({}, World()),
        ({"LOCAL_RANK": "3"}, World()),
        ({"MASTER_ADDR": "10.0.0.1"}, World()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, World()),
        ({**HERE, "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, World(1, 4, 1)),
        ({**HERE, "RANK": "3", "WORLD_SIZE": "4", "SLURM_LOCALID": "1"}, World(3, 4, 1)),
        ({**HERE, "RANK": "3", "WORLD_SIZE": "4"}, World(3, 4, 0)),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "2", LEADER: "77 main"}, World(0, 2, 0, "77 main")),
    ],
)
def test_a_launcher_describes_it_in_the_environment(variables: dict[str, str], world: World) -> None:
    assert own_world(variables) == world


@pytest.mark.parametrize(
    ("variables", "code", "words"),
    [
        ({"RANK": "0"}, "launcher-variables-missing", "no WORLD_SIZE and no MASTER_ADDR and no MASTER_PORT"),
        ({"WORLD_SIZE": "1"}, "launcher-variables-missing", "no RANK"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x"}, "launcher-variables-missing", "no MASTER_PORT"),
        ({**HERE, "RANK": "", "WORLD_SIZE": "2"}, "launcher-variables-missing", "no RANK"),
        ({**HERE, "RANK": "two", "WORLD_SIZE": "2"}, "launcher-variables-wrong", "RANK is 'two'"),
        ({**HERE, "RANK": "-1", "WORLD_SIZE": "2"}, "launcher-variables-wrong", "RANK is '-1'"),
        ({**HERE, "RANK": "2", "WORLD_SIZE": "2"}, "launcher-variables-wrong", "RANK is 2, and WORLD_SIZE is 2"),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "1e3"}, "launcher-variables-wrong", "WORLD_SIZE is '1e3'"),
        ({**HERE, "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "x"}, "launcher-variables-wrong", "LOCAL_RANK is 'x'"),
    ],
)
def test_wrong_variables_are_refused(variables: dict[str, str], code: str, words: str) -> None:
    with refused(code, words):
        own_world(variables)


def test_a_trainer_that_we_start_is_alone_whatever_the_shell_was_started_by() -> None:
    shell = {
        **HERE, "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "0", LEADER: "77 main",
        "TORCHELASTIC_RUN_ID": "none", "ACCELERATE_USE_CPU": "1", "HOME": "/home/ann",
    }  # fmt: skip
    environment = trainer_environment(shell)
    assert own_world(environment) == World() and environment["HOME"] == "/home/ann"
    assert not [name for name in environment if name.startswith(("TORCHELASTIC", "ACCELERATE"))]
