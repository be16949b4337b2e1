"""The page among peers that send nothing, little, too much, or do not read: it answers others, and health whatever."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import MappingProxyType

import pytest

from contourd.web import connections, scenes
from contourd.web.connections import LONGEST_S, MOST, MOST_FOR_HEALTH, MOST_OF_ONE, PageConnection, Phase
from contourd.web.server import LARGEST_HEADER_BYTES
from tests import showcase
from tests.paging import Page, served, write_token
from tests.peers import LOOPBACK

SHORT_S, WAIT_S, FILLING_S = 0.4, 10.0, 60.0  # the last: until the kernel's buffers are full
ELSEWHERE = "127.0.0.2"


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    root = tmp_path_factory.mktemp("crowd")
    with served(root, token_file=write_token(root)) as running:
        showcase.fill_queue(running.database, running.spool)
        yield running


@pytest.fixture
def open_one(page: Page) -> Iterator:
    with ExitStack() as held:

        def connect(content: bytes = b"", source: str = LOOPBACK) -> socket.socket:
            one = socket.create_connection((LOOPBACK, page.port), timeout=WAIT_S, source_address=(source, 0))
            held.callback(one.close)
            one.sendall(content)
            return one

        yield connect


@pytest.fixture
def hurried(monkeypatch):
    """Each phase lasts no longer than SHORT_S."""
    monkeypatch.setattr(connections, "LONGEST_S", MappingProxyType(dict.fromkeys(Phase, SHORT_S)))


def drip(one: socket.socket, content: bytes) -> float:
    """Send a byte again and again until the page has had enough; returns how long that took."""
    began = time.monotonic()
    one.settimeout(0.02)
    while time.monotonic() - began < WAIT_S:
        try:
            one.send(content)
            if one.recv(1) == b"":
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def keep_asking(one: socket.socket, requests: bytes, until: float) -> None:
    while time.monotonic() < until:
        with suppress(TimeoutError):
            one.sendall(requests)
        time.sleep(0.02)


def healthy(page: Page) -> bool:
    page.pulse.beat(True)
    began = time.monotonic()
    answers = [page.get(path).status for path in ("/healthz", "/readyz", "/metrics")]
    return answers == [200] * 3 and time.monotonic() - began < WAIT_S


@pytest.mark.parametrize(
    "content", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "], ids=["nothing", "half a header"]
)
def test_connections_that_come_to_nothing_keep_nobody_out(page, open_one, content):
    for source in (LOOPBACK, ELSEWHERE, "127.0.0.3", "127.0.0.4"):
        for _ in range(MOST_OF_ONE + 10):
            open_one(content, source)
    assert healthy(page)
    assert page.get("/").status == 200


def test_one_address_takes_no_place_of_another(open_one):
    first = open_one()
    for _ in range(MOST_OF_ONE + 5):
        open_one(source=ELSEWHERE)
    first.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert first.recv(9) == b"HTTP/1.1 "


@pytest.mark.usefixtures("hurried")
def test_a_header_that_drips_ends_after_its_time(open_one):
    assert SHORT_S * 0.9 < drip(open_one(b"GET / HTTP/1.1\r\nX: "), b"x") < SHORT_S + 2


@pytest.mark.usefixtures("hurried")
def test_the_second_header_has_no_more_time_than_the_first(open_one):
    one = open_one(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert one.recv(9) == b"HTTP/1.1 "
    assert drip(one, b"X") < 2 * SHORT_S + 2


@pytest.mark.usefixtures("hurried")
def test_a_form_that_drips_ends_after_its_time(open_one):
    head = b"POST /sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    assert drip(open_one(head + b"Content-Length: 8000\r\n\r\n"), b"x") < SHORT_S + 2


@pytest.mark.usefixtures("hurried")
def test_a_form_that_goes_on_after_its_refusal_ends_too(open_one):
    one = open_one(b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert one.recv(12) == b"HTTP/1.1 404"
    assert drip(one, b"1\r\nx\r\n") < 2 * SHORT_S + 2


@pytest.mark.usefixtures("hurried")
def test_who_does_not_read_is_cut_off(page, open_one, monkeypatch):
    made = PageConnection.connection_made

    def connection_made(connection, transport):  # else megabytes fit into the kernel
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(connection, transport)

    monkeypatch.setattr(PageConnection, "connection_made", connection_made)
    request = b"GET /static/viewer.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    one = open_one(request * 200)  # as many answers, none of them read
    one.settimeout(SHORT_S)
    with pytest.raises(OSError, match=r"reset|Broken pipe"):
        keep_asking(one, request, time.monotonic() + FILLING_S)
    assert healthy(page)


def test_a_header_without_end_is_refused(open_one):
    one = open_one(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * (LARGEST_HEADER_BYTES + 1000))
    assert one.recv(12) == b"HTTP/1.1 400"


def test_where_every_place_is_busy_health_is_answered_and_the_rest_is_told_to_wait(page, open_one, monkeypatch):
    request = b"GET /jobs/1/scene HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    go_on, open_scene = threading.Event(), scenes.open_scene

    def take_its_time(*what):
        assert go_on.wait(FILLING_S)
        return open_scene(*what)

    monkeypatch.setattr(scenes, "open_scene", take_its_time)
    try:
        busy = [open_one(request, source) for source in (LOOPBACK, ELSEWHERE, "127.0.0.3") for _ in range(MOST_OF_ONE)]
        assert len(busy) == MOST + MOST_FOR_HEALTH  # and no thread is left for what needs one
        time.sleep(0.3)
        assert healthy(page)
        assert page.get("/").status == 503
    finally:
        go_on.set()
    assert busy[0].recv(9) == b"HTTP/1.1 "


def test_every_phase_has_its_bound():
    assert set(LONGEST_S) == set(Phase)
    assert max(LONGEST_S.values()) <= 300
