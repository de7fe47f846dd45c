"""docs/examples and the unit in docs/scale.md: they parse, and use commands and keys that exist."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.test_docs import trouble_with

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "examples"
SKY_KEYS = {"name", "num_nodes", "resources", "volumes", "envs", "setup", "run"}
"""Of a SkyPilot task, as far as the example uses them."""


def shell_parts() -> dict[str, str]:
    """Every shell script in the examples, by a name."""
    scripts = {path.name: path.read_text("utf-8") for path in EXAMPLES.glob("*.slurm")}
    for path in EXAMPLES.glob("*.yaml"):
        task = yaml.safe_load(path.read_text("utf-8"))
        scripts |= {f"{path.name} {part}": task[part] for part in ("setup", "run")}
    return scripts


def test_all_kinds_are_there() -> None:
    assert set(shell_parts()) == {"queue.slurm", "queue.sky.yaml setup", "queue.sky.yaml run"}


@pytest.mark.parametrize("name", shell_parts())
def test_a_shell_reads_it(name: str) -> None:
    done = subprocess.run(["bash", "-n"], input=shell_parts()[name], text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", shell_parts())
def test_its_commands_exist(name: str) -> None:
    text = re.sub(r"\\\n\s*", " ", shell_parts()[name])
    plain = re.sub(r"\"\$\{?\w+\}?(:\$\w+)?\"", "1", text)
    lines = [line for line in plain.splitlines() if "lorasmith queue" in line and not line.lstrip().startswith("#")]
    commands = [f"lorasmith queue{line.split('lorasmith queue')[1]}" for line in lines]
    assert {line: why for line in commands if (why := trouble_with(line, is_complete=True))} == {}
    assert commands or "setup" in name


def test_the_task_of_skypilot() -> None:
    task = yaml.safe_load((EXAMPLES / "queue.sky.yaml").read_text("utf-8"))
    assert set(task) == SKY_KEYS and task["num_nodes"] == 2
    assert all(isinstance(value, str) for value in task["envs"].values()), "SkyPilot takes texts only"
    shared = next(iter(task["volumes"]))
    paths = [*re.findall(r"(?<=\s)/\S+", task["run"]), task["envs"]["LORASMITH_QUEUE"]]
    assert paths and all(path.startswith(f"{shared}/") for path in paths)


def test_the_job_of_slurm() -> None:
    options = re.findall(r"^#SBATCH (--[a-z-]+)(?:=\S+)?$", (EXAMPLES / "queue.slurm").read_text("utf-8"), re.MULTILINE)
    assert {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--time"} <= set(options)
    assert len(options) == (EXAMPLES / "queue.slurm").read_text("utf-8").count("\n#SBATCH ")


def test_the_unit_of_systemd() -> None:
    text = (ROOT / "docs" / "scale.md").read_text("utf-8")
    (unit,) = re.findall(r"```ini\n(.*?)```", text, re.DOTALL)
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(unit)
    assert parser.sections() == ["Unit", "Service", "Install"]
    program, *words = shlex.split(parser["Service"]["ExecStart"])
    assert program.endswith("/lorasmith") and not trouble_with(shlex.join(["lorasmith", *words]), is_complete=True)
    assert parser["Service"]["KillMode"] == "process", "stopping the unit must not end trainings"
