"""Draw the report of a run, and its comparison with another, into screenshots/: in a real browser, light and dark.

    lorasmith demo --output_dir A
    lorasmith demo --output_dir B --set training.unet_lr=5e-4
    python tools/page_screenshots.py A B

Needs Chromium (Debian: apt-get install chromium). The images differ a little from one version of it to the next, so no
test compares them.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402 - behind the path, like those that follow

from engine.results.compare_page import write_comparison  # noqa: E402
from engine.results.comparison import compare  # noqa: E402
from engine.results.record import read_run  # noqa: E402
from engine.results.report import write_report  # noqa: E402
from engine.runs import resolve  # noqa: E402
from tests.chromium import Browser, browser, find  # noqa: E402

WIDTH = 1280
HEIGHTS = {"report": 2300, "compare": 2450}
"""Of what is kept of a page, in px."""
SKIPPED = 77


def draw(window: Browser, page: Path, name: str, scheme: str) -> Path:
    """One page in one scheme, in few colours."""
    window.prefer(scheme)
    window.resize(WIDTH, HEIGHTS[name])
    window.open(page)
    assert not window.complaints, window.complaints
    target = ROOT / "screenshots" / f"{name}-page-{scheme}.png"
    image = Image.open(io.BytesIO(window.screenshot())).convert("RGB")
    image.quantize(256).save(target, "PNG", optimize=True)
    return target


def main() -> int:
    """Write both pages into a temporary folder, and draw each of them light and dark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("other")
    options = parser.parse_args()
    program = find()
    if program is None:
        print("No Chromium here (Debian: apt-get install chromium).", file=sys.stderr)
        return SKIPPED
    runs = [read_run(resolve(name)) for name in (options.run, options.other)]
    with tempfile.TemporaryDirectory() as place, browser(program, Path(place) / "profile") as window:
        pages = {name: Path(place) / f"{name}.html" for name in HEIGHTS}
        write_report(runs[0], pages["report"])
        write_comparison(compare(runs), pages["compare"])
        for name, page in pages.items():
            for scheme in ("light", "dark"):
                print(draw(window, page, name, scheme))
    return 0


if __name__ == "__main__":
    sys.exit(main())
