"""OpenAI's chat protocol over HTTP, as far as captions need it: tries again, keeps to a budget, never shows the key."""

from __future__ import annotations

import math
import os
import random
import re
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx2

from engine.errors import DataError, LoraSmithError, UsageError
from engine.exit_codes import ExitCode
from engine.masking import SECRETS, masked
from engine.reading import parse_json
from engine.text import plural, printable

FIRST_WAIT = 1.0
"""Seconds before the second try; each further one waits twice as long."""
LONGEST_WAIT = 60.0
MOST_RETRY_AFTER = 120.0
"""Seconds that are waited if the server asks for more."""
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ON_ITS_WAY = 10.0
"""Seconds for a connection."""
_RETRIES_OF_THE_LIST = 2
"""A server that fails to list its models may still answer."""
_SHOWN = 200
"""Characters of a server's own words."""
MOST_BYTES = 8 * 2**20
"""Of one answer; a caption of the most tokens that can be asked for has less than a tenth."""


class EndpointError(LoraSmithError):
    """The server cannot be asked any more."""

    title: ClassVar[str] = "Endpoint"


class NotKnown(EndpointError):
    """The server has no such path or model."""


class BudgetSpent(LoraSmithError):
    """The limit that the person has set is reached."""

    title: ClassVar[str] = "Budget"
    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED


class Budget:
    """Requests and tokens that may be used by this process; any thread may ask."""

    def __init__(self, max_requests: int, max_total_tokens: int) -> None:
        self.max_requests, self.max_total_tokens = max_requests, max_total_tokens
        self.requests = self.tokens = 0
        self._mutex = threading.Lock()

    def take(self) -> BudgetSpent | None:
        """Count one more request, or say why it must not be made."""
        with self._mutex:
            if self.max_requests and self.requests >= self.max_requests:
                return _spent(plural(self.max_requests, "request"))
            if self.max_total_tokens and self.tokens >= self.max_total_tokens:
                return _spent(plural(self.max_total_tokens, "token"))
            self.requests += 1
            return None

    def add(self, tokens: object) -> None:
        """Count the tokens that an answer has taken, as the server says."""
        if isinstance(tokens, int) and tokens > 0:
            with self._mutex:
                self.tokens += tokens


@dataclass(frozen=True)
class _Response:
    """What a server sent, as far as it was read."""

    status: int
    text: str
    headers: Mapping[str, str]


class _TooLong(Exception):
    """An answer has more than `MOST_BYTES`, or is packed in a way that was not asked for."""


@dataclass(frozen=True)
class Reply:
    """What a model said."""

    text: str
    cut: bool
    """It ended at the limit of its length."""


def is_local(url: str) -> bool:
    """Whether the address is this machine's own."""
    return urlsplit(url).hostname in _LOOPBACK


