"""200 captions with random rules are equal to those of Kohya's pipeline, with the same random numbers.

tools/golden_captions.py has that pipeline a second time, and wrote the file.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from engine.dataset.captions import CaptionRules, compose

GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "golden_captions.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["seed"]))
def test_a_caption_is_kohyas(case: dict[str, Any]) -> None:
    place = {key: case[key] for key in ("epoch", "step", "max_train_steps")}
    for exact in (True, False) if case["rules"].get("caption_separator", ",") == "," else (True,):
        rules = CaptionRules(**case["rules"], kohya_exact=exact)
        assert compose(case["caption"], rules, random.Random(case["seed"]), **place) == case["expected"]


def test_the_list_has_every_rule_at_work() -> None:
    """Each rule changes the outcome of some caption when it is left out."""
    assert len(GOLDEN) == 200 and len({case["expected"] for case in GOLDEN}) > 120
    matters: Counter[str] = Counter()
    for case in GOLDEN:
        place = {key: case[key] for key in ("epoch", "step", "max_train_steps")}
        for name in case["rules"]:
            rules = {key: value for key, value in case["rules"].items() if key != name}
            rest = CaptionRules(**rules, kohya_exact=True)
            matters[name] += compose(case["caption"], rest, random.Random(case["seed"]), **place) != case["expected"]
    assert set(matters) == set(CaptionRules.__dataclass_fields__) - {"kohya_exact"}
    assert min(matters.values()) >= 5, matters
