"""A client for OpenAI's chat protocol over HTTP: retries, keeps a budget, never shows the key."""

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
"""Seconds before the first retry; each further one waits twice as long."""
LONGEST_WAIT = 60.0
MOST_RETRY_AFTER = 120.0
"""Longest wait in seconds if the server asks for more."""
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CONNECT_TIMEOUT = 10.0
"""Seconds."""
_MODEL_LIST_RETRIES = 2
"""A server that fails to list its models may still caption."""
_EXCERPT = 200
"""Most characters of a server message that are shown."""
MOST_BYTES = 8 * 2**20
"""Of one answer; a caption with the most tokens allowed has less than a tenth of it."""


class EndpointError(LoraSmithError):
    """The server cannot be used any more."""

    title: ClassVar[str] = "Endpoint"


class EndpointNotFound(EndpointError):
    """The server has no such path or model."""


class BudgetSpent(LoraSmithError):
    """The user's limit is reached."""

    title: ClassVar[str] = "Budget"
    exit_code: ClassVar[ExitCode] = ExitCode.STOPPED


class Budget:
    """Limits on requests and tokens of this process; thread-safe."""

    def __init__(self, max_requests: int, max_total_tokens: int) -> None:
        self.max_requests, self.max_total_tokens = max_requests, max_total_tokens
        self.requests = self.tokens = 0
        self._mutex = threading.Lock()

    def take(self) -> BudgetSpent | None:
        """Count one more request, or return why it must not be sent."""
        with self._mutex:
            if self.max_requests and self.requests >= self.max_requests:
                return _spent(plural(self.max_requests, "request"))
            if self.max_total_tokens and self.tokens >= self.max_total_tokens:
                return _spent(plural(self.max_total_tokens, "token"))
            self.requests += 1
            return None

    def add(self, tokens: object) -> None:
        """Count the tokens of an answer, as reported by the server."""
        if isinstance(tokens, int) and tokens > 0:
            with self._mutex:
                self.tokens += tokens


@dataclass(frozen=True)
class _Response:
    """A server response."""

    status: int
    text: str
    headers: Mapping[str, str]


class _UnusableBody(Exception):
    """An answer has more than `MOST_BYTES`, or an unexpected or damaged encoding."""


@dataclass(frozen=True)
class Reply:
    """The answer of a model."""

    text: str
    truncated: bool
    """Whether it ended at the length limit."""


def is_local(url: str) -> bool:
    """Whether the address is on this machine."""
    return urlsplit(url).hostname in _LOOPBACK


