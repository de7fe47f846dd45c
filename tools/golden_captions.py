"""Writes tests/engine/dataset/fixtures/golden_captions.json: 200 captions with random rules, and the results of Kohya's
caption pipeline.

python tools/golden_captions.py

The pipeline is written here a second time, step by step as in sd-scripts (`BaseDataset.process_caption`), and shares
no code with the engine's own: the test compares the engine with these results, with the same `random.Random`.
"""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

PLACE = Path(__file__).resolve().parents[1] / "tests" / "engine" / "dataset" / "fixtures" / "golden_captions.json"
COUNT = 200
TAGS = [
    "1girl", "red hair", "smile", "outdoors", "blue eyes", "{long|short} hair", "sitting", "hat;;;gloves", "",
    "a {{b}} c", "looking at viewer", "{cat| dog |{{x}}}", "night", "film grain", "masterpiece", "v", "ünïcode",
    "{one}", "tree;;;leaf",
]  # fmt: skip


def kohya_caption(
    caption: str, rules: dict[str, Any], rng: random.Random, epoch: int, step: int, max_train_steps: int
) -> str:
    """One caption, by the rules that are set."""
    # 1. prefix and suffix, each with one space
    if rules.get("caption_prefix"):
        caption = rules["caption_prefix"] + " " + caption
    if rules.get("caption_suffix"):
        caption = caption + " " + rules["caption_suffix"]
    # 2. is all of it dropped? A random number is drawn whenever there is a rate
    dropped = rules.get("caption_dropout_rate", 0) > 0 and rng.random() < rules["caption_dropout_rate"]
    every = rules.get("caption_dropout_every_n_epochs", 0)
    if dropped or (every > 0 and epoch % every == 0):
        return ""
    # 3. one line of several, then one alternative of each {a|b}; doubled braces are braces
    if rules.get("enable_wildcard"):
        if "\n" in caption:
            caption = rng.choice(caption.split("\n"))
        caption = caption.replace("{{", "⦅").replace("}}", "⦆")
        parts = re.split(r"\{([^}]+)\}", caption)
        parts[1::2] = [rng.choice(inside.split("|")) for inside in parts[1::2]]
        caption = "".join(parts).replace("⦅", "{").replace("⦆", "}")
    else:
        caption = caption.split("\n")[0]
    # 4. tags, where a rule asks for them
    warmup, rate = rules.get("token_warmup_step", 0), rules.get("caption_tag_dropout_rate", 0)
    if rules.get("shuffle_caption") or warmup > 0 or rate > 0:
        comma, keep = rules.get("caption_separator", ","), rules.get("keep_tokens_separator")
        if keep and keep in caption:
            pieces = caption.split(keep, 2)
            groups = [[tag.strip() for tag in piece.split(comma) if tag.strip()] for piece in pieces]
            fixed, flexible, last = [*groups, []][:3]
        else:
            tags = [tag.strip() for tag in caption.strip().split(comma)]
            count = rules.get("keep_tokens", 0)
            fixed, flexible, last = tags[:count], tags[count:], []
        if warmup < 1:
            warmup = math.floor(warmup * max_train_steps)
        if warmup and step < warmup:
            least = rules.get("token_warmup_min", 1)
            flexible = flexible[: math.floor(step * ((len(flexible) - least) / warmup)) + least]
        if rules.get("shuffle_caption"):
            rng.shuffle(flexible)
        if rate > 0:
            flexible = [tag for tag in flexible if rng.random() >= rate]
        caption = ", ".join(fixed + flexible + last)
    # 5. groups become tags
    if rules.get("secondary_separator"):
        caption = caption.replace(rules["secondary_separator"], rules.get("caption_separator", ","))
    return caption


def case(number: int) -> dict[str, Any]:
    """One caption with rules, position and seed, and the result."""
    chance = random.Random(f"golden caption {number}")
    comma = chance.choice([",", ",", ",", ";", " . "])
    rules: dict[str, Any] = {"caption_separator": comma}
    for name, values, likely in (
        ("shuffle_caption", [True], 0.6),
        ("keep_tokens", [1, 2, 3, 50], 0.5),
        ("keep_tokens_separator", ["|||"], 0.4),
        ("caption_dropout_rate", [0.1, 0.5], 0.25),
        ("caption_dropout_every_n_epochs", [1, 2, 3], 0.1),
        ("caption_tag_dropout_rate", [0.1, 0.5, 1.0], 0.4),
        ("caption_prefix", ["zed,", "a photo of"], 0.3),
        ("caption_suffix", [", best", "in the sun"], 0.3),
        ("secondary_separator", [";;;"], 0.5),
        ("enable_wildcard", [True], 0.5),
        ("token_warmup_step", [0.5, 20, 49], 0.5),
        ("token_warmup_min", [1, 2, 4], 0.5),
    ):
        if chance.random() < likely:
            rules[name] = chance.choice(values)
    lines = []
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        tags = chance.choices(TAGS, k=chance.randint(1, 9))
        for _ in range(chance.choice([0, 0, 1, 2])):
            tags.insert(chance.randint(0, len(tags)), "|||")
        lines.append((comma + chance.choice(["", " "])).join(tags).replace(f"{comma}|||{comma}", " ||| "))
    caption = "\n".join(lines)
    epoch, step, steps = chance.randint(1, 6), chance.randint(0, 40), chance.choice([60, 100])
    expected = kohya_caption(caption, rules, random.Random(number), epoch, step, steps)
    place = {"seed": number, "epoch": epoch, "step": step, "max_train_steps": steps}
    return {"caption": caption, "rules": rules, **place, "expected": expected}


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(case(number), ensure_ascii=False) for number in range(COUNT))
    PLACE.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
