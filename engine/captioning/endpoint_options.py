"""The options of captions from a server that speaks OpenAI's protocol."""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import field_validator
from typing_extensions import override

from engine.captioning.options import CaptionOptions
from engine.config.fields import setting

PROMPT = (
    "Describe this image for training an image model: one sentence with the subject, clothing, pose, surroundings "
    "and light. Only what can be seen, no opinions. Answer with the sentence alone."
)


class EndpointOptions(CaptionOptions):
    """LM Studio, vLLM, Ollama, OpenAI. The key is not an option: it is read from the environment and never stored."""

    NON_OUTPUT: ClassVar[frozenset[str]] = frozenset(
        {"parallel", "max_requests", "max_total_tokens", "retries", "timeout"}
    )

    url: str = setting(
        "http://localhost:1234/v1",
        "Address",
        "LM Studio http://localhost:1234/v1, Ollama :11434/v1, vLLM :8000/v1. A key is read from LORASMITH_API_KEY.",
    )
    model: str = setting("", "Model", "Its name on the server. Empty: the server's only model.")
    prompt: str = setting(PROMPT, "Prompt", "The prompt sent with each image.", min_length=1)
    parallel: int = setting(1, "Requests at once", "Requests sent in parallel.", ge=1, le=64)
    max_requests: int = setting(
        0, "Budget", "Stops after this many requests, including retries. 0: no limit.", ge=0, unit="requests"
    )
    max_total_tokens: int = setting(
        0, "Token budget", "Stops after this many tokens, as counted by the server. 0: no limit.", ge=0, unit="tokens"
    )
    max_tokens: int = setting(300, "Longest answer", "", ge=1, le=32768, unit="tokens")
    temperature: float = setting(0.2, "Temperature", "0: the most likely words.", ge=0, le=2)
    max_side: int = setting(1024, "Image size", "Longer side of the image sent, as JPEG.", ge=64, le=4096, unit="px")
    retries: int = setting(
        5, "Retries", "After 429, a server error or no answer, with increasing delay.", ge=0, le=20, advanced=True
    )
    timeout: float = setting(120.0, "Timeout", "For one answer.", gt=0, le=3600, unit="seconds", advanced=True)

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        """The base address; refuses a key in it, which would be stored."""
        try:
            parts = urlsplit(value.strip())
            invalid = parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0
        except ValueError:
            invalid = True
        if invalid:
            raise ValueError("an address like http://localhost:1234/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an address without a key, a password or a query: the key goes into LORASMITH_API_KEY")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"

    @property
    @override
    def at_once(self) -> int:
        return self.parallel
