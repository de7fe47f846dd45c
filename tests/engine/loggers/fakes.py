"""Stand-ins for packages that are no dependency: what they are called with goes into a file."""

from __future__ import annotations

from pathlib import Path

MODULE = '''
"""Records its calls in $CALLS, one JSON object a line; $MODE makes it fail or block."""
import json, os, time

class Image:
    def __init__(self, path, caption=None):
        self.text = f"{os.path.basename(path)}: {caption}"

def _record(**call):
    with open(os.environ["CALLS"], "a") as file:
        print(json.dumps(call, default=lambda value: value.text), file=file)

class _Run:
    def log(self, values):
        log(values)
    def finish(self, exit_code=0):
        _record(call="finish", exit_code=exit_code)

def init(**arguments):
    print("a library's own chatter")
    _record(call="init", **arguments)
    if os.environ.get("MODE") == "block":
        time.sleep(60)
    if os.environ.get("MODE") == "fail":
        raise RuntimeError("no such team; the key is " + os.environ.get("WANDB_API_KEY", "unset"))
    if os.environ.get("MODE") == "exit":
        os._exit(3)
    return _Run()

def log(values, step=None):
    _record(call="log", values=values, step=step)

def finish():
    _record(call="finish")
'''


def fake_package(folder: Path, name: str) -> None:
    """A package `name` in `folder`, for PYTHONPATH."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(MODULE)
