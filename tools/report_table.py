"""Writes docs/report.md: every finding of the dataset report, when it is found, why it matters and what to do.

python tools/report_table.py
"""

from __future__ import annotations

from pathlib import Path

from engine.dataset.report.checking import KINDS
from engine.dataset.report.findings import LEVELS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "report.md"
HEAD = """# The dataset report

`lorasmith check DIR` looks through a folder of pictures, the parent of Kohya's `<repeats>_<name>` folders, a
project, or the folders of a `--dataset_config FILE`; Ctrl+O in the step Folders of the wizard shows the same.
`--preset` and `--set` say for which run (resolution, buckets, mirroring, token limit), `--trigger` which word each
caption should have.

* `--json` prints everything; `--html FILE` writes one page with thumbnails, on which the part that a bucket cuts
  off is shaded.
* `--repair OUT_DIR` writes a copy in which is mended what can be mended without a judgement; nothing is changed in
  place.
* The exit code is 0, or 3 when there is an error: pictures or captions that cannot be read, or no pictures.
* What was measured is kept in the user's cache (`report.sqlite`) by path, size and time of each file. A second
  report, and one after a cut, measures only what is new. The file may be deleted at any time.

How often each fault is found, and how often where there is none, stands in
[benchmarks/RESULTS.md](../benchmarks/RESULTS.md). Some things cannot be told from pixels, and the report does not
pretend to: whether a picture is mirrored, what a picture shows, whether a background matters.

This page is made by `python tools/report_table.py`. The levels: *error*, the training stops or goes without these
pictures; *warning*, it will show in the result; *note*, good to know.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for level in LEVELS:
        lines += [f"## {level.capitalize()}s", ""]
        for kind in KINDS:
            if kind.level != level:
                continue
            lines += [f"### `{kind.code}`: {kind.title}", "", f"*Found when:* {kind.limit}", "", kind.why, ""]
            lines += [f"*What to do:* {kind.advice}", ""]
            if kind.repair:
                lines += [f"*`--repair`:* {kind.repair}", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
