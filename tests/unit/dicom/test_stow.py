"""STOW-RS: nothing is called sent that the answer does not name, whatever the server says, and however it says it."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage

from contourd.delivery.senders import Senders
from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.web.stow import StowSender
from contourd.settings import Destination
from tests.certificates import Authority
from tests.peers import orthanc
from tests.phantom import read_series, structure_set, write_series

ACCEPTED, RETRY, REFUSED, IMPROPER, UNREACHABLE = (
    OutcomeKind.ACCEPTED,
    OutcomeKind.RETRY,
    OutcomeKind.REFUSED,
    OutcomeKind.IMPROPER,
    OutcomeKind.UNREACHABLE,
)
STORED, FAILED = "00081199", "00081198"
OTHER = "1.2.826.0.1.3680043.2.1"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return structure_set(read_series(write_series(tmp_path_factory.mktemp("stow") / "ct")))


@pytest.fixture(scope="module")
def file(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("stow") / "rt.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


class Server:
    """An HTTP server on loopback that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.asked.append((self.command, self.path, dict(self.headers), body))
                status, headers, content = server.answers.pop(0)
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
                self.close_connection = True

            def do_GET(self) -> None:
                self.headers["Content-Length"] = "0"
                self.do_POST()

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def tell(self, status: int, content: bytes | object = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, body))


@pytest.fixture
def server():
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def there(port: int, scheme: str = "http", **settings: object) -> Destination:
    return Destination(name="web", kind="stow", url=f"{scheme}://127.0.0.1:{port}/dicom-web", **settings)


def report(dataset, stored: bool = True, uid: str = "", reason: int | None = None, also: object = None):
    """Write a Store Instances Response in JSON."""
    item = {
        "00081150": {"vr": "UI", "Value": [RTStructureSetStorage]},
        "00081155": {"vr": "UI", "Value": [uid or dataset.SOPInstanceUID]},
    }
    if reason is not None:
        item["00081196" if stored else "00081197"] = {"vr": "US", "Value": [reason]}
    return {STORED if stored else FAILED: {"vr": "SQ", "Value": [item]}, **(also or {})}


def of_another_class(content):
    return json.loads(json.dumps(content).replace(RTStructureSetStorage, "1.2.840.10008.5.1.4.1.1.481.2"))


def xml(dataset, tag: str = STORED) -> bytes:
    return (
        '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        f'<DicomAttribute tag="{tag}" vr="SQ"><Item number="1">'
        f'<DicomAttribute tag="00081150" vr="UI"><Value number="1">{RTStructureSetStorage}</Value></DicomAttribute>'
        f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{dataset.SOPInstanceUID}</Value></DicomAttribute>'
        "</Item></DicomAttribute></NativeDicomModel>"
    ).encode()


