"""The options of captions from a server that speaks OpenAI's protocol."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import field_validator

from engine.captioning.options import CaptionOptions
from engine.config.fields import setting

PROMPT = (
    "Describe this picture for training an image model: one sentence with the subject, clothing, pose, surroundings "
    "and light. Only what can be seen, no opinions. Answer with the sentence alone."
)


class EndpointOptions(CaptionOptions):
    """LM Studio, vLLM, Ollama, OpenAI. The key is no option: it is read from the environment and stored nowhere."""

    ONLY_HOW: ClassVar[frozenset[str]] = frozenset(
        {"parallel", "max_requests", "max_total_tokens", "retries", "timeout"}
    )

    url: str = setting(
        "http://localhost:1234/v1",
        "Address",
        "LM Studio http://localhost:1234/v1, Ollama :11434/v1, vLLM :8000/v1. A key is read from LORASMITH_API_KEY.",
    )
    model: str = setting("", "Model", "Its name on the server. Empty: the only one that there is.")
    prompt: str = setting(PROMPT, "Prompt", "What the model is asked about each picture.", min_length=1)
    parallel: int = setting(1, "Requests at once", "Pictures that are asked about together.", ge=1, le=64)
    max_requests: int = setting(
        0, "Budget", "Ends after so many requests, repeated ones too. 0: no limit.", ge=0, unit="requests"
    )
    max_total_tokens: int = setting(
        0, "Token budget", "Ends when the server has counted so many tokens. 0: no limit.", ge=0, unit="tokens"
    )
    max_tokens: int = setting(300, "Longest answer", "", ge=1, le=32768, unit="tokens")
    temperature: float = setting(0.2, "Temperature", "0: the likeliest words.", ge=0, le=2)
    max_side: int = setting(
        1024, "Picture size", "The longer side of what is sent, as JPEG.", ge=64, le=4096, unit="px"
    )
    retries: int = setting(
        5, "Tries again", "After 429, a server error or no answer, each time later.", ge=0, le=20, advanced=True
    )
    timeout: float = setting(120.0, "Patience", "For one answer.", gt=0, le=3600, unit="seconds", advanced=True)

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        """Without what belongs behind it; a key in it would be stored."""
        try:
            parts = urlsplit(value.strip())
            wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            wrong = True
        if wrong:
            raise ValueError("an address as http://localhost:1234/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address without a key, a password or a query: the key goes into LORASMITH_API_KEY")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"

    @property
    def at_once(self) -> int:
        """Requests that are made together."""
        return self.parallel
