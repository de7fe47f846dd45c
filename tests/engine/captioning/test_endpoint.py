"""The endpoint against a server: what is sent, what is retried, what ends the job, and where the key goes."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import time
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.captioning import chat
from engine.captioning.captioner import Answer, Subject
from engine.captioning.endpoint import Endpoint, key_for
from engine.captioning.endpoint_options import EndpointOptions
from engine.captioning.job import CaptionJob, JobHistory, start
from engine.captioning.options import read_options
from engine.errors import DataError
from engine.masking import masked
from engine.runs.events import read_events
from engine.runs.state import RunState
from tests.fake_endpoint import FakeEndpoint, completion, image_in, running
from tests.refusals import refused, require


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    for name in ("LORASMITH_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.005)
    with running() as fake:
        yield fake


def subjects(count: int = 1, size: tuple[int, int] = (50, 30)) -> list[Subject]:
    return [Subject(Path(f"{number}.png"), Image.new("RGB", (size[0] + number, size[1]))) for number in range(count)]


def loaded(server: FakeEndpoint, log: list[str] | None = None, **values: Any) -> Endpoint:
    endpoint = Endpoint()
    endpoint.load(EndpointOptions(url=server.address, **values), (log if log is not None else []).append)
    return endpoint


def answer_of(server: FakeEndpoint, **values: Any) -> Answer:
    return loaded(server, **values).describe(subjects())[0]


def test_what_is_sent(server: FakeEndpoint) -> None:
    log: list[str] = []
    endpoint = loaded(server, log, prompt="What is it?", max_side=100, max_tokens=70, temperature=0.5)
    assert endpoint.describe(subjects(2, (200, 160))) == ["a 100 x 80 image", "a 100 x 80 image"]
    request = server.requests[0]
    assert {name: request[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "tiny-vision", "max_tokens": 70, "temperature": 0.5,
    }  # fmt: skip
    assert request["messages"][0]["content"][0] == {"type": "text", "text": "What is it?"}
    assert not image_in(request).getexif() and set(server.authorizations) == {None}
    assert log == [f"tiny-vision at {server.address}, without a key."]
    assert endpoint.usage() == "2 requests made, 200 tokens."


def test_small_images_are_not_enlarged(server: FakeEndpoint) -> None:
    assert answer_of(server) == "a 50 x 30 image"


def test_several_at_once(server: FakeEndpoint) -> None:
    server.delay = 0.1
    answers = loaded(server, parallel=4).describe(subjects(4))
    assert answers == [f"a {50 + number} x 30 image" for number in range(4)], "in the order of the images"
    assert server.most_at_once == 4


@pytest.mark.parametrize(
    "trouble",
    [429, 500, 503, "no json", "[]", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}',
     lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)],
)  # fmt: skip
def test_it_retries(server: FakeEndpoint, trouble: Any) -> None:
    server.script = [trouble, trouble]
    assert answer_of(server) == "a 50 x 30 image"
    assert len(server.requests) == 3


def test_it_waits_longer_each_time_and_as_long_as_the_server_asks(
    server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(chat.random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(threading.Event, "wait", _recorder(threading.Event.wait, waits))
    server.script = [500, 500, 500]
    answer_of(server)
    assert [wait for wait in waits if wait < 0.1] == [0.005, 0.01, 0.02]
    waits.clear()
    server.script, server.headers = [429], {"Retry-After": "0.07"}
    answer_of(server)
    assert 0.07 in waits


def _recorder(real: Callable[..., bool], waits: list[float]) -> Callable[..., bool]:
    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if timeout is not None:
            waits.append(timeout)
        return real(self, timeout)

    return wait


def test_it_gives_up_on_one_image_or_on_all(server: FakeEndpoint) -> None:
    server.script = [500, 500]
    require(answer_of(server, retries=1), "endpoint-fails", "2 times in a row (500: status 500)")
    server.script = [429, 429]
    require(answer_of(server, retries=1), "too-many-requests", "2 times in a row")
    server.script = ["<html>", "<html>"]
    require(answer_of(server, retries=1), "answer-without-completion", "<html>")
    server.script = [400]
    require(answer_of(server), "image-refused", "(400: status 400)")
    server.script = [404]
    require(answer_of(server), "endpoint-not-found", "404")
    server.script = [307]  # nothing is sent to another server
    require(answer_of(server), "endpoint-redirects", "307")


def test_it_waits_no_longer_than_the_limit(server: FakeEndpoint) -> None:
    server.script = [lambda _: time.sleep(0.5), lambda _: time.sleep(0.5)]
    require(answer_of(server, timeout=0.1, retries=1), "endpoint-timeout", "0.1 seconds", "2 times in a row")


def sending(*pieces: bytes, encoding: str = "", pause: float = 0.0) -> Callable[[Any], None]:
    """What the server does: the pieces one after the other, without saying how many there are."""

    def step(handler: Any) -> None:
        handler.send_response(200)
        if encoding:
            handler.send_header("Content-Encoding", encoding)
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.close_connection = True
        for piece in pieces:
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(pause)

    return step


@cache
def bomb() -> bytes:
    """256 MiB of zeros, packed into 256 KiB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return b"".join([*(packer.compress(bytes(2**20)) for _ in range(256)), packer.flush()])


