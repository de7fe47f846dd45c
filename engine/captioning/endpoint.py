"""Captions from a model behind OpenAI's chat protocol: LM Studio, vLLM, Ollama, OpenAI itself."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from engine.captioning.captioner import Answer, Captioner, Subject
from engine.captioning.chat import Budget, Chat, is_local
from engine.captioning.endpoint_options import EndpointOptions
from engine.errors import UsageError
from engine.text import listing, plural, printable
from engine.types import Log

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_KEY, OPENAI_KEY = "LORASMITH_API_KEY", "OPENAI_API_KEY"
"""Environment variables for the key; the first wins."""
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_QUALITY = 90
_POLL_SECONDS = 0.2


class Endpoint(Captioner):
    """Captions by a server. Only the pixels of an image are sent, scaled down, as JPEG."""

    name: ClassVar[str] = "endpoint"

    @override
    def load(self, options: EndpointOptions, log: Log) -> None:
        self.options, self.log = options, log
        key, name = key_for(options.url)
        self.budget = Budget(options.max_requests, options.max_total_tokens)
        self.chat = Chat(options.url, key, name, timeout=options.timeout, retries=options.retries, budget=self.budget)
        self.model = self._model(self.chat.models())
        self._truncated: list[str] = []
        """Names of images with a truncated answer; any thread may add one."""
        self._truncation_logged = False
        log(f"{printable(self.model)} at {options.url}, {f'key from {name}' if key else 'without a key'}.")

    def _model(self, served: list[str] | None) -> str:
        """The name of the model to use."""
        model, url = self.options.model, self.options.url
        if model:
            if served and not any(name.split(":")[0] == model or name == model for name in served):
                self.log(f"! {url} does not list the model {printable(model)}; it is used anyway.")
            return model
        if served is None:
            raise UsageError(f"{url} does not list its models.", "Set Model.", code="endpoint-models-unknown")
        if len(served) != 1:
            hint = f"Set Model to one of: {printable(listing(served))}." if served else "Load one there."
            raise UsageError(f"{url} has {plural(len(served), 'model')}.", hint, code="endpoint-model-not-set")
        return served[0]

    @override
    def describe(self, subjects: Sequence[Subject]) -> list[Answer]:
        with ThreadPoolExecutor(len(subjects)) as pool:
            requests = [pool.submit(self._ask, subject) for subject in subjects]
            while wait(requests, timeout=_POLL_SECONDS).not_done:
                if self.should_stop():
                    self.chat.give_up.set()  # running requests are awaited: they may cost money
        answers = [request.result() for request in requests]
        if self._truncated and not self._truncation_logged:
            self._truncation_logged = True
            limit = plural(self.options.max_tokens, "token")
            self.log(f"! The answer for {printable(self._truncated[0])} was truncated at {limit}; others may be, too.")
        return answers

    def _ask(self, subject: Subject) -> Answer:
        assert subject.image is not None
        message = [
            {"type": "text", "text": self.options.prompt},
            {"type": "image_url", "image_url": {"url": data_url(subject.image, self.options.max_side)}},
        ]
        reply = self.chat.complete(
            {
                "model": self.model,
                "messages": [{"role": "user", "content": message}],
                "max_tokens": self.options.max_tokens,
                "temperature": self.options.temperature,
            }
        )
        if reply is None or isinstance(reply, Exception):
            return reply
        if reply.truncated:
            self._truncated.append(subject.path.name)
        return _THOUGHTS.sub("", reply.text).strip()

    def usage(self) -> str:
        """The number of requests, and of tokens as counted by the server."""
        counted = f", {plural(self.budget.tokens, 'token')}" if self.budget.tokens else ""
        return f"{plural(self.budget.requests, 'request')} made{counted}."


def key_for(url: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The key for a server and its environment variable; both empty if there is none.

    OpenAI's key, which may be set for other programs, is never sent unencrypted to another machine.

    Raises:
        UsageError: it has characters that cannot be sent.
    """
    if key := environment.get(OWN_KEY, "").strip():
        return _checked(key, OWN_KEY), OWN_KEY
    key = environment.get(OPENAI_KEY, "").strip()
    if not key or not (url.startswith("https:") or is_local(url)):
        return "", ""
    return _checked(key, OPENAI_KEY), OPENAI_KEY


def _checked(key: str, name: str) -> str:
    """Return `key` if it can be sent; it is never part of the message."""
    if key.isascii() and key.isprintable() and " " not in key:
        return key
    raise UsageError(
        f"The key in {name} cannot be sent: it has a space, a line break or a non-ASCII character.",
        "Set it without quotation marks or other characters around it.",
        code="key-not-possible",
    )


def data_url(image: Image, side: int) -> str:
    """The image as JPEG in a data URL, its longer side at most `side` px."""
    from PIL import Image as Pillow

    scaled = image.copy()
    scaled.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    scaled.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
