"""What the SCP tells the audit trail of its peers, and what an error that nobody foresaw tells them and the log."""

from __future__ import annotations

import logging
import socket

import pydicom
import pytest

from contourd.settings.node import NodeTLS
from contourd.system.logs import LineFormatter
from tests.certificates import Authority
from tests.integration.receiving import WAIT_S, Receiver, associate, sending, watched
from tests.peers import LOOPBACK

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


def refused(port: int, calling: str = "SCANNER", called: str = "CONTOURD") -> None:
    assert not associate(port, calling=calling, called=called).is_established


def test_accepted_and_aborted(tmp_path):
    with watched(tmp_path) as (scp, witness):
        with sending(scp.port):
            pass
        associate(scp.port).abort()
        assert witness.wait_for("association accepted") == ("association accepted", LOOPBACK, "SCANNER", "")
        assert witness.wait_for("association aborted") == ("association aborted", LOOPBACK, "SCANNER", "")
        assert [deed[0] for deed in witness.deeds].count("association aborted") == 1


@pytest.mark.parametrize("titles", [{"calling": "LAPTOP"}, {"called": "OTHER"}])
def test_rejected_by_ae_title(tmp_path, titles):
    with watched(tmp_path, allowed_callers=["SCANNER"]) as (scp, witness):
        refused(scp.port, **titles)
        deed = (
            "association rejected",
            LOOPBACK,
            titles.get("calling", "SCANNER"),
            "a wrong calling or called AE title",
        )
        assert witness.wait_for("association rejected") == deed


def test_rejected_by_the_limit(tmp_path):
    with watched(tmp_path, max_associations=1) as (scp, witness), sending(scp.port):
        refused(scp.port, calling="SECOND")
        deed = ("association rejected", LOOPBACK, "SECOND", "too many associations")
        assert witness.wait_for("association rejected") == deed


def test_refused_by_address(tmp_path):
    with watched(tmp_path, allowed_peers=["10.1.2.0/24"]) as (scp, witness):
        refused(scp.port)
        deed = ("connection refused", LOOPBACK, "", "its address is not in node.allowed_peers")
        assert witness.wait_for("connection refused") == deed


def test_refused_by_tls(tmp_path):
    authority = Authority(tmp_path / "tls")
    signed = authority.sign("node")
    tls = NodeTLS(certificate=signed.certificate, key=signed.key, authorities=authority.certificate)
    with watched(tmp_path, tls=tls) as (scp, witness):
        with socket.create_connection((LOOPBACK, scp.port), timeout=WAIT_S) as plain:
            plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
            action, peer, title, why = witness.wait_for("connection refused")
        assert (action, peer, title) == ("connection refused", LOOPBACK, "")
        assert why.startswith("no TLS connection came about: ")


def test_cut_off(tmp_path, images):
    with watched(tmp_path, max_instance_mb=1) as (scp, witness):
        image = pydicom.dcmread(images[0])
        image.add_new((0x0009, 0x0010), "LO", "TEST")
        image.add_new((0x0009, 0x1001), "OB", bytes(3_000_000))
        associate(scp.port).send_c_store(image)
        deed = ("association cut off", LOOPBACK, "SCANNER", "an instance is larger than node.max_instance_mb")
        assert witness.wait_for("association cut off") == deed


def test_an_error_that_quotes_the_patient_is_told_by_its_kind(receiver: Receiver, images, caplog):
    said = "Invalid value for VR PN: 'Zanzibaar^Quentinus'"

    def fail() -> None:
        raise ValueError(said)

    receiver.sink.before_storing = fail
    with caplog.at_level(logging.INFO), sending(receiver.port) as association:
        answer = association.send_c_store(images[0])
    assert answer.Status == 0x0110
    assert answer.ErrorComment == "internal error; see the log of contourd"
    lines = [LineFormatter().format(record) for record in caplog.records]
    assert any("instance refused with status 0x0110: ValueError" in line for line in lines)
    assert "Zanzibaar" not in "".join(lines)