class Chat:
    """A client for one server; thread-safe.

    Args:
        url: including /v1.
        key: sent as bearer token; empty for none.
        key_name: environment variable of the key, for messages.
        timeout: seconds for one answer, from the request to its last byte.
        retries: attempts after the first one.
        budget: counts every request to the model, including retries.
    """

    def __init__(self, url: str, key: str, key_name: str, *, timeout: float, retries: int, budget: Budget) -> None:
        self.url, self.retries, self.timeout, self.budget = url, retries, timeout, budget
        self.give_up = threading.Event()
        """Set to stop: no new request and no retry."""
        self._key, self._key_name = key, key_name
        self._client = httpx2.Client(
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            timeout=httpx2.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
            limits=httpx2.Limits(max_connections=None),
            trust_env=not is_local(url),  # a proxy cannot reach servers on this machine
        )

    def models(self) -> list[str] | None:
        """The models listed by the server; None if it has no list.

        Raises:
            EndpointError: no answer, or only errors.
            UsageError: it refuses the key.
        """
        answer = self._request_with_retries("GET", "/models", None, min(self.retries, _MODEL_LIST_RETRIES))
        if isinstance(answer, DataError | EndpointNotFound):
            return None  # not every server has the list; the first image shows whether it works
        if isinstance(answer, LoraSmithError):
            raise answer
        entries = answer.get("data") if answer is not None else None
        if not isinstance(entries, list):
            return None
        names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
        return [name for name in names if isinstance(name, str)]

    def complete(self, request: Mapping[str, Any]) -> Reply | LoraSmithError | None:
        """Send a chat request, with retries.

        Returns:
            the reply; a DataError if only this request fails; any other error if further requests are useless; None
            if `give_up` was set first.
        """
        answer = self._request_with_retries("POST", "/chat/completions", request, self.retries)
        if answer is None or isinstance(answer, LoraSmithError):
            return answer
        choice = answer["choices"][0]
        return Reply(_text_of(choice["message"]), choice.get("finish_reason") == "length")

    def _request_with_retries(
        self, method: str, path: str, body: Mapping[str, Any] | None, retries: int
    ) -> dict[str, Any] | LoraSmithError | None:
        """The JSON object of the first valid answer, or the error of the last attempt."""
        failure: LoraSmithError | None = None
        for attempt in range(retries + 1):
            if self.give_up.is_set():
                return None
            if body is not None and (spent := self.budget.take()) is not None:
                return spent
            answer, wait = self._attempt(method, path, body)
            if wait is None:
                return answer
            assert isinstance(answer, LoraSmithError)
            failure = answer
            if attempt < retries:
                delay = wait or min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.8, 1.2)
                self.give_up.wait(delay)
        return failure

    def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[dict[str, Any] | LoraSmithError, float | None]:
        """One attempt: its result, and the seconds to wait before a retry (0: the default wait; None: no retry)."""
        try:
            response = self._request(method, path, body)
        except _UnusableBody as error:
            return DataError(f"{self.url} answers with {error}.", code="answer-unreadable"), None
        except httpx2.ConnectError as error:
            wait = 0.0 if self.budget.requests > 1 else None  # it was reachable before
            return self._unreachable(str(error)), wait
        except httpx2.TimeoutException:
            message = f"{self.url} did not answer within {self.timeout:g} seconds{self._attempts_text()}."
            return EndpointError(message, "Use a smaller model, or raise Timeout.", code="endpoint-timeout"), 0.0
        except httpx2.HTTPError as error:
            return self._unreachable(str(error)), 0.0
        if response.status != 200:
            return self._status_error(response)
        try:
            answer = parse_json(response.text, surrogates=False)
            if body is not None:
                _text_of(answer["choices"][0]["message"])
                self.budget.add((answer.get("usage") or {}).get("total_tokens"))
            elif not isinstance(answer, dict):
                raise TypeError
        except (ValueError, LookupError, TypeError, AttributeError):
            excerpt = self._excerpt(response.text) or "nothing"
            return DataError(f"{self.url} answers with no completion: {excerpt}", code="answer-without-completion"), 0.0
        return answer, None

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> _Response:
        """Send one request and read the answer, with limits on size and time.

        Raises:
            _UnusableBody: the answer is too long, or has an unexpected or damaged encoding.
            httpx2.HTTPError: from the library, also for a slow answer.
        """
        end = time.monotonic() + self.timeout
        data = bytearray()
        with self._client.stream(method, self.url + path, json=body) as response:
            for piece in response.iter_raw():
                data += piece
                if len(data) > MOST_BYTES:
                    raise _UnusableBody(f"more than {MOST_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("the answer is too slow")
            headers = {name.lower(): value for name, value in response.headers.items()}
            text = _decompressed(bytes(data), headers.get("content-encoding", ""))
            return _Response(response.status_code, text.decode("utf-8", "replace"), headers)

    def _status_error(self, response: _Response) -> tuple[LoraSmithError, float | None]:
        """The error for a status other than 200, and the wait before a retry."""
        status, message = response.status, self._excerpt(_message(response))
        reason = f"{status}: {message}" if message else str(status)
        if status in (401, 403):
            if not self._key:
                return UsageError(
                    f"{self.url} needs a key ({reason})", "Set it in LORASMITH_API_KEY.", code="key-needed"
                ), None
            return UsageError(
                f"{self.url} refuses the key in {self._key_name} ({reason})", "Check the key.", code="key-refused"
            ), None
        if status == 429:
            limit = EndpointError(
                f"{self.url} has had too many requests{self._attempts_text()} ({reason})",
                "Wait, or send fewer requests at once. The same command continues with the rest.",
                code="too-many-requests",
            )
            return limit, _retry_after(response)
        if status >= 500 or status == 408:
            return DataError(
                f"{self.url} fails{self._attempts_text()} ({reason})", code="endpoint-fails"
            ), _retry_after(response)
        if status == 404:
            return EndpointNotFound(
                f"{self.url} does not have that path or model ({reason})",
                "Check address and model.",
                code="endpoint-not-found",
            ), None
        if 300 <= status < 400:
            return EndpointError(
                f"{self.url} redirects elsewhere ({reason})",
                "Use the address that it names.",
                code="endpoint-redirects",
            ), None
        return DataError(f"{self.url} refuses this image ({reason})", code="image-refused"), None

    def _unreachable(self, reason: str) -> EndpointError:
        excerpt = self._excerpt(_ERRNO.sub("", reason))
        return EndpointError(
            f"Nothing answers at {self.url}: {excerpt or 'the connection broke'}.",
            "Is the server started? Check the address.",
            code="endpoint-unreachable",
        )

    def _attempts_text(self) -> str:
        return f", {self.retries + 1} times in a row" if self.retries else ""

    def _excerpt(self, text: str) -> str:
        """Start of a server message on one line, without the key."""
        text = masked(text, {**os.environ, SECRETS[0]: self._key} if self._key else os.environ)
        line = " ".join(printable(" ".join(text.split())).split())
        return line if len(line) <= _EXCERPT else f"{line[:_EXCERPT]}…"


def _spent(what: str) -> BudgetSpent:
    return BudgetSpent(
        f"The budget of {what} is used up.", "The same command continues with the rest.", code="budget-spent"
    )


def _text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, which may have several parts.

    Raises:
        TypeError: unknown format.
    """
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError
    return content


def _decompressed(data: bytes, encoding: str) -> bytes:
    """The decoded content of an answer. No compression is requested, but gzip is accepted as it is common.

    Raises:
        _UnusableBody: it has more than `MOST_BYTES`, is damaged, or has another encoding.
    """
    if encoding.lower() in ("", "identity"):
        return data
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise _UnusableBody(f"content in the encoding {printable(encoding)[:40]}, which was not requested")
    try:
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(data, MOST_BYTES + 1)
    except zlib.error:
        raise _UnusableBody("damaged compressed content") from None
    if len(unpacked) > MOST_BYTES:
        raise _UnusableBody(f"more than {MOST_BYTES >> 20} MiB")
    return unpacked


def _message(response: _Response) -> str:
    """The error message of a server, in any of the usual formats."""
    try:
        value = parse_json(response.text)
    except ValueError:
        return response.text if "html" not in response.headers.get("content-type", "") else ""
    for name in ("error", "detail", "message"):
        message = value.get(name) if isinstance(value, dict) else None
        message = message.get("message") if isinstance(message, dict) else message
        if isinstance(message, str):
            return message
    return ""


def _retry_after(response: _Response) -> float:
    """Seconds to wait as requested by the server; 0 if it does not."""
    try:
        seconds = float(response.headers.get("retry-after", 0))
        return max(0.0, min(MOST_RETRY_AFTER, seconds)) if math.isfinite(seconds) else 0.0
    except ValueError:
        return 0.0
