"""A server on 127.0.0.1 with as much of OpenAI's protocol as captions need, and failures on request."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


class FakeEndpoint:
    """Its reactions to the next requests, and the requests so far."""

    def __init__(self) -> None:
        self.models: list[str] | None = ["tiny-vision"]
        """None: it does not know such a list."""
        self.key = ""
        """Everything else is answered 401."""
        self.script: list[Callable[[Any], object] | int | str] = []
        """For each request to come: a status, a body for 200, or a function of the handler. After them all is well."""
        self.headers: dict[str, str] = {}
        """Of answers with a status."""
        self.answer: Callable[[Image.Image], str] = lambda image: f"a {image.width} x {image.height} image"
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.most_at_once = 0
        self.address = ""
        self.delay = 0.0
        """Seconds of each answer."""
        self.going = threading.Event()
        """Cleared, no answer is given until it is set again."""
        self.going.set()
        self._now = 0
        self._mutex = threading.Lock()

    def enter(self, by: int) -> None:
        """Count requests that are being answered."""
        with self._mutex:
            self._now += by
            self.most_at_once = max(self.most_at_once, self._now)

    def next_step(self) -> Callable[[Any], object] | int | str | None:
        """What is to be done with this request."""
        with self._mutex:
            return self.script.pop(0) if self.script else None


def image_in(request: dict[str, Any]) -> Image.Image:
    """The image that was sent."""
    url = request["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def completion(text: object, **more: Any) -> dict[str, Any]:
    """An answer as OpenAI's."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    return {"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": 100}}


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    fake: FakeEndpoint

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models" or self.fake.models is None:
            return self.send(404, {"error": {"message": "no such path"}})
        self.send(200, {"object": "list", "data": [{"id": name} for name in self.fake.models]})

    def do_POST(self) -> None:
        self.fake.enter(1)
        try:
            self._chat()
        finally:
            self.fake.enter(-1)

    def _chat(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or not self._allowed():
            return
        self.fake.requests.append(request)
        step = self.fake.next_step()
        time.sleep(self.fake.delay)
        self.fake.going.wait(60)
        if callable(step):
            step(self)
        elif isinstance(step, int):
            self.send(step, {"error": {"message": f"status {step}"}}, self.fake.headers)
        elif isinstance(step, str):
            self.send(200, step)
        else:
            self.send(200, completion(self.fake.answer(image_in(request))))

    def _allowed(self) -> bool:
        authorization = self.headers.get("Authorization")
        self.fake.authorizations.append(authorization)
        if self.fake.key and authorization != f"Bearer {self.fake.key}":
            self.send(401, {"error": {"message": f"Incorrect API key provided: {(authorization or '')[7:]}"}})
            return False
        return True

    def send(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        """An answer; text goes as it is."""
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that goes away is what some tests are about."""


@contextmanager
def running() -> Iterator[FakeEndpoint]:
    """The server, while it is used."""
    fake = FakeEndpoint()
    server = _Server(("127.0.0.1", 0), type("Answers", (_Answers,), {"fake": fake}))
    fake.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
