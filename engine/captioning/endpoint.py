"""Captions from a model behind OpenAI's chat protocol: LM Studio, vLLM, Ollama, OpenAI itself."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, ClassVar

from engine.captioning.captioner import Answer, Captioner, Say, Subject
from engine.captioning.chat import Budget, Chat, is_local
from engine.captioning.endpoint_options import EndpointOptions
from engine.errors import UsageError
from engine.text import listing, plural, printable

if TYPE_CHECKING:
    from PIL.Image import Image

OWN_KEY, OPENAI_KEY = "LORASMITH_API_KEY", "OPENAI_API_KEY"
"""Environment variables for the key; the first one goes before."""
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_QUALITY = 90
_LOOK_SECONDS = 0.2


class Endpoint(Captioner):
    """Asks a server about each picture. Nothing of a picture but its pixels is sent, scaled down, as JPEG."""

    name: ClassVar[str] = "endpoint"

    def load(self, options: EndpointOptions, say: Say) -> None:
        """Ask the server which models it has; see `Captioner.load`."""
        self.options, self.say = options, say
        key, name = key_for(options.url)
        self.budget = Budget(options.max_requests, options.max_total_tokens)
        self.chat = Chat(options.url, key, name, timeout=options.timeout, retries=options.retries, budget=self.budget)
        self.model = self._model(self.chat.models())
        self._cut: list[str] = []
        """Names of pictures whose answers were cut; any thread may add one."""
        self._told_of_cut = False
        say(f"{printable(self.model)} at {options.url}, {f'key from {name}' if key else 'without a key'}.")

    def _model(self, served: list[str] | None) -> str:
        """The model to ask."""
        wished, url = self.options.model, self.options.url
        if wished:
            if served and not any(name.split(":")[0] == wished or name == wished for name in served):
                self.say(f"! {url} does not name {printable(wished)} among its models; it is asked for all the same.")
            return wished
        if served is None:
            raise UsageError(f"{url} does not say which models it has.", "Name one as Model.")
        if len(served) != 1:
            hint = f"Name one as Model: {printable(listing(served))}." if served else "Load one there."
            raise UsageError(f"{url} has {plural(len(served), 'model')}.", hint)
        return served[0]

    def describe(self, pictures: Sequence[Subject]) -> list[Answer]:
        """Ask about all of them together; see `Captioner.describe`."""
        with ThreadPoolExecutor(len(pictures)) as pool:
            asked = [pool.submit(self._ask, picture) for picture in pictures]
            while wait(asked, timeout=_LOOK_SECONDS).not_done:
                if self.should_stop():
                    self.chat.give_up.set()  # what is on its way is waited for: it may cost money
        answers = [one.result() for one in asked]
        if self._cut and not self._told_of_cut:
            self._told_of_cut = True
            limit = plural(self.options.max_tokens, "token")
            self.say(f"! The answer about {printable(self._cut[0])} was cut at {limit}; others may be, too.")
        return answers

    def _ask(self, picture: Subject) -> Answer:
        assert picture.image is not None
        message = [
            {"type": "text", "text": self.options.prompt},
            {"type": "image_url", "image_url": {"url": data_url(picture.image, self.options.max_side)}},
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
        if reply.cut:
            self._cut.append(picture.path.name)
        return _THOUGHTS.sub("", reply.text).strip()

    def used(self) -> str:
        """How many requests were made, and the tokens that the server has counted."""
        counted = f", {plural(self.budget.tokens, 'token')}" if self.budget.tokens else ""
        return f"{plural(self.budget.requests, 'request')} made{counted}."


def key_for(url: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The key for a server and the variable that it is from; both empty where there is none.

    OpenAI's key, which a person may have set for other programs, never goes unencrypted to another machine.

    Raises:
        UsageError: it has characters that cannot be sent.
    """
    if key := environment.get(OWN_KEY, "").strip():
        return _usable(key, OWN_KEY), OWN_KEY
    key = environment.get(OPENAI_KEY, "").strip()
    if not key or not (url.startswith("https:") or is_local(url)):
        return "", ""
    return _usable(key, OPENAI_KEY), OPENAI_KEY


def _usable(key: str, name: str) -> str:
    """`key`, if it can be sent; it is never part of the sentence."""
    if key.isascii() and key.isprintable() and " " not in key:
        return key
    raise UsageError(
        f"The key in {name} cannot be sent: it has a blank, a line break or a character that is not ASCII.",
        "Set it again, without quotation marks or anything else around it.",
    )


def data_url(image: Image, side: int) -> str:
    """The picture as JPEG in a data URL, its longer side at most `side` px."""
    from PIL import Image as Pillow

    sent = image.copy()
    sent.thumbnail((side, side), Pillow.Resampling.LANCZOS)
    buffer = io.BytesIO()
    sent.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
