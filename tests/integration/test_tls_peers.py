"""TLS and refused addresses with DCMTK at the other end."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.settings import Destination, DestinationTLS, NodeTLS
from tests.certificates import Authority, Signed
from tests.integration.receiving import Start
from tests.peers import LOOPBACK, echoscu, free_port, require, running, storescu
from tests.phantom import read_series, structure_set

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def options(authority: Authority, shown: Signed) -> tuple[str, ...]:
    return ("+tls", str(shown.key), str(shown.certificate), "+cf", str(authority.certificate))


def test_dcmtk_sends_by_tls_and_without_it_nothing(
    start: Start, images: list[Path], authority: Authority, tmp_path: Path
) -> None:
    node, scanner = authority.sign("node"), authority.sign("scanner")
    foreign = Authority(tmp_path / "foreign", "foreign").sign("stranger")
    tls = NodeTLS(certificate=node.certificate, key=node.key, authorities=authority.certificate)
    receiver = start(tls=tls)
    assert storescu(receiver.port, images[0].parent, options=options(authority, scanner)).status == 0
    assert len(receiver.files()) == len(images)
    for refused in (("+tla",), options(authority, foreign), ()):
        assert storescu(receiver.port, images[0].parent, options=refused).status != 0
    assert len(receiver.files()) == len(images)


def test_a_structure_set_goes_to_dcmtk_by_tls(images: list[Path], authority: Authority, tmp_path: Path) -> None:
    pacs, sender = authority.sign("pacs"), authority.sign("sender")
    received, port, path = tmp_path / "received", free_port(), tmp_path / "rt.dcm"
    received.mkdir()
    structure_set(read_series(images[0].parent)).save_as(path, enforce_file_format=True)
    command = [require("storescp"), *options(authority, pacs), "-aet", "PACS", "-od", str(received), str(port)]
    secure = DestinationTLS(authorities=authority.certificate, certificate=sender.certificate, key=sender.key)

    def outcome(tls: DestinationTLS | None) -> OutcomeKind:
        destination = Destination(name="pacs", ae_title="PACS", host=LOOPBACK, port=port, tls=tls)
        return StorageSCU("CONTOURD").deliver(path, destination).kind

    with running(command, port, tmp_path / "storescp.log"):
        assert outcome(None) is OutcomeKind.UNREACHABLE
        assert list(received.iterdir()) == []
        assert outcome(secure) is OutcomeKind.ACCEPTED
    (file,) = received.iterdir()
    assert pydicom.dcmread(file) == pydicom.dcmread(path)


def test_dcmtk_is_refused_by_its_address_and_by_its_titles(start: Start, images: list[Path]) -> None:
    for refusing in ({"allowed_peers": ("198.51.100.0/24",)}, {"allowed_callers": ("SCANNER1",)}):
        receiver = start(**refusing)
        assert echoscu(receiver.port).status != 0
        assert storescu(receiver.port, images[0].parent).status != 0
        assert receiver.files() == []
    receiver = start(allowed_peers=("127.0.0.1",), allowed_callers=("ECHOSCU",))
    assert echoscu(receiver.port).status == 0
    assert echoscu(receiver.port, called="OTHER").status != 0