GOOD = json.dumps(completion("a cat")).encode()


@pytest.mark.parametrize(
    ("step", "code", "part"),
    [
        (lambda: sending(bomb(), encoding="gzip"), "answer-unreadable", "8 MiB"),
        (lambda: sending(gzip.compress(bomb()), encoding="gzip, gzip"), "answer-unreadable", "encoding gzip, gzip"),
        (lambda: sending(b"x", encoding="br"), "answer-unreadable", "encoding br"),
        (lambda: sending(b"no gzip", encoding="gzip"), "answer-unreadable", "damaged"),
        (lambda: sending(*[bytes(2**20)] * 50), "answer-unreadable", "8 MiB"),
        (lambda: sending(b"[" * 100_000 + b"]" * 100_000), "answer-without-completion", "[[["),
        (
            lambda: sending(b'{"choices": [{"message": {"content": "a \\ud800 b"}}]}'),
            "answer-without-completion",
            "choices",
        ),
        (
            lambda: sending(b'{"choices": [{"message": {"content": "a"}}], "x": 1e999}'),
            "answer-without-completion",
            "choices",
        ),
        (
            lambda: sending(b'{"choices": [{"message": {"content": {"a": 1}}}]}'),
            "answer-without-completion",
            "choices",
        ),
        (lambda: sending(b'{"choices": {"message": 1}}'), "answer-without-completion", "choices"),
        (lambda: sending(b"\xff\xfe\x00"), "answer-without-completion", ""),
        (lambda: sending(b""), "answer-without-completion", "nothing"),
    ],
)
def test_a_hostile_answer_is_one_images_trouble(
    server: FakeEndpoint, step: Callable[[], Callable[[Any], None]], code: str, part: str
) -> None:
    server.script = [step()]
    endpoint = loaded(server, retries=0)
    tracemalloc.start()
    try:
        (answer,) = endpoint.describe(subjects())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    require(answer, code, part)
    assert isinstance(answer, DataError) and "\n" not in answer.message and len(answer.message) < 400
    assert peak < 64 * 2**20
    assert endpoint.describe(subjects()) == ["a 50 x 30 image"], "the next request succeeds"


@pytest.mark.parametrize("packed", [False, True])
def test_chunked_and_compressed_answers_are_read(server: FakeEndpoint, packed: bool) -> None:
    server.script = [sending(gzip.compress(GOOD), encoding="gzip") if packed else sending(GOOD[:9], GOOD[9:])]
    assert answer_of(server) == "a cat"


def test_an_answer_that_drips_ends_with_the_patience(server: FakeEndpoint) -> None:
    server.script = [sending(*[b" "] * 60, pause=0.05)]
    begin = time.monotonic()
    require(answer_of(server, timeout=0.3, retries=0), "endpoint-timeout", "0.3 seconds")
    assert time.monotonic() - begin < 2.5, "the full answer takes three seconds"


