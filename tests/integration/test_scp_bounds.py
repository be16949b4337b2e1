"""Who may connect, and what a peer cannot do to the others: slow, silent, long, large and many."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.listener import PENDING_OF_ONE, allowed
from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.errors import NodeError
from contourd.settings import Destination, DestinationTLS, NodeTLS
from tests.certificates import Authority, Signed
from tests.integration.receiving import Start, associate, ended, sending
from tests.peers import LOOPBACK

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")


def echo(port: int) -> bool:
    with sending(port) as association:
        return association.send_c_echo().Status == 0


@pytest.mark.parametrize(
    ("address", "peers", "said"),
    [
        ("10.1.2.3", [], True),
        ("10.1.2.3", ["10.1.2.0/24"], True),
        ("10.1.3.3", ["10.1.2.0/24", "192.168.0.7"], False),
        ("192.168.0.7", ["10.1.2.0/24", "192.168.0.7"], True),
        ("::ffff:10.1.2.3", ["10.1.2.0/24"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("2001:db8::1", ["10.0.0.0/8"], False),
    ],
)
def test_networks(address, peers, said):
    assert allowed(address, [ip_network(p) for p in peers]) is said


def test_a_peer_of_another_network_is_disconnected_unheard(start: Start, caplog) -> None:
    receiver = start(allowed_peers=("192.0.2.0/24",))
    assert not associate(receiver.port).is_established
    assert receiver.sink.told == []
    assert "its address is not in node.allowed_peers" in caplog.text
    assert echo(start(allowed_peers=("127.0.0.0/8",)).port)


def test_a_connection_that_asks_for_nothing_is_closed(start: Start) -> None:
    receiver = start(request_timeout_s=1.0)
    with socket.create_connection((LOOPBACK, receiver.port)) as silent:
        assert 0.5 < ended(silent, 10) < 6


def test_a_peer_that_dribbles_a_pdu_is_closed_and_starves_nobody(start: Start) -> None:
    receiver = start(network_timeout_s=2.0, request_timeout_s=2.0, max_associations=2)
    dribbling = [socket.create_connection((LOOPBACK, receiver.port)) for _ in range(6)]
    header = struct.pack(">BBL", 1, 0, 2000)
    for connection in dribbling:
        connection.sendall(header)
    began = time.monotonic()
    open_still = set(dribbling)
    while open_still and time.monotonic() - began < 20:
        for connection in list(open_still):
            try:
                connection.sendall(b"\0")
            except OSError:
                open_still.discard(connection)
        assert echo(receiver.port)
        time.sleep(0.1)
    for connection in dribbling:
        connection.close()
    assert not open_still


def test_one_address_cannot_hold_every_connection(start: Start, caplog) -> None:
    receiver = start(request_timeout_s=3.0)
    held = [socket.create_connection((LOOPBACK, receiver.port)) for _ in range(PENDING_OF_ONE)]
    time.sleep(0.5)
    with socket.create_connection((LOOPBACK, receiver.port)) as further:
        assert ended(further, 10) < 2
    assert "too many connections without an association" in caplog.text
    for connection in held:
        ended(connection, 10)
        connection.close()
    time.sleep(0.5)
    assert echo(receiver.port)  # the places are free again


def test_a_connection_that_ends_unheard_gives_its_place_back(start: Start) -> None:
    receiver = start()
    for _ in range(3 * PENDING_OF_ONE):
        socket.create_connection((LOOPBACK, receiver.port)).close()
        time.sleep(0.05)
    time.sleep(1.0)
    assert echo(receiver.port)


def test_a_pdu_that_is_too_long_ends_the_connection_before_it_is_read(start: Start) -> None:
    receiver = start(max_pdu_kb=256)
    with socket.create_connection((LOOPBACK, receiver.port)) as liar:
        liar.sendall(struct.pack(">BBL", 1, 0, 0xFFFFFFFF))
        assert ended(liar, 10) < 5
    assert echo(receiver.port)


def test_an_instance_without_an_end_is_cut_off(start: Start, images: list[Path], caplog) -> None:
    receiver = start(max_instance_mb=1)
    image = pydicom.dcmread(images[0])
    image.add_new((0x0009, 0x0010), "LO", "TEST")
    image.add_new((0x0009, 0x1001), "OB", bytes(3_000_000))
    association = associate(receiver.port)
    answer = association.send_c_store(image)
    assert "Status" not in answer
    receiver.sink.wait_for("closed", 1, True)
    assert "larger than node.max_instance_mb" in caplog.text
    assert receiver.files() == []
    (refused,) = receiver.sink.refused
    assert refused.sop_instance_uid == image.SOPInstanceUID
    assert "larger than node.max_instance_mb" in str(refused.reason)


@pytest.mark.parametrize("shift", [0, 0x30])
def test_of_an_instance_that_is_too_large_the_series_is_known_if_it_came_so_far(start: Start, images, shift) -> None:
    receiver = start(max_instance_mb=3)
    image = pydicom.dcmread(images[0])
    image.add_new((0x0009 + shift, 0x0010), "LO", "TEST")
    image.add_new((0x0009 + shift, 0x1001), "OB", bytes(6_000_000))
    association = associate(receiver.port)
    association.send_c_store(image)
    receiver.sink.wait_for("closed", 1, True)
    assert receiver.sink.refused[0].series_instance_uid == (image.SeriesInstanceUID if shift else "")


def test_small_instances_do_not_add_up(start: Start, images: list[Path]) -> None:
    receiver = start(max_instance_mb=1)
    image = pydicom.dcmread(images[0])
    image.add_new((0x0009, 0x0010), "LO", "TEST")
    image.add_new((0x0009, 0x1001), "OB", bytes(600_000))
    with sending(receiver.port) as association:
        assert [association.send_c_store(image).Status for _ in range(4)] == [0] * 4


def test_an_association_that_lasts_too_long_is_cut_off(start: Start, caplog) -> None:
    receiver = start(association_limit_s=1.0)
    association = associate(receiver.port)
    began = time.monotonic()
    while association.is_established and time.monotonic() - began < 15:
        association.send_c_echo()
        time.sleep(0.2)
    assert not association.is_established
    assert "lasts longer than node.association_limit_s" in caplog.text
    assert echo(receiver.port)


def test_a_full_disk_rejects_associations_for_the_moment(start: Start) -> None:
    receiver = start(min_free_bytes=10**18)
    refused = associate(receiver.port)
    assert refused.is_rejected
    primitive = refused.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 1)
    receiver.spool.min_free_bytes = 0
    assert echo(receiver.port)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def node(authority: Authority) -> Signed:
    return authority.sign("node")


@pytest.fixture(scope="module")
def scanner(authority: Authority) -> Signed:
    return authority.sign("scanner")


def secure(authority: Authority, node: Signed, **more: Any) -> NodeTLS:
    return NodeTLS(certificate=node.certificate, key=node.key, authorities=authority.certificate, **more)


def call(port: int, context: ssl.SSLContext) -> Any:
    sender = AE("SCANNER")
    sender.add_requested_context(Verification)
    return sender.associate(LOOPBACK, port, ae_title="CONTOURD", tls_args=(context, LOOPBACK))


def client(authority: Authority, shown: Signed | None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.certificate)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_with_a_certificate(start: Start, authority: Authority, node: Signed, scanner: Signed, version) -> None:
    receiver = start(tls=secure(authority, node))
    association = call(receiver.port, client(authority, scanner, version))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_without_a_certificate_with_a_foreign_one_or_of_an_old_version(
    start: Start, authority: Authority, node: Signed, tmp_path: Path, caplog
) -> None:
    receiver = start(tls=secure(authority, node))
    foreign = Authority(tmp_path / "foreign", "foreign").sign("stranger")
    for context in (
        client(authority, None),
        client(authority, foreign),
        client(authority, None, ssl.TLSVersion.TLSv1_1),
    ):
        assert not call(receiver.port, context).is_established
    assert receiver.sink.told == []
    assert "no TLS connection came about" in caplog.text
    assert call(
        start(tls=secure(authority, node, require_certificate=False)).port, client(authority, None)
    ).is_established


def test_a_plain_peer_gets_nothing_from_a_tls_port(
    start: Start, authority: Authority, node: Signed, scanner: Signed
) -> None:
    receiver = start(tls=secure(authority, node), request_timeout_s=2.0)
    assert not associate(receiver.port).is_established
    with socket.create_connection((LOOPBACK, receiver.port)) as silent:  # in the middle of no handshake
        began = time.monotonic()
        association = call(receiver.port, client(authority, scanner))
        assert association.is_established
        assert time.monotonic() - began < 1.5
        association.release()
        assert ended(silent, 10) < 6


def test_structure_sets_go_out_by_tls(
    start: Start, authority: Authority, node: Signed, scanner: Signed, tmp_path
) -> None:
    receiver = start(tls=secure(authority, node))

    def outcome(**tls: Any) -> OutcomeKind:
        destination = Destination(name="tps", ae_title="CONTOURD", host=LOOPBACK, port=receiver.port, **tls)
        return StorageSCU("SENDER").echo(destination).kind

    shown = {"certificate": scanner.certificate, "key": scanner.key}
    assert outcome(tls=DestinationTLS(authorities=authority.certificate, **shown)) is OutcomeKind.ACCEPTED
    assert outcome() is OutcomeKind.UNREACHABLE  # plain
    assert outcome(tls=DestinationTLS(authorities=authority.certificate)) is OutcomeKind.UNREACHABLE
    foreign = Authority(tmp_path, "foreign")
    assert outcome(tls=DestinationTLS(authorities=foreign.certificate, **shown)) is OutcomeKind.UNREACHABLE


def test_files_that_cannot_be_used_are_named(start: Start, authority: Authority, node: Signed, scanner: Signed) -> None:
    with pytest.raises(NodeError, match=r"node.tls: certificate and key cannot be used"):
        start(tls=NodeTLS(certificate=node.certificate, key=scanner.key, authorities=authority.certificate))
    with pytest.raises(NodeError, match=r"node.tls: authorities cannot be used"):
        start(tls=NodeTLS(certificate=node.certificate, key=node.key, authorities=node.key))
    broken = DestinationTLS(certificate=node.certificate, key=scanner.key)
    destination = Destination(name="tps", ae_title="TPS", host=LOOPBACK, port=104, tls=broken)
    outcome = StorageSCU("SENDER").echo(destination)
    assert outcome.kind is OutcomeKind.UNREACHABLE
    assert "destination tps: tls: certificate and key cannot be used" in outcome.reason
    with pytest.raises(ValueError, match="require_certificate needs authorities"):
        NodeTLS(certificate=node.certificate, key=node.key)
