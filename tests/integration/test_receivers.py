"""Processes that receive: one port, one limit, one record, and the end of one is that of its associations alone."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from contourd.dicom.network import own_echo
from contourd.dicom.network.commitment_messages import NOT_AUTHORISED
from contourd.errors import CommitmentRefused, NodeError, QueueUnavailable
from contourd.node.receivers import dispatcher
from contourd.node.receivers.dispatcher import ReceiverPool
from contourd.settings import Settings, load_settings
from tests.chaos.server import wait_until
from tests.integration.receiving import WAIT_S, Recorder, associate
from tests.interop.node import serve, write_configuration
from tests.peers import children_running, free_port
from tests.phantom import write_series

OUT_OF_RESOURCES, PROCESSING_FAILURE = 0xA700, 0x0110


class Nobody:
    """Takes neither requests nor reports."""

    def requested(self, *arguments: object) -> None:
        raise AssertionError(arguments)

    def reported(self, *arguments: object) -> None:
        raise AssertionError(arguments)


class Front:
    """Receivers, and what they told."""

    def __init__(self, settings: Settings) -> None:
        self.sink = Recorder(settings.spool.root)
        self.witnessed: list[tuple[str, ...]] = []
        self.receivers = ReceiverPool(
            settings, self.sink, lambda *deed: self.witnessed.append(deed), Nobody(), Nobody()
        )
        self.receivers.start()
        wait_until(lambda: len(self.receivers.pids) == settings.node.receivers, "not every receiver is there")

    @property
    def loads(self) -> list[int]:
        return sorted(receiver.connections for receiver in self.receivers.receivers)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Front]]:
    fronts: list[Front] = []

    def begin(receivers: int = 2, **node: Any) -> Front:
        path = write_configuration(tmp_path, free_port(), "hn7", {"pacs": ("PACS", free_port())})
        settings = load_settings(path)
        node = settings.node.model_copy(update={"receivers": receivers, **node})
        fronts.append(Front(settings.model_copy(update={"node": node})))
        return fronts[-1]

    yield begin
    for front in fronts:
        front.receivers.stop()


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    return sorted(write_series(tmp_path / "ct").iterdir())


def test_associations_are_shared_out_and_all_that_they_bring_is_recorded(start, images) -> None:
    front = start()
    associations = [associate(front.receivers.port) for _ in range(4)]
    assert front.loads == [2, 2]
    for number, path in enumerate(images[:8]):
        assert associations[number % 4].send_c_store(path).Status == 0
    for association in associations:
        association.release()
    wait_until(lambda: sum(what[0] == "closed" for what in front.sink.told) == 4, "not every association has ended")
    assert [what for what in front.sink.told if what[0] == "closed" and what[2]] == []
    assert len({received.path for received in front.sink.received}) == 8
    wait_until(lambda: front.loads == [0, 0], "a connection is left")


def test_the_limit_is_that_of_the_node(start) -> None:
    front = start(max_associations=3)
    open_ones = [associate(front.receivers.port) for _ in range(3)]
    assert associate(front.receivers.port).is_rejected
    open_ones[0].release()
    wait_until(lambda: sum(front.loads) == 2, "the place is not free")
    assert associate(front.receivers.port).is_established


@pytest.mark.parametrize(
    ("error", "status"), [(QueueUnavailable("locked"), OUT_OF_RESOURCES), (ValueError("a fault"), PROCESSING_FAILURE)]
)
def test_what_cannot_be_recorded_is_refused(start, images, error: Exception, status: int) -> None:
    front = start()

    def fail() -> None:
        raise error

    association = associate(front.receivers.port)
    front.sink.before_storing = fail
    assert association.send_c_store(images[0]).Status == status
    front.sink.before_storing = lambda: None
    assert association.send_c_store(images[0]).Status == 0
    association.release()


def test_a_receiver_that_dies_takes_its_associations_with_it_and_is_replaced(start, images) -> None:
    front = start()
    one, other = (associate(front.receivers.port) for _ in range(2))
    assert one.send_c_store(images[0]).Status == 0
    os.kill(front.receivers.pids[0], signal.SIGKILL)
    wait_until(lambda: any(what[0] == "closed" for what in front.sink.told), "no association has ended")
    assert [what[2] for what in front.sink.told if what[0] == "closed"] == [True]
    wait_until(lambda: one.is_established != other.is_established, "both associations ended, or none")
    survivor = one if one.is_established else other
    assert survivor.send_c_store(images[1]).Status == 0
    wait_until(lambda: len(front.receivers.pids) == 2, "no other receiver took its place")
    again = [associate(front.receivers.port) for _ in range(2)]
    assert [a.send_c_store(images[2]).Status for a in again] == [0, 0]
    assert front.receivers.listening


def test_a_receiver_that_hangs_is_killed_and_replaced_and_one_that_works_is_not(start, images, monkeypatch) -> None:
    monkeypatch.setattr(dispatcher, "HUNG_S", 6.0)
    front = start()
    one, other = (associate(front.receivers.port) for _ in range(2))
    hung, works = front.receivers.pids
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: hung not in front.receivers.pids, "the receiver that hangs is still there")
    wait_until(lambda: one.is_established != other.is_established, "both associations ended, or none")
    wait_until(lambda: len(front.receivers.pids) == 2, "no other receiver took its place")
    survivor = one if one.is_established else other
    assert survivor.send_c_store(images[0]).Status == 0
    assert works in front.receivers.pids
    assert [what[2] for what in front.sink.told if what[0] == "closed"] == [True]


def test_a_store_under_way_ends_before_its_receiver_does(start, images) -> None:
    front, entered, go_on = start(), threading.Event(), threading.Event()

    def wait() -> None:
        entered.set()
        assert go_on.wait(WAIT_S)

    front.sink.before_storing = wait
    association, statuses = associate(front.receivers.port), []
    sending = threading.Thread(target=lambda: statuses.append(association.send_c_store(images[0]).get("Status")))
    sending.start()
    assert entered.wait(WAIT_S)
    pids = front.receivers.pids
    stopping = threading.Thread(target=front.receivers.stop)
    stopping.start()
    time.sleep(0.3)
    assert stopping.is_alive()
    go_on.set()
    for thread in (sending, stopping):
        thread.join(WAIT_S)
    assert statuses == [0]
    assert len(front.sink.received) == 1
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_the_node_calls_each_receiver_in_its_turn_and_kills_one_that_stays_silent(start, monkeypatch) -> None:
    monkeypatch.setattr(own_echo, "ECHO_S", 1.0)
    front = start(allowed_peers=("192.0.2.0/24",), max_associations=1)
    for _ in range(2):
        front.receivers.try_echo()
    assert [receiver.unanswered for receiver in front.receivers.receivers] == [0, 0]
    assert front.witnessed == front.sink.told == []
    deaf, hears = front.receivers.pids
    os.kill(deaf, signal.SIGSTOP)
    for _ in range(dispatcher.MOST_UNANSWERED):
        with pytest.raises(NodeError, match="does not answer"):
            front.receivers.try_echo()
    wait_until(lambda: deaf not in front.receivers.pids, "the deaf receiver is still there")
    wait_until(lambda: len(front.receivers.pids) == 2, "no other receiver took its place")
    assert hears in front.receivers.pids
    for _ in range(2):
        front.receivers.try_echo()


def test_by_ipv6_too(start) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    start(host="::1").receivers.try_echo()


def fork_servers() -> set[int]:
    """Return the fork servers of this process that run: one, or none for a moment."""
    return children_running("multiprocessing.forkserver")


@pytest.mark.parametrize("loading", [False, True], ids=["once", "and the next one while it loads"])
def test_the_fork_server_may_die_at_any_time_with_its_receivers(start, loading: bool) -> None:
    """A fork server that dies while it loads leaves its client with EOFError, and no thread may end by that."""
    front = start()
    (first,) = fork_servers()
    for pid in (first, *front.receivers.pids):
        os.kill(pid, signal.SIGKILL)
    if loading:
        wait_until(lambda: fork_servers() - {first}, "no other fork server was started")
        for second in fork_servers() - {first}:
            os.kill(second, signal.SIGKILL)
    wait_until(lambda: _answers(front), "no C-ECHO is answered any more")
    assert front.receivers.listening
    wait_until(lambda: len(front.receivers.pids) == 2, "not every receiver is there again")


def _answers(front: Front) -> bool:
    try:
        front.receivers.try_echo()
    except NodeError:
        return False
    return True


def test_a_hung_receiver_is_killed_though_the_fork_server_has_died(start, monkeypatch) -> None:
    monkeypatch.setattr(dispatcher, "HUNG_S", 6.0)
    front = start(receivers=1)
    (hung,) = front.receivers.pids
    for pid in fork_servers():
        os.kill(pid, signal.SIGKILL)
    os.kill(hung, signal.SIGSTOP)
    wait_until(lambda: not psutil.pid_exists(hung) or psutil.Process(hung).status() == "zombie", "it still hangs")
    wait_until(lambda: _answers(front), "no other receiver took its place")


def test_an_address_that_is_taken_is_told(start) -> None:
    front = start()
    with pytest.raises(OSError, match="in use"):
        start(port=front.receivers.port)


def test_receivers_end_with_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with serve(tmp_path, "hn7", {"pacs": ("PACS", free_port())}) as node:
        association = associate(node.port)
        children = psutil.Process(node.server.pid).children(recursive=True)
        assert len(children) >= 4  # a worker, two receivers and what started them
        node.server.kill()
        _, alive = psutil.wait_procs(children, WAIT_S)
        assert alive == []
        association.abort()


def test_a_node_without_receivers_receives_itself(images, tmp_path: Path) -> None:
    with serve(tmp_path, "hn7", {"pacs": ("PACS", free_port())}, node="receivers = 0") as node:
        association = associate(node.port)
        assert association.send_c_store(images[0]).Status == 0
        association.release()
        assert not any(
            "forkserver" in " ".join(child.cmdline()) for child in psutil.Process(node.server.pid).children()
        )


def test_a_refusal_comes_from_another_process_as_it_was() -> None:
    refused = pickle.loads(pickle.dumps(CommitmentRefused(NOT_AUTHORISED, "not switched on")))
    assert (refused.status, str(refused)) == (NOT_AUTHORISED, "not switched on")
