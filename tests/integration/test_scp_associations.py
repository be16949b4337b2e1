"""The SCP on loopback: who gets in, and how an association ends."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network.scp import StorageSCP
from contourd.settings import NodeSettings
from tests.integration.receiving import WAIT_S, Receiver, Start, associate, sending
from tests.peers import LOOPBACK

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def test_a_wrong_called_ae_title_is_rejected(receiver: Receiver) -> None:
    association = associate(receiver.port, called="SOMEONE")
    assert association.is_rejected
    # PS3.8 9.3.4: permanent, service user, called AE title not recognized.
    primitive = association.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, 7)
    assert receiver.sink.told == []


def test_only_callers_that_are_allowed_get_in(start: Start) -> None:
    receiver = start(allowed_callers=("CT1", "CT2"))
    refused = associate(receiver.port, calling="CT3")
    assert refused.is_rejected
    assert refused.acceptor.primitive.diagnostic == 3
    accepted = associate(receiver.port, calling="CT2")
    assert accepted.is_established
    accepted.release()
    receiver.sink.wait_for("closed", 1, False)
    assert [what[0] for what in receiver.sink.told] == ["opened", "closed"]


def test_commands_of_this_machine_call_the_node_by_its_own_title_and_nobody_else_does(start: Start) -> None:
    receiver = start(allowed_callers=("CT1",))
    own = associate(receiver.port, calling="CONTOURD")
    assert own.is_established
    own.release()
    # Another address of the loopback network stands for another machine.
    ae = AE("CONTOURD")
    ae.add_requested_context(Verification)
    elsewhere = ae.associate(LOOPBACK, receiver.port, ae_title="CONTOURD", bind_address=("127.0.0.2", 0))
    assert elsewhere.is_rejected
    assert elsewhere.acceptor.primitive.diagnostic == 3
    assert [what[0] for what in receiver.sink.told].count("opened") == 1


def test_one_association_too_many_is_rejected_for_now(start: Start) -> None:
    receiver = start(max_associations=1)
    with sending(receiver.port):
        refused = associate(receiver.port)
        assert refused.is_rejected
        # Transient, service provider (presentation), local limit exceeded.
        primitive = refused.acceptor.primitive
        assert (primitive.result, primitive.result_source, primitive.diagnostic) == (2, 3, 2)


def test_a_release_is_told_once(receiver: Receiver, images: list[Path]) -> None:
    for number in range(1, 21):
        with sending(receiver.port) as association:
            association.send_c_store(pydicom.dcmread(images[number]))
        receiver.sink.wait_for("closed", number, False)
    kinds = [what[0] for what in receiver.sink.told]
    assert kinds == ["opened", "stored", "closed"] * 20


def test_an_abort_is_told_once(receiver: Receiver, images: list[Path]) -> None:
    association = associate(receiver.port)
    association.send_c_store(pydicom.dcmread(images[0]))
    association.abort()
    receiver.sink.wait_for("closed", 1, True)
    with sending(receiver.port):  # whatever else there may be to tell has been told by then
        pass
    receiver.sink.wait_for("closed", 2, False)
    assert [what for what in receiver.sink.told if what[:2] == ("closed", 1)] == [("closed", 1, True)]


def test_a_connection_that_breaks_is_an_abort(receiver: Receiver) -> None:
    association = associate(receiver.port)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    receiver.sink.wait_for("closed", 1, True)
    association.kill()


def test_a_peer_that_asks_for_release_and_hangs_up_has_released(receiver: Receiver) -> None:
    association = associate(receiver.port)
    connection = association.dul.socket.socket
    connection.sendall(b"\x05\0\0\0\0\x04\0\0\0\0")  # A-RELEASE-RQ, PS3.8 9.3.6
    connection.shutdown(socket.SHUT_RDWR)
    receiver.sink.wait_for("closed", 1, False)
    association.kill()


def test_the_end_never_overtakes_a_store(receiver: Receiver, images: list[Path]) -> None:
    """The connection breaks while the database works: the instance is told first, then the end."""
    storing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        storing.set()
        assert go_on.wait(WAIT_S)

    receiver.sink.before_storing = wait
    association = associate(receiver.port)
    sender = threading.Thread(target=association.send_c_store, args=(pydicom.dcmread(images[0]),))
    sender.start()
    assert storing.wait(WAIT_S)
    association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    sender.join(WAIT_S)
    go_on.set()
    receiver.sink.wait_for("closed", 1, True)
    assert [what[0] for what in receiver.sink.told] == ["opened", "stored", "closed"]


def test_stopping_lets_the_store_under_way_end_and_takes_nothing_new(receiver: Receiver, images: list[Path]) -> None:
    storing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        storing.set()
        assert go_on.wait(WAIT_S)

    receiver.sink.before_storing = wait
    port = receiver.port
    association = associate(port)
    sender = threading.Thread(target=association.send_c_store, args=(pydicom.dcmread(images[0]),))
    sender.start()
    assert storing.wait(WAIT_S)
    stopper = threading.Thread(target=receiver.scp.stop)
    stopper.start()
    stopper.join(1.0)
    assert stopper.is_alive()
    go_on.set()
    stopper.join(WAIT_S)
    sender.join(WAIT_S)
    assert not stopper.is_alive()
    receiver.sink.wait_for("stored", 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOOPBACK, port))


def test_an_association_that_the_node_itself_ends_was_neither_aborted_nor_released_by_its_sender(
    receiver: Receiver, images: list[Path]
) -> None:
    """Whether all images came nobody can say: who is told of it as of a release would contour what there is."""
    association = associate(receiver.port)
    association.send_c_store(pydicom.dcmread(images[0]))
    receiver.scp.stop()
    association.kill()
    assert [what[0] for what in receiver.sink.told] == ["opened", "stored"]


def test_a_port_that_is_taken_says_so(receiver: Receiver) -> None:
    other = StorageSCP(NodeSettings(host=LOOPBACK, port=receiver.port), receiver.spool, receiver.sink)
    with pytest.raises(OSError, match="in use"):
        other.start()
    other.stop()