class Chat:
    """A server. Several threads may ask it at once.

    Args:
        url: up to and with /v1.
        key: sent as bearer token; empty for none.
        key_name: of the environment variable that it comes from, for the sentences.
        timeout: seconds for one answer, from the request to its last byte.
        retries: tries after the first one.
        budget: every request to the model is counted, repeated ones too.
    """

    def __init__(self, url: str, key: str, key_name: str, *, timeout: float, retries: int, budget: Budget) -> None:
        self.url, self.retries, self.timeout, self.budget = url, retries, timeout, budget
        self.give_up = threading.Event()
        """Set when nothing more is wanted: no further request begins, and no try is repeated."""
        self._key, self._key_name = key, key_name
        self._client = httpx2.Client(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _ON_ITS_WAY)),
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_local(url),  # a proxy does not know this machine's own servers
        )

    def models(self) -> list[str] | None:
        """The names that the server gives; None where it does not tell.

        Raises:
            EndpointError: nobody answers, or only with errors.
            UsageError: it refuses the key.
        """
        answer = self._tried("GET", "/models", None, min(self.retries, _RETRIES_OF_THE_LIST))
        if isinstance(answer, DataError | NotKnown):
            return None  # not every server has the list; whether it can be asked shows with the first picture
        if isinstance(answer, LoraSmithError):
            raise answer
        entries = answer.get("data") if answer is not None else None
        named = [entry.get("id") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        return [name for name in named if isinstance(name, str)] if isinstance(entries, list) else None

    def complete(self, request: Mapping[str, Any]) -> Reply | LoraSmithError | None:
        """Ask, and ask again as often as is allowed.

        Returns:
            the reply; a DataError where the server has trouble with this request alone; any other error where it is
            of no use to go on; None where `give_up` came first.
        """
        answer = self._tried("POST", "/chat/completions", request, self.retries)
        if answer is None or isinstance(answer, LoraSmithError):
            return answer
        choice = answer["choices"][0]
        return Reply(_text_of(choice["message"]), choice.get("finish_reason") == "length")

    def _tried(
        self, method: str, path: str, body: Mapping[str, Any] | None, retries: int
    ) -> dict[str, Any] | LoraSmithError | None:
        """The JSON object of the first good answer, or what the last try has come to."""
        failure: LoraSmithError | None = None
        for attempt in range(retries + 1):
            if self.give_up.is_set():
                return None
            if body is not None and (spent := self.budget.take()) is not None:
                return spent
            answer, wait = self._once(method, path, body)
            if wait is None:
                return answer
            assert isinstance(answer, LoraSmithError)
            failure = answer
            if attempt < retries:
                delay = wait or min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.8, 1.2)
                self.give_up.wait(delay)
        return failure

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any] | LoraSmithError, float | None]:
        """One try: its result, and the seconds to wait before the next one (0: as usual); None: no next one."""
        try:
            response = self._request(method, path, body)
        except _TooLong as error:
            return DataError(f"{self.url} answers with {error}."), None
        except httpx2.ConnectError as error:
            again = 0.0 if self.budget.requests > 1 else None  # it was there before
            return self._unreachable(str(error)), again
        except httpx2.TimeoutException:
            said = f"{self.url} did not answer within {self.timeout:g} seconds{self._how_often()}."
            return EndpointError(said, "Is the model too large for that machine? Or raise Patience (timeout)."), 0.0
        except httpx2.HTTPError as error:
            return self._unreachable(str(error)), 0.0
        if response.status != 200:
            return self._refused(response)
        try:
            answer = parse_json(response.text, surrogates=False)
            if body is not None:
                _text_of(answer["choices"][0]["message"])
                self.budget.add((answer.get("usage") or {}).get("total_tokens"))
            elif not isinstance(answer, dict):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError):
            begun = self._words(response.text) or "nothing"
            return DataError(f"{self.url} answers with what is no completion: {begun}"), 0.0
        return answer, None

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> _Response:
        """Ask once, and read no more than an answer can have, for no longer than it may take.

        Raises:
            _TooLong: it sends more than that.
            httpx2.HTTPError: what the library says, a slow answer included.
        """
        end = time.monotonic() + self.timeout
        data = bytearray()
        with self._client.stream(method, self.url + path, json=body) as response:
            for piece in response.iter_raw():
                data += piece
                if len(data) > MOST_BYTES:
                    raise _TooLong(f"more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("the answer is too slow")
            headers = {name.lower(): value for name, value in response.headers.items()}
            text = _unpacked(bytes(data), headers.get("content-encoding", ""))
            return _Response(response.status_code, text.decode("utf-8", "replace"), headers)

    def _refused(self, response: _Response) -> tuple[LoraSmithError, float | None]:
        """What a status other than 200 means."""
        status, words = response.status, self._words(_message(response))
        said = f"{status}: {words}" if words else str(status)
        if status in (401, 403):
            if not self._key:
                return UsageError(f"{self.url} asks for a key ({said})", "Set LORASMITH_API_KEY to it."), None
            return UsageError(f"{self.url} refuses the key in {self._key_name} ({said})", "Check the key."), None
        if status == 429:
            limit = EndpointError(
                f"{self.url} has had too many requests{self._how_often()} ({said})",
                "Wait, or ask for fewer at once. The same command goes on with the rest.",
            )
            return limit, _retry_after(response)
        if status >= 500 or status == 408:
            return DataError(f"{self.url} fails{self._how_often()} ({said})"), _retry_after(response)
        if status == 404:
            return NotKnown(f"{self.url} does not know that ({said})", "Check address and model."), None
        if 300 <= status < 400:
            return EndpointError(f"{self.url} sends elsewhere ({said})", "Give the address that it names."), None
        return DataError(f"{self.url} refuses this picture ({said})"), None

    def _unreachable(self, reason: str) -> EndpointError:
        words = self._words(_ERRNO.sub("", reason))
        return EndpointError(
            f"Nothing answers at {self.url}: {words or 'the connection broke'}.",
            "Is the server started? Check the address.",
        )

    def _how_often(self) -> str:
        return f", {self.retries + 1} times in a row" if self.retries else ""

    def _words(self, text: str) -> str:
        """A server's own words for one line, without the key."""
        text = masked(text, {**os.environ, SECRETS[0]: self._key} if self._key else os.environ)
        line = " ".join(printable(" ".join(text.split())).split())
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _spent(what: str) -> BudgetSpent:
    return BudgetSpent(f"The budget of {what} is used up.", "The same command goes on with the rest.")


def _text_of(message: Mapping[str, Any]) -> str:
    """The words of a message, which may come in parts.

    Raises:
        TypeError: it has none of the known forms.
    """
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError
    return content


def _unpacked(data: bytes, encoding: str) -> bytes:
    """The content of an answer. Nothing packed is asked for; gzip is common enough to be taken all the same.

    Raises:
        _TooLong: unpacked it has more than `MOST_BYTES`, it is damaged, or packed in another way.
    """
    if encoding.lower() in ("", "identity"):
        return data
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise _TooLong(f"content in the encoding {printable(encoding)[:40]}, which was not asked for")
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, MOST_BYTES + 1)
    except zlib.error:
        raise _TooLong("packed content that is damaged") from None
    if len(unpacked) > MOST_BYTES:
        raise _TooLong(f"more than {MOST_BYTES >> 20} MiB")
    return unpacked


def _message(response: _Response) -> str:
    """What a server says about its error, in whichever of the usual forms."""
    try:
        value = parse_json(response.text)
    except ValueError:
        return response.text if "html" not in response.headers.get("content-type", "") else ""
    for name in ("error", "detail", "message"):
        found = value.get(name) if isinstance(value, dict) else None
        found = found.get("message") if isinstance(found, dict) else found
        if isinstance(found, str):
            return found
    return ""


def _retry_after(response: _Response) -> float:
    """Seconds that the server asks to wait; 0 where it does not say."""
    try:
        asked = float(response.headers.get("retry-after", 0))
        return max(0.0, min(MOST_RETRY_AFTER, asked)) if math.isfinite(asked) else 0.0
    except ValueError:
        return 0.0
