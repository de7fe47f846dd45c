"""Writes docs/events.md: every event of a run, its fields with their types and units, and an example line of each.

python tools/event_table.py
"""

from __future__ import annotations

import json
from pathlib import Path

from engine.runs.events import MODELS, Event, Field, read_events
from engine.runs.phase import Phase

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "events.md"
EXAMPLES = ROOT / "tests" / "engine" / "runs" / "recorded_events.jsonl"
HEAD = """# Events

Whatever happens in a run is a line in `<run>/.run/events.jsonl`, in the order in which it happens. `--json` prints the
same lines on standard output: of a run that is started (`lorasmith --preset … --json`), resumed (`lorasmith resume RUN
--json`) or of captioning (`lorasmith caption DIR --json`, whose file is `<folder>/.captions/events.jsonl`).

```sh
lorasmith --preset sdxl --images DIR --model FILE --name zed --json | jq -r 'select(.type == "saved").path'
tail -F results_current/.run/events.jsonl | jq -c 'select(.type == "step") | [.step, .loss_average, .eta_seconds]'
```

A line is one JSON object in ASCII. Each begins with four keys:

| key | type | meaning |
|---|---|---|
| `v` | whole number | version of the format: 1 |
| `seq` | whole number | place in the log, from 0; a resumed run counts on |
| `time` | number | seconds since 1970, rounded to milliseconds |
| `type` | text | one of those below |

For programs that read a log:

* Pass over types and keys that you do not know: later versions add some. What is here keeps its meaning.
* Numbers are finite. A key that is not "always" there is left out otherwise; "or null" is what is not known, or was
  not finite.
* The last line may be unfinished while the log grows, or for good where a process was killed. The next process ends it
  and continues in a new line.
* A resumed run continues its log, from a step that can be lower than the last one logged: what it makes again replaces
  what was before. `run_started` begins each life.
* A run that is started over has a new log: read it from its beginning.
* Where the disk is full, events are lost and the training continues.
* Paths are absolute, of the machine and the place where the run was made. Look for a file of a run that was moved by
  its name, in the run's directory or in its `sample/`.

This page is made by `python tools/event_table.py`.

## Phases

In `phase`, `progress`, `oom` and `memory_plan`, in `state.json` and in `lorasmith plan --json`.

| phase | what is done |
|---|---|
"""


def page() -> str:
    """The whole page."""
    examples: dict[str, Event] = {}
    for event in read_events(EXAMPLES):
        examples.setdefault(event.type, event)
    lines = [HEAD + "\n".join(f"| `{phase}` | {phase.label} |" for phase in Phase), ""]
    lines += ["## Types", "", ", ".join(f"[`{name}`](#{name})" for name in MODELS) + ".", ""]
    for name, model in MODELS.items():
        lines += [f"### {name}", "", " ".join((model.__doc__ or "").split()), ""]
        lines += ["| field | type | unit | meaning | there |", "|---|---|---|---|---|"]
        lines += [row(field, complete=model.complete) for field in model.fields.values()]
        lines += ["", "```json", example(examples[name]), "```", ""]
    return "\n".join(lines)


def row(field: Field, *, complete: bool) -> str:
    """A field as a row of its table."""
    there = "always" if complete else field.when or "always"
    return f"| `{field.key}` | {field.kind.title} | {field.unit} | {field.meaning} | {there} |"


def example(event: Event) -> str:
    """A recorded line, wrapped between its keys where it is long."""
    line, rows = event.as_json(), [""]
    table = json.loads(line)
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in table.items()]
    for number, part in enumerate(parts):
        text = part + ("," if number < len(parts) - 1 else "}")
        if rows[-1] and len(rows[-1]) + len(text) > 117:
            rows.append("")
        rows[-1] = f"{rows[-1]} {text}" if rows[-1] else f"{' ' if len(rows) > 1 else '{'}{text}"
    return "\n".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