def test_control_characters_reach_no_caption(server: FakeEndpoint, images: Path, end_of: Any) -> None:
    server.answer = lambda _: "a\0 cat \x1b[2J on\x9b31m a\u202e mat\x07\u2028now \u200d👩\u200d🚀"
    assert end_of(start(images, "endpoint", {"url": server.address})).state == "finished"
    texts = {path.read_text() for path in images.glob("*.txt")}
    assert texts == {"a cat [2J on 31m a mat now \u200d👩\u200d🚀\n"}


@pytest.mark.parametrize(
    "key", ["sk-first\nsecond-half", "sk-a b-secret", "schlüssel-secret", "sk-\x1b[2J-secret", "sk-\udcff-secret"]
)
def test_a_key_that_cannot_be_sent_is_one_sentence_without_it(
    server: FakeEndpoint, images: Path, end_of: Any, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("LORASMITH_API_KEY", key)
    job = start(images, "endpoint", {"url": server.address})
    state = end_of(job)
    assert (state.state, state.exit_code) == ("failed", 2)
    assert "The key in LORASMITH_API_KEY cannot be sent" in state.detail
    written = b"".join(path.read_bytes() for path in job.path.rglob("*") if path.is_file())
    for part in ("secret", "second-half", "sk-", "schl"):
        assert part.encode() not in written
    assert server.authorizations == []


SECRET = 'sk-"quo\\ted"/+=%ü'


@pytest.mark.parametrize(
    "form",
    [
        SECRET, repr(SECRET), ascii(SECRET), repr(SECRET.encode()), json.dumps(SECRET),
        urllib.parse.quote(SECRET, safe=""), urllib.parse.quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(), f"a{SECRET}b{SECRET}",
    ],
)  # fmt: skip
def test_every_form_of_a_secret_is_masked(form: str) -> None:
    text = masked(f"before {form} behind", {"HF_TOKEN": SECRET})
    assert text.startswith("before ") and text.endswith(" behind") and "***" in text
    assert "quo" not in text and "sk-" not in text


def test_lines_of_a_secret_are_masked_and_a_placeholder_is_not() -> None:
    assert masked("header b'first-part' and last-part", {"OPENAI_API_KEY": "first-part\nlast-part"}) == (
        "header b'***' and ***"
    )
    assert masked("an x is an x", {"LORASMITH_API_KEY": "x"}) == "an x is an x"


def test_nobody_answers(server: FakeEndpoint) -> None:
    server.address = "http://127.0.0.1:9/v1"
    begin = time.monotonic()
    with refused("endpoint-unreachable", server.address):
        loaded(server)
    assert time.monotonic() - begin < 1.0, "at the start it fails at once"


def test_a_wrong_key_is_one_sentence_without_the_key(server: FakeEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    server.key = "right"
    with refused("key-needed", "(401", "LORASMITH_API_KEY"):
        loaded(server)
    monkeypatch.setenv("LORASMITH_API_KEY", "sk-wrong-key")
    with refused("key-refused", "LORASMITH_API_KEY (401: Incorrect API key provided: ***)") as caught:
        loaded(server)
    assert "sk-wrong-key" not in str(caught.value)


def test_the_key_comes_from_the_environment_and_goes_where_it_may(server: FakeEndpoint) -> None:
    both = {"LORASMITH_API_KEY": "own", "OPENAI_API_KEY": "openai"}
    assert key_for("http://far.example/v1", both) == ("own", "LORASMITH_API_KEY")
    other = {"OPENAI_API_KEY": "openai"}
    assert key_for("https://far.example/v1", other) == ("openai", "OPENAI_API_KEY")
    assert key_for("http://localhost:1234/v1", other) == ("openai", "OPENAI_API_KEY")
    assert key_for("http://far.example/v1", other) == ("", "")


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://localhost:11434", "http://localhost:11434/v1"),
        ("http://localhost:1234/v1/", "http://localhost:1234/v1"),
        ("https://host.example/api/v2/chat/completions", "https://host.example/api/v2"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert EndpointOptions(url=address).url == url


@pytest.mark.parametrize(
    "url", ["localhost:1234", "ftp://host/v1", "http://", "http://me:secret@host/v1", "http://h/?k=secret"]
)
def test_addresses_that_cannot_be(url: str) -> None:
    with refused("caption-option-not-possible", "Address: ") as caught:
        read_options(EndpointOptions, {"url": url})
    assert "secret" not in str(caught.value)


def test_which_model(server: FakeEndpoint) -> None:
    server.models = ["llava:7b", "other"]
    with refused("endpoint-model-not-set", "2 models", "llava:7b", "other"):
        loaded(server)
    log: list[str] = []
    assert loaded(server, log, model="llava").model == "llava" and len(log) == 1
    loaded(server, log, model="unknown")
    assert "does not list the model unknown" in log[1]
    server.models = None
    assert loaded(server, model="any").model == "any"
    with refused("endpoint-models-unknown", server.address):
        loaded(server)


def test_budgets(server: FakeEndpoint) -> None:
    server.script = [500]
    endpoint = loaded(server, max_requests=3)
    answers = [endpoint.describe([subject])[0] for subject in subjects(3)]
    assert [isinstance(answer, str) for answer in answers] == [True, True, False], "a repeated request counts"
    require(answers[2], "budget-spent", "3 requests")
    assert len(server.requests) == 3
    endpoint = loaded(server, max_total_tokens=150)
    answers = [endpoint.describe([subject])[0] for subject in subjects(3)]
    assert [isinstance(answer, str) for answer in answers] == [True, True, False]


def test_thoughts_parts_and_cut_answers(server: FakeEndpoint) -> None:
    log: list[str] = []
    endpoint = loaded(server, log)
    server.script = [
        json.dumps(completion("<think>hm\nhm</think>\n a robot ")),
        json.dumps(completion([{"type": "text", "text": "a "}, {"type": "text", "text": "cat"}])),
        json.dumps(completion("a robot on", finish_reason="length")),
        json.dumps(completion(None)),
    ]
    assert [endpoint.describe(subjects())[0] for _ in range(4)] == ["a robot", "a cat", "a robot on", ""]
    assert len(log) == 2 and "truncated at 300 tokens" in log[1]


def test_a_stop_ends_the_waiting(server: FakeEndpoint) -> None:
    server.script, server.headers = [503] * 9, {"Retry-After": "60"}
    endpoint = loaded(server)
    endpoint.should_stop = lambda: bool(server.requests)
    begin = time.monotonic()
    answers = endpoint.describe(subjects(2))
    assert time.monotonic() - begin < 2.0
    assert answers[1] is None or isinstance(answers[1], DataError)


def test_a_complete_job_keeps_paid_answers_and_never_the_key(
    server: FakeEndpoint, images: Path, end_of: Callable[[CaptionJob], RunState], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.key = "sk-very-secret"
    monkeypatch.setenv("LORASMITH_API_KEY", server.key)
    values = {"url": server.address, "trigger_word": "smithy", "parallel": 2, "max_requests": 3}
    job = start(images, "endpoint", values)
    state = end_of(job)
    assert (state.state, state.exit_code) == ("stopped", 6)
    assert "budget of 3 requests" in state.detail
    assert [path.read_text() for path in images.glob("*.txt")] == ["smithy, a 48 x 40 image\n"] * 3
    assert end_of(start(images, "endpoint", {**values, "max_requests": 10})).state == "finished"
    assert len(server.requests) == 6 == len(list(images.glob("*.txt"))), "no request is repeated"
    history = JobHistory()
    for event in read_events(job.events_path):
        history.add(event)
    assert sorted(history.written) == sorted(path.name for path in images.glob("*.png"))
    files = [path for path in job.path.rglob("*") if path.is_file()]
    assert len(files) >= 6 and not any(b"sk-very-secret" in path.read_bytes() for path in files)


def test_a_server_that_fails_for_every_image_ends_the_job(
    server: FakeEndpoint, images: Path, end_of: Callable[[CaptionJob], RunState]
) -> None:
    server.script = [400] * 6
    state = end_of(start(images, "endpoint", {"url": server.address}))
    assert (state.state, state.exit_code) == ("failed", 1)
    assert "5 images in a row" in state.detail and len(server.requests) == 5