ANSWERS = {
    "stored": (200, lambda d: report(d), ACCEPTED, ""),
    "stored, in a list": (200, lambda d: [report(d)], ACCEPTED, ""),
    "stored, in XML": (200, lambda d: xml(d), ACCEPTED, ""),
    "stored with a warning": (202, lambda d: report(d, reason=0xB000), ACCEPTED, "with a warning: reason 0xB000"),
    "stored with a warning, 200": (200, lambda d: report(d, reason=0xB006), ACCEPTED, "0xB006"),
    "had already": (409, lambda d: report(d, False, reason=0x0111), ACCEPTED, "has it already"),
    "no resources": (409, lambda d: report(d, False, reason=0xA700), RETRY, "cannot take it now"),
    "processing failure": (409, lambda d: report(d, False, reason=0x0110), RETRY, "0x0110"),
    "failed without a reason": (409, lambda d: report(d, False), RETRY, "0x0110"),
    "class not supported": (
        409,
        lambda d: report(d, False, reason=0x0122),
        REFUSED,
        "refused it: failure reason 0x0122",
    ),
    "failed, and 202": (202, lambda d: report(d, False, reason=0xC000), REFUSED, "0xC000"),
    "failed, and 200": (200, lambda d: report(d, False, reason=0xA900), REFUSED, "0xA900"),
    "failed in XML": (409, lambda d: xml(d, FAILED), RETRY, "0x0110"),
    "both stored and failed": (200, lambda d: report(d, also=report(d, False, reason=0xC000)), REFUSED, "0xC000"),
    "409, and stored": (409, lambda d: report(d), IMPROPER, "all the same"),
    "another instance": (200, lambda d: report(d, uid=OTHER), IMPROPER, "names another instance"),
    "another failed": (202, lambda d: report(d, False, uid=OTHER), IMPROPER, "names another instance"),
    "of another class": (
        200,
        lambda d: json.loads(json.dumps(report(d)).replace("481.3", "481.2")),
        IMPROPER,
        "another",
    ),
    "nothing named": (200, lambda _: {}, IMPROPER, "names no instance"),
    "no body": (200, lambda _: b"", IMPROPER, "no report"),
    "204": (204, lambda _: b"", IMPROPER, "answered 204"),
    "HTML with 200": (200, lambda _: b"<!DOCTYPE html><html><body>Welcome</body></html>", IMPROPER, "no report"),
    "HTML that is XML": (200, lambda _: b"<html><body>Log in</body></html>", IMPROPER, "no report"),
    "cut JSON": (200, lambda d: json.dumps(report(d)).encode()[:-20], IMPROPER, "no report"),
    "cut XML": (200, lambda d: xml(d)[:-30], IMPROPER, "no report"),
    "JSON of another form": (200, lambda _: {STORED: {"vr": "SQ", "Value": ["x", 3, None]}}, IMPROPER, "no report"),
    "a number": (200, lambda _: b"17", IMPROPER, "no report"),
    "two datasets": (200, lambda d: [report(d), report(d)], IMPROPER, "no report"),
    "very deep": (200, lambda _: b"[" * 100_000, IMPROPER, "no report"),
    "entities": (200, lambda d: b'<!DOCTYPE a [<!ENTITY b "c">]>' + xml(d), IMPROPER, "no report"),
    "bytes": (200, lambda _: bytes(range(256)), IMPROPER, "no report"),
    "too much": (200, lambda d: json.dumps(report(d)).encode() + b" " * (2 << 20), IMPROPER, "more than is read"),
    "bad request": (400, lambda _: b"<html>", REFUSED, "does not understand"),
    "no such place": (404, lambda _: b"", REFUSED, "no DICOMweb at its url"),
    "not allowed": (405, lambda _: b"", REFUSED, "does not store"),
    "too large": (413, lambda _: b"", REFUSED, "larger than it takes"),
    "not that kind": (415, lambda _: b"", REFUSED, "does not take DICOM"),
    "who are you": (401, lambda _: b"", REFUSED, "look at its token"),
    "not you": (403, lambda d: report(d), REFUSED, "look at its token"),
    "too many": (429, lambda _: b"", RETRY, "cannot take it now (429)"),
    "unavailable": (503, lambda d: report(d), RETRY, "cannot take it now (503)"),
    "broken": (500, lambda d: report(d), RETRY, "cannot take it now (500)"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_made_of_an_answer(server, file, dataset, name):
    status, content, kind, words = ANSWERS[name]
    server.tell(status, content(dataset))
    outcome = StowSender().deliver(file, there(server.port))
    assert outcome.kind is kind
    assert words in outcome.reason
    assert str(dataset.PatientName) not in outcome.reason
    assert outcome.status is None  # which is of DIMSE: 413 would be shown as 0x019D


def test_what_is_sent_is_the_file_in_a_syntax_that_dicomweb_has(server, file, dataset):
    server.tell(200, report(dataset))
    StowSender().deliver(file, there(server.port))
    ((method, path, headers, body),) = server.asked
    assert (method, path) == ("POST", "/dicom-web/studies")
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"; boundary=')
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head.endswith(b"Content-Type: application/dicom")
    received = pydicom.dcmread(BytesIO(rest.rpartition(b"\r\n--")[0]))
    assert received.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert received.to_json_dict() == pydicom.dcmread(file).to_json_dict()
    assert "Authorization" not in headers


@pytest.mark.parametrize(("value", "seconds"), [("120", 120), ("", 0), ("soon", 0), ("-5", 0), ("9" * 30, 0)])
def test_the_wait_that_it_asks_for_is_kept(server, file, value, seconds):
    server.tell(503, b"", Retry_After=value)
    assert StowSender().deliver(file, there(server.port)).after_s == seconds


def test_a_redirect_is_refused_and_the_token_goes_nowhere_else(server, file, tmp_path):
    (tmp_path / "token").write_text("secret\n")
    other = Server()
    server.tell(307, b"", Location=f"http://127.0.0.1:{other.port}/dicom-web/studies")
    outcome = StowSender().deliver(file, there(server.port, token_file=tmp_path / "token"))
    assert (outcome.kind, "not followed" in outcome.reason) == (REFUSED, True)
    assert other.asked == []
    assert server.asked[0][2]["Authorization"] == "Bearer secret"
    other.http.shutdown()
    other.http.server_close()


@pytest.mark.parametrize("token", ["", "two words", "line\nline"])
def test_a_token_that_is_none_is_told_and_not_sent(server, file, tmp_path, token):
    (tmp_path / "token").write_text(token)
    outcome = StowSender().deliver(file, there(server.port, token_file=tmp_path / "token"))
    assert (outcome.kind, "does not hold one token" in outcome.reason) == (UNREACHABLE, True)
    assert server.asked == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, [{"00080018": {"vr": "UI", "Value": ["{uid}"]}}]), ACCEPTED),
        (
            (200, [{"00080018": {"vr": "UI", "Value": ["{uid}"]}, "30060050": {"vr": "DS", "Value": [1] * 999_999}}]),
            ACCEPTED,
        ),
        ((200, [{"00080018": {"vr": "UI", "Value": [OTHER]}}]), RETRY),
        ((200, b"<html>"), RETRY),
        ((404, b""), RETRY),
        ((503, b""), RETRY),
        ((401, b""), RETRY),
    ],
)
def test_with_verify_it_must_be_found_there(server, file, dataset, answer, kind):
    status, content = answer
    server.tell(200, report(dataset))
    server.tell(
        status,
        json.loads(json.dumps(content).replace("{uid}", dataset.SOPInstanceUID))
        if isinstance(content, list)
        else content,
    )
    assert StowSender().deliver(file, there(server.port, verify=True)).kind is kind
    assert server.asked[1][1].endswith(f"/instances/{dataset.SOPInstanceUID}/metadata")


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (200, b"[]", ACCEPTED),
        (204, b"", ACCEPTED),
        (200, b"<html>", IMPROPER),
        (404, b"", REFUSED),
        (401, b"", REFUSED),
        (503, b"", RETRY),
    ],
)
def test_the_echo_is_a_query(server, status, content, kind):
    server.tell(status, content)
    assert Senders("CONTOURD").echo(there(server.port)).kind is kind
    assert server.asked[0][:2] == ("GET", "/dicom-web/studies?limit=1")


