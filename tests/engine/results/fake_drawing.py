"""A drawing process without a model: small images instead of real ones. Its first argument selects how it ends.

"draw": one image per column and prompt; "hang": waits for ever after the first image; "fail": a user's mistake;
"crash": it ends in the middle.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from PIL import Image


def send(**message: object) -> None:
    """One line of `engine.worker`."""
    print(json.dumps(message), flush=True)


def main(how: str) -> None:
    """Answer every request."""
    for line in sys.stdin:
        request = json.loads(line)
        if how == "fail":
            send(error="ModelError", message="It is no model.", hint="Name another.")
            continue
        send(event={"note": "Precision no: a test."})
        directory = Path(request["directory"])
        directory.mkdir(parents=True, exist_ok=True)
        places = [(column, prompt) for column in range(len(request["columns"])) for prompt in
                  range(len(request["prompts"]))]  # fmt: skip
        for done, (column, prompt) in enumerate(places):
            send(progress=["draw", done, len(places)])
            path = directory / f"{request['stem']}_{prompt:02d}_{column:02d}.png"
            Image.new("RGB", (16, 16), (60 * column, 200, 80 * prompt)).save(path)
            send(event={"prompt": prompt, "column": column, "path": str(path)})
            if how == "crash":
                sys.exit("the card is gone")
            while how == "hang":
                time.sleep(0.05)
        send(answer={})


if __name__ == "__main__":
    main(sys.argv[1])
