"""`contourd check` on the network's side: the port, destinations by C-ECHO and back, certificates."""

from __future__ import annotations

import fcntl
import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contourd.checks import network
from contourd.checks.finding import CheckFinding, CheckStatus
from contourd.dicom.network.tls import listening_context
from contourd.errors import NodeError
from contourd.settings import Destination, DestinationTLS, NodeSettings, NodeTLS, Settings
from contourd.store.database import Database
from contourd.store.states import SeriesState
from contourd.store.tables import SeriesRow
from tests.certificates import Authority, Signed
from tests.integration.receiving import Start
from tests.peers import LOOPBACK, free_port

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def settings(folder: Path, port: int, **node: object) -> Settings:
    return Settings.model_validate(
        {
            "node": {"host": LOOPBACK, "port": port, **node},
            "spool": {"root": folder},
            "destination": [{"name": "pacs", "ae_title": "PACS", "host": LOOPBACK, "port": port}],
            "route": [{"model": "hn7", "destinations": ["pacs"]}],
        }
    )


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Hold the spool as a running node does."""
    with (folder / "contourd.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_the_port_is_free_taken_or_ours(start: Start, tmp_path: Path) -> None:
    assert network.port(settings(tmp_path, free_port())).state is CheckStatus.OK
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = network.port(settings(tmp_path, other.getsockname()[1]))
        assert taken.state is CheckStatus.FAILED
        assert "node.port" in taken.remedy
    ours = settings(tmp_path, start(allowed_callers=("CT1",)).port, allowed_callers=("CT1",))
    assert network.port(ours).state is CheckStatus.FAILED  # nobody holds the spool: another contourd, perhaps
    with serving(tmp_path):
        finding = network.port(ours)
    assert (finding.state, "answers C-ECHO" in finding.text) == (CheckStatus.OK, True)


def test_a_node_that_keeps_this_machine_out_is_no_failure(start: Start, tmp_path: Path) -> None:
    port = start(allowed_peers=("198.51.100.0/24",)).port
    with serving(tmp_path):
        finding = network.port(settings(tmp_path, port, allowed_peers=("198.51.100.0/24",)))
    assert finding.state is CheckStatus.UNKNOWN


def test_our_own_port_by_tls(start: Start, tmp_path: Path, authority: Authority) -> None:
    node = authority.sign("node", more="extendedKeyUsage=serverAuth,clientAuth\n")
    tls = NodeTLS(certificate=node.certificate, key=node.key, authorities=authority.certificate)
    port = start(tls=tls).port
    with serving(tmp_path):
        assert network.port(settings(tmp_path, port, tls=tls)).state is CheckStatus.OK


def test_a_destination_that_answers_refuses_or_is_off(start: Start) -> None:
    receiver = start(allowed_callers=("CONTOURD",))
    there = Destination(name="pacs", ae_title="CONTOURD", host=LOOPBACK, port=receiver.port)
    assert network.echo(there, "CONTOURD").state is CheckStatus.OK
    stranger = network.echo(there, "STRANGER")
    assert (stranger.state, "make STRANGER known there" in stranger.remedy) == (CheckStatus.FAILED, True)
    off = network.echo(there.model_copy(update={"port": free_port()}), "CONTOURD")
    assert (off.state, "firewall" in off.remedy) == (CheckStatus.FAILED, True)


def test_a_destination_has_called_or_was_not_tested(tmp_path: Path) -> None:
    one = settings(tmp_path, 11112)
    destination = one.destination[0]
    assert network.echo_back(destination, one).state is CheckStatus.UNKNOWN
    assert list(tmp_path.iterdir()) == []
    database = Database(one.database_url)
    database.upgrade()
    assert network.echo_back(destination, one).state is CheckStatus.UNKNOWN
    with database.transaction() as session:
        at = datetime(2026, 3, 4, 5, 6, tzinfo=UTC)
        row = SeriesRow(
            series_uid="1.2", state=SeriesState.HELD.value, revision=1, calling_ae="PACS",
            created_at=at, last_instance_at=at,
        )  # fmt: skip
        session.add(row)
    database.close()
    finding = network.echo_back(destination, one)
    assert finding.state is CheckStatus.OK
    assert "2026-03-04 05:06 UTC" in finding.text
    assert network.echo_back(destination.model_copy(update={"ae_title": "OTHER"}), one).state is CheckStatus.UNKNOWN


def of_node(signed: Signed, key: Path | None = None) -> CheckFinding:
    tls = NodeTLS(certificate=signed.certificate, key=key or signed.key, require_certificate=False)
    return network.node_certificate(NodeSettings(host=LOOPBACK, tls=tls))


def test_the_node_s_certificate_lasts_for_a_month_and_names_it(authority: Authority) -> None:
    good = of_node(authority.sign("good", days=40))
    assert (good.state, "39 more days" in good.text) == (CheckStatus.OK, True)
    soon = of_node(authority.sign("soon", days=20))
    assert (soon.state, "renew it" in soon.remedy) == (CheckStatus.FAILED, True)
    named = of_node(authority.sign("named", days=40, names="DNS:tps.example.org"))
    assert (named.state, "tps.example.org" in named.text) == (CheckStatus.UNKNOWN, True)


def test_a_certificate_that_cannot_be_used(authority: Authority) -> None:
    client = authority.sign("client", days=40, more="extendedKeyUsage=clientAuth\n")
    with pytest.raises(OSError, match="purpose"):
        of_node(client)
    with pytest.raises(NodeError, match="certificate and key cannot be used"):
        of_node(client, key=authority.sign("other").key)
    with pytest.raises(OSError, match="expired"):
        of_node(authority.sign("old", days=-1))


@contextmanager
def tls_server(node: Signed, authority: Authority) -> Iterator[int]:
    """Shake hands with one client after the other until the block ends."""
    tls = NodeTLS(certificate=node.certificate, key=node.key, authorities=authority.certificate)
    context = listening_context(tls)
    listener = socket.create_server((LOOPBACK, 0))

    def answer() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(client, server_side=True) as shaken:
                    shaken.recv(1)
            except OSError:
                client.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def test_a_destination_s_certificate(authority: Authority, tmp_path: Path) -> None:
    ours = authority.sign("ours", days=40, more="extendedKeyUsage=clientAuth\n")
    tls = DestinationTLS(authorities=authority.certificate, certificate=ours.certificate, key=ours.key)

    def found(port: int, tls: DestinationTLS = tls) -> CheckFinding:
        return network.destination_certificate(
            Destination(name="pacs", ae_title="PACS", host=LOOPBACK, port=port, tls=tls)
        )

    with tls_server(authority.sign("lasting", days=40), authority) as port:
        finding = found(port)
        assert (finding.state, "TLSv1.3" in finding.text, "39 more days" in finding.text) == (
            CheckStatus.OK,
            True,
            True,
        )
        stranger = Authority(tmp_path / "stranger").certificate
        with pytest.raises(OSError, match="certificate verify failed"):
            found(port, tls.model_copy(update={"authorities": stranger}))
        brief = authority.sign("brief", days=10, more="extendedKeyUsage=clientAuth\n")
        mine = found(port, tls.model_copy(update={"certificate": brief.certificate, "key": brief.key}))
        assert (mine.state, "tls.certificate" in mine.text) == (CheckStatus.FAILED, True)
    with tls_server(authority.sign("ending", days=10), authority) as port:
        theirs = found(port)
        assert (theirs.state, f"certificate of {LOOPBACK}" in theirs.text) == (CheckStatus.FAILED, True)
    with tls_server(authority.sign("elsewhere", days=40, names="DNS:pacs.example.org"), authority) as port:
        with pytest.raises(OSError, match="IP address mismatch"):
            found(port)
        assert found(port, tls.model_copy(update={"check_host": False})).state is CheckStatus.OK
