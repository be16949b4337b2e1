"""The threads of an association sleep until there is something to do; a silent peer is cut off all the same."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pydicom
import pytest

from contourd.dicom.network import reactor
from tests.fuzz.pdus import ECHO
from tests.fuzz.receiving import Peer
from tests.integration.receiving import WAIT_S, Receiver, Start, associate, sending
from tests.peers import LOOPBACK

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture
def asleep(monkeypatch) -> None:
    """No thread looks up by itself before a sender's patience is over."""
    monkeypatch.setattr(reactor, "LOOK_UP_S", 10 * WAIT_S)


@pytest.mark.usefixtures("asleep")
def test_whatever_there_is_to_do_wakes_them(receiver: Receiver, images: list[Path]) -> None:
    with sending(receiver.port) as association:
        for image in images[:5]:
            assert association.send_c_store(pydicom.dcmread(image)).Status == 0
            assert association.send_c_echo().Status == 0
    receiver.sink.wait_for("closed", 1, False)
    assert association.is_released


@pytest.mark.usefixtures("asleep")
def test_an_abort_wakes_them(receiver: Receiver, images: list[Path]) -> None:
    association = associate(receiver.port)
    assert association.send_c_store(pydicom.dcmread(images[0])).Status == 0
    association.abort()
    receiver.sink.wait_for("closed", 1, True)


@pytest.mark.usefixtures("asleep")
def test_the_end_of_the_node_wakes_them(receiver: Receiver) -> None:
    """Their end is told to the peers alone: the next start finds the associations open, and decides about them."""
    before = set(threading.enumerate())
    associations = [associate(receiver.port) for _ in range(3)]
    for number in (1, 2, 3):
        receiver.sink.wait_for("opened", number, "SCANNER", LOOPBACK)
    woken = set(threading.enumerate()) - before
    assert len(woken) == 4 * len(associations)  # two at each end
    stopper = threading.Thread(target=receiver.scp.stop)
    stopper.start()
    deadline = time.monotonic() + WAIT_S
    for thread in (stopper, *woken):
        thread.join(max(0, deadline - time.monotonic()))
    assert [thread for thread in (stopper, *woken) if thread.is_alive()] == []
    assert [association.is_aborted for association in associations] == [True] * 3
    assert [what[0] for what in receiver.sink.told] == ["opened"] * 3


@pytest.mark.usefixtures("asleep")
def test_an_answer_of_a_store_that_takes_long_wakes_them(receiver: Receiver, images: list[Path]) -> None:
    """The thread that speaks to the peer has gone to sleep again by then."""
    storing, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        storing.set()
        assert go_on.wait(WAIT_S)

    receiver.sink.before_storing = wait
    with sending(receiver.port) as association:
        sender = threading.Thread(target=lambda: statuses.append(association.send_c_store(image).Status))
        image, statuses = pydicom.dcmread(images[0]), list[int]()
        sender.start()
        assert storing.wait(WAIT_S)
        go_on.set()
        sender.join(WAIT_S)
        assert statuses == [0]


@pytest.mark.parametrize("said", [ECHO, ECHO + ECHO[:20], b""])
def test_a_peer_that_goes_silent_is_cut_off_in_its_time(start: Start, said: bytes) -> None:
    receiver = start(network_timeout_s=1.0)
    peer = Peer(receiver.port)
    peer.associate()
    peer.socket.sendall(said)
    began = time.monotonic()
    peer.until_closed()
    assert 0.5 < time.monotonic() - began < WAIT_S
    peer.close()
    receiver.sink.wait_for("closed", 1, True)


def test_nothing_stays_open_after_an_association(receiver: Receiver) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with sending(receiver.port) as association:
        association.send_c_echo()
    receiver.sink.wait_for("closed", 1, False)
    association.join(WAIT_S)
    before = opened()
    for number in range(2, 12):
        with sending(receiver.port) as association:
            association.send_c_echo()
        receiver.sink.wait_for("closed", number, False)
    deadline = time.monotonic() + WAIT_S
    while opened() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened() <= before
