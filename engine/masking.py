"""Secrets of the environment never appear in events, logs or messages, in any form that an error may quote."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from urllib.parse import quote, quote_plus

SECRETS = (
    "LORASMITH_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "TRACKIO_WRITE_TOKEN",
)  # fmt: skip
"""Environment variables whose values are masked."""
SHORTEST = 4
"""Characters; a shorter value is a placeholder, and masking it would hide unrelated text."""


def masked(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with every form of the environment's secrets replaced by `***`: as it is, its lines one by one, and as
    Python, JSON, a URL or base64 write it."""
    forms = {form for name in SECRETS for form in _forms(environment.get(name, ""))}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _forms(secret: str) -> Iterator[str]:
    for part in {secret, secret.strip(), *secret.split()}:
        if len(part) < SHORTEST:
            continue
        raw = part.encode("utf-8", "surrogateescape")
        yield part
        yield repr(part)[1:-1]
        yield ascii(part)[1:-1]
        yield repr(raw)[2:-1]
        yield json.dumps(part)[1:-1]
        yield json.dumps(part, ensure_ascii=False)[1:-1]
        yield quote(raw, safe="")
        yield quote_plus(raw)
        yield base64.b64encode(raw).decode()
