"""Web clients as attackers: what is no HTTP, or nearly, against the page, which must answer the next all the same."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests import showcase
from tests.fuzz.bounds import FILES, FOR_EVER, Figures
from tests.fuzz.datasets import havoc
from tests.fuzz.outgoing import play_all
from tests.paging import served, write_token
from tests.peers import LOOPBACK

LONGEST_S, SILENCE_S = 30.0, 0.15
OWN_HOST = f"Host: {LOOPBACK}".encode()
METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"\xff", b"G" * 9000)
PATHS = (
    *(
        b"/",
        b"/jobs/1",
        b"/series/2",
        b"/models/0",
        b"/healthz",
        b"/readyz",
        b"/metrics",
        b"/sign-in",
        b"/jobs/1/scene",
    ),
    *(b"/jobs/9223372036854775808", b"/jobs/-1", b"/jobs/1/retry", b"/jobs/1/hold", b"/static/../../etc/passwd", b"*"),
    *(
        b"/%00",
        b"/%ff%fe",
        b"//x/y",
        b"/" + b"a" * 20000,
        b"/?" + b"a=b&" * 3000,
        b"http://elsewhere/",
        b"",
        b"/jobs/\xb2",
    ),
)
HEADERS = (
    *(b"Host: x", b"Host: a, b", b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 9" + b"9" * 30, b": x"),
    *(
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: x",
        b"Connection: close",
        b"Connection: keep-alive",
        b"\0: \0",
    ),
    *(
        b"Cookie: session=" + b"x" * 5000,
        b"Cookie: =;=;=",
        b"Cookie: contourd=\xff",
        b"Origin: null",
        b"Range: bytes=0-",
    ),
    *(b"X-Forwarded-For: 1.2.3.4, \xff", b"Accept-Encoding: gzip;q=x", b"If-None-Match: *", b"Expect: 100-continue"),
    *(
        b"Content-Type: application/x-www-form-urlencoded",
        b"Content-Type: multipart/form-data; boundary=",
        b"Upgrade: h2c",
    ),
)
BODIES = (
    b"",
    b"token=" + b"x" * 100,
    b"5\r\nhello\r\n0\r\n\r\n",
    b"ffffffffff\r\n",
    b"a=%ff&b=%00",
    b"\0" * 5000,
    b"reason=" + b"y" * 70000,
)


def hostile_request(rng: random.Random) -> bytes:
    parts = []
    for _ in range(rng.choice((1, 1, 1, 2, 20))):
        headers = [rng.choice(HEADERS) for _ in range(rng.choice((0, 0, 0, 1, 1, 3, 200)))]
        headers += [OWN_HOST] * (rng.random() < 0.9)  # without it there is no more than 400
        line = b" ".join((rng.choice(METHODS[:3] if rng.random() < 0.6 else METHODS), rng.choice(PATHS)))
        version = rng.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9", b"", b"x"))
        parts += [line + b" " + version, *headers, b"", rng.choice(BODIES)]
    whole = b"\r\n".join(parts)
    return havoc(rng, whole) if rng.random() < 0.3 else whole


def run_page(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:
    """Send so many hostile requests to a page with a queue, where a person could sign in."""
    with served(folder, token_file=write_token(folder)) as page:
        showcase.fill_queue(page.database, page.spool)
        raised: list[str] = []
        loop: Any = asyncio.BaseEventLoop
        loop.default_exception_handler = lambda _, context: raised.append(repr(context.get("exception"))[:200])
        FILES.strays.clear()  # the shared memory in which the page is told how the node is

        def ask(number: int) -> bool:
            rng = random.Random(f"page {seed} {number}")
            answer = _answer(page.port, hostile_request(rng))
            if b" 500 " in answer.partition(b"\r\n")[0]:
                raise AssertionError(f"an internal error: {answer[:200]!r}")
            if b"contourd_" not in answer and b"Traceback" in answer:
                raise AssertionError("a traceback was shown")
            page.pulse.beat(True)
            if number % 50 == 0 and page.get("/healthz").status != 200:
                raise AssertionError("the page is not well afterwards")
            return answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))

        figures = play_all("requests", numbers, ask, seconds)
        figures.failures += [f"the page raised {error}" for error in raised]
        return figures


def _answer(port: int, content: bytes) -> bytes:
    """Send, and read until nothing more comes; what is no whole request has no answer."""
    answer = b""
    with socket.create_connection((LOOPBACK, port), timeout=LONGEST_S) as client:
        with suppress(ConnectionError):
            client.sendall(content)
        client.settimeout(SILENCE_S)
        with suppress(ConnectionError, TimeoutError):
            while got := client.recv(65536):
                answer += got
    return answer