@contextmanager
def saying(*parts: bytes, pause_s: float = 0.0):
    """Listen, read what is asked, and say these bytes, with pauses between; then close."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(0.3)
                try:
                    while connection.recv(1 << 16):
                        pass
                except TimeoutError:
                    pass
                try:
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause_s)
                except OSError:
                    pass

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ((b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",), IMPROPER),
        ((b"220 smtp ready\r\n",), IMPROPER),
        ((), IMPROPER),
        ((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",), IMPROPER),
    ],
)
def test_a_server_that_breaks_off_or_speaks_otherwise_has_taken_nothing(file, said, kind):
    with saying(*said) as port:
        outcome = StowSender().deliver(file, there(port))
    assert outcome.kind is kind


def test_a_server_that_drips_is_cut_off(file):
    with saying(*[b"HTTP/1.1 200 OK\r\nX: "] + [b"a"] * 60, pause_s=0.1) as port:
        began = time.monotonic()
        destination = there(port, connect_timeout_s=0.5, response_timeout_s=1.0)
        outcome = StowSender().deliver(file, destination)
        assert time.monotonic() - began < 5
    assert outcome.kind in (RETRY, IMPROPER)


def test_what_is_under_way_is_broken_off(file):
    sender = StowSender()
    with saying(b"HTTP/1.1 200 OK\r\n", pause_s=6) as port:
        threading.Timer(1.0, sender.hang_up).start()
        began = time.monotonic()
        assert sender.deliver(file, there(port)).kind in (RETRY, IMPROPER)
        assert time.monotonic() - began < 5


def test_nobody_there_is_unreachable(file):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    outcome = StowSender().deliver(file, there(port))
    assert (outcome.kind, "Connection refused" in outcome.reason) == (UNREACHABLE, True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.mark.parametrize("trusted", [True, False])
def test_its_certificate_is_verified(server, file, dataset, authority, trusted):
    signed = authority.sign("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.tell(200, report(dataset))
    settings = {"tls": {"authorities": authority.certificate}} if trusted else {}
    outcome = StowSender().deliver(file, there(server.port, "https", **settings))
    assert outcome.kind is (ACCEPTED if trusted else UNREACHABLE)
    assert trusted or "its certificate is not trusted" in outcome.reason


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "pacs"},
        {"url": "ftp://pacs/dicom-web"},
        {"url": "https://user:secret@pacs/dicom-web"},
        {"url": "https://pacs/dicom-web?x=1"},
        {"url": "https://pacs/dicom-web", "host": "pacs"},
        {"url": "https://pacs/dicom-web", "commitment": True},
        {"url": "http://pacs/dicom-web", "token_file": "/token"},
        {"kind": "dicom", "ae_title": "A", "host": "h", "port": 104, "url": "https://pacs/dicom-web"},
    ],
)
def test_what_does_not_fit_together_is_refused(settings):
    with pytest.raises(ValidationError):
        Destination(**{"name": "web", "kind": "stow", **settings})


@pytest.mark.peers
def test_orthanc_takes_it_and_has_it(tmp_path, file, dataset):
    with orthanc(tmp_path, web={}) as peer:
        destination = Destination(
            name="web", kind="stow", url=f"http://127.0.0.1:{peer.rest_port}/dicom-web", verify=True
        )
        senders = Senders("CONTOURD")
        assert senders.echo(destination).kind is ACCEPTED
        for _ in range(2):  # the second time it has it already
            outcome = senders.deliver(file, destination)
            assert (outcome.kind, outcome.reason) == (ACCEPTED, "")
        (received,) = peer.instances("RTSTRUCT")
    assert received.SOPInstanceUID == dataset.SOPInstanceUID
    assert received.to_json_dict() == pydicom.dcmread(file).to_json_dict()
