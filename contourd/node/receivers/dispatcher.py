"""The node's port: accepts connections and hands each to the receiver that has the fewest.

The first process alone listens, counts associations and writes to the database, so that there is one limit and one
group commit whatever the number of receivers, and the end of one loses no connection but its own. (Were each to listen
for itself, with SO_REUSEPORT, the kernel would share connections out by a hash of their addresses, and those that wait
for a receiver that ends would be reset.)
"""

from __future__ import annotations

import errno
import itertools
import json
import logging
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from contourd.dicom.network.commitment_scp import ReportSink, RequestSink
from contourd.dicom.network.events import (
    AssociationLimits,
    InstanceSink,
    ReceivedInstance,
    ReceivedReview,
    RefusedInstance,
    ReviewSink,
    Witness,
)
from contourd.dicom.network.own_echo import SelfEchoRegistry, echo_self
from contourd.dicom.network.tls import listening_context
from contourd.errors import NodeError, QueueUnavailable
from contourd.node.exits import exit_text
from contourd.node.receivers.channel import answer_all
from contourd.node.receivers.child import ReceiverProcess
from contourd.node.receivers.receiver import STOP, main
from contourd.settings import Settings
from contourd.system.logs import error_text
from contourd.system.threads import run_surviving

log = logging.getLogger(__name__)

ReceiverMain = Callable[[Settings, Connection, socket.socket], None]
# As pynetdicom's: those that were accepted and not handed over yet.
BACKLOG = 5
# Connections of one receiver that are no associations, beside those that its own listener counts.
MOST_PENDING = 64
STOP_S = 15.0
# Between the deaths of receivers that lived shorter than this: doubled each time.
LONG_LIFE_S = 60.0
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 30.0
# A receiver that does not say for so long that it is alive hangs: it says so every two seconds. One that says so, and
# does not answer so many of the node's own C-ECHOs one after the other, is deaf.
HUNG_S, MOST_UNANSWERED = 60.0, 3
# How long accepting rests where the system has no descriptors or memory for a connection.
REST_S = 0.1


class _AssociationCalls:
    """What a receiver asks about one connection."""

    def __init__(
        self, number: int, address: str, sink: InstanceSink, reviews: ReviewSink | None, places: AssociationLimits
    ) -> None:
        self._number = number
        self._address = address
        self._sink = sink
        self._reviews = reviews
        self._places = places
        self._open = False

    @property
    def calls(self) -> Mapping[str, Callable[..., Any]]:
        """What may be asked, by name."""
        return {
            "admit": self._admit,
            "opened": self._opened,
            "stored": self._stored,
            "reviewed": self._reviewed,
            "refused": self._refused,
            "closed": self._closed,
        }

    def _admit(self) -> str:
        return self._places.admit(self._number, self._address)

    def _opened(self, calling_ae: str, peer: str) -> None:
        self._open = True
        self._sink.association_opened(self._number, calling_ae, peer)

    def _stored(self, received: ReceivedInstance) -> None:
        self._sink.instance_stored(received)

    def _reviewed(self, received: ReceivedReview) -> None:
        assert self._reviews is not None  # else none is taken
        self._reviews.review_stored(received)

    def _refused(self, refused: RefusedInstance) -> None:
        self._sink.instance_refused(refused)

    def _closed(self, aborted: bool) -> None:
        self._open = False
        self._sink.association_closed(self._number, aborted)

    def end(self, stopping: bool) -> None:
        """Close what the receiver left open, for it died: as if the sender had aborted. Not so where it was stopped."""
        self._places.gone(self._number)
        if self._open and not stopping:
            with suppress(QueueUnavailable):  # the sink does so later
                self._closed(aborted=True)


class ReceiverPool:
    """Listens, and keeps ``node.receivers`` processes that receive."""

    def __init__(
        self,
        settings: Settings,
        sink: InstanceSink,
        witness: Witness,
        reports: ReportSink,
        requests: RequestSink,
        main: ReceiverMain = main,
        reviews: ReviewSink | None = None,
    ) -> None:
        self._settings = settings
        self._sink = sink
        self._main = main
        self._reviews = reviews
        self._witness = witness
        self._calls: Mapping[str, Callable[..., Any]] = {
            "alive": lambda: None,
            "witness": witness,
            "reported": reports.reported,
            "requested": requests.requested,
        }
        self._places = AssociationLimits(settings.node.max_associations, settings.node.associations_per_peer)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["contourd.node.receivers.receiver"])
        self._numbers = itertools.count(1)
        self._own, self._asked, self._turn = SelfEchoRegistry(), list[ReceiverProcess](), 0
        self._changed = threading.Condition()
        self._receivers: list[ReceiverProcess] = []
        self._keepers: list[threading.Thread] = []
        self._stopping = False

    def start(self) -> None:
        """Listen in the background; connections wait until a receiver is there.

        Raises
        ------
        OSError
            The address cannot be used.
        """
        node = self._settings.node
        if node.tls is not None:
            listening_context(node.tls)  # what is wrong with a certificate is told at the start
        family = socket.AF_INET6 if ":" in node.host else socket.AF_INET
        self._socket = socket.create_server((node.host, node.port), family=family, backlog=BACKLOG)
        self._keepers = [
            threading.Thread(target=self._keep, name=f"receiver {i}", daemon=True) for i in range(node.receivers)
        ]
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        for thread in (*self._keepers, self._listener):
            thread.start()

    @property
    def listening(self) -> bool:
        """Whether the threads are there that accept connections and keep the receivers."""
        return all(thread.is_alive() for thread in (self._listener, *self._keepers))

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._socket.getsockname()[1])

    @property
    def pids(self) -> list[int]:
        """The processes that receive."""
        with self._changed:
            return [receiver.process.pid for receiver in self._receivers if receiver.process.pid is not None]

    @property
    def receivers(self) -> tuple[ReceiverProcess, ...]:
        """The receivers that are there, in the order in which they were started."""
        with self._changed:
            return tuple(self._receivers)

    def try_echo(self) -> None:
        """Answer one C-ECHO to the port by each receiver in its turn; one that stays silent is killed.

        Raises
        ------
        NodeError
            It is not answered.
        """
        self._asked.clear()
        try:
            echo_self(self._settings.node, self._socket, self._own)
        except NodeError:
            for receiver in self._asked:
                receiver.unanswered += 1
                if receiver.unanswered >= MOST_UNANSWERED:
                    self._kill(receiver, f"a receiver left {receiver.unanswered} C-ECHOs unanswered")
            raise
        for receiver in self._asked:
            receiver.unanswered = 0
        self._turn += 1

    def stop(self) -> None:
        """Take nothing new, let the stores under way end, and abort what associations are open."""
        with self._changed:
            self._stopping = True
            receivers = list(self._receivers)
            self._changed.notify_all()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._socket.close()
        for receiver in receivers:
            with suppress(OSError):
                receiver.handing.send(STOP)
        deadline = time.monotonic() + STOP_S
        for keeper in self._keepers:
            keeper.join(max(0.0, deadline - time.monotonic()))
        for receiver in receivers:
            if receiver.alive():
                log.warning("a receiver did not end in its time; it is killed", extra={"action": "stop"})
                receiver.kill()
        for keeper in self._keepers:
            keeper.join(STOP_S)
        with self._changed:
            self._changed.wait_for(lambda: not any(r.connections for r in receivers), STOP_S)

    def _listen(self) -> None:
        while True:
            try:
                connection, address = self._socket.accept()
            except OSError as error:
                if self._stopping or error.errno in (errno.EBADF, errno.EINVAL):
                    return
                log.warning("a connection cannot be accepted: %s", error.strerror, extra={"action": "accept"})
                time.sleep(REST_S)
                continue
            with connection:
                run_surviving(partial(self._hand_over, connection, address), "handing a connection over")

    def _hand_over(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Give a connection to a receiver, with the end of a pipe by which it asks about it."""
        number = next(self._numbers)
        with self._changed:
            self._changed.wait_for(lambda: self._receivers or self._stopping)
            if self._stopping:
                return
            own = address in self._own
            receiver = self._next_asked() if own else min(self._receivers, key=lambda r: r.connections)
            if not own and receiver.connections >= self._settings.node.max_associations + MOST_PENDING:
                self._refuse(address, "too many connections")
                return
            receiver.connections += 1
        ours: Connection | None = None
        try:
            ours, theirs = multiprocessing.Pipe()
            with theirs:
                message = json.dumps([number, address, own]).encode()
                socket.send_fds(receiver.handing, [message], [connection.fileno(), theirs.fileno()])
            calls = _AssociationCalls(number, str(address[0]), self._sink, self._reviews, self._places)
            talk = partial(self._converse, receiver, ours, calls)
            threading.Thread(target=talk, name=f"association {number}", daemon=True).start()
        except (OSError, RuntimeError) as error:  # the receiver died just now; or no descriptors, no threads
            self._refuse(address, f"it cannot be handed over: {type(error).__name__}")
            if ours is not None:
                ours.close()
            self._left(receiver)

    def _next_asked(self) -> ReceiverProcess:
        """Return the receiver whose turn it is to answer the node itself; until it does it keeps its turn."""
        receiver = self._receivers[self._turn % len(self._receivers)]
        self._asked.append(receiver)
        return receiver

    def _refuse(self, address: tuple[Any, ...], reason: str) -> None:
        log.warning("connection refused: %s", reason, extra={"action": "refuse", "peer": str(address[0])})
        self._witness("connection refused", str(address[0]), "", reason)

    def _converse(self, receiver: ReceiverProcess, end: Connection, conversation: _AssociationCalls) -> None:
        try:
            with end:
                answer_all(end, conversation.calls)
        finally:
            conversation.end(self._stopping)
            self._left(receiver)

    def _left(self, receiver: ReceiverProcess) -> None:
        with self._changed:
            receiver.connections -= 1
            self._changed.notify_all()

    def _keep(self) -> None:
        """Keep one receiver running, whatever starting it or its end raises."""
        wait_s = FIRST_WAIT_S
        while not self._stopping:
            began = time.monotonic()
            run_surviving(self._keep_one, "keeping a receiver")
            wait_s = FIRST_WAIT_S if time.monotonic() - began > LONG_LIFE_S else min(2 * wait_s, LONGEST_WAIT_S)
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, wait_s)

    def _keep_one(self) -> None:
        """Start a receiver, and answer it until it ends."""
        try:
            receiver = self._start()
        except (OSError, EOFError) as error:  # no memory, no process, no descriptor; the fork server has just died
            log.error("a receiver cannot be started: %s", error_text(error), extra={"action": "receiver"})
            return
        try:
            if not answer_all(receiver.control, self._calls, HUNG_S):
                self._kill(receiver, f"a receiver gave no sign of life for {HUNG_S:g} s")
        finally:
            self._end(receiver)

    def _start(self) -> ReceiverProcess:
        ours, theirs = self._context.Pipe()
        handing, handed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handing.setblocking(False)  # a receiver that hangs must not keep others from being handed connections
        with ExitStack() as ends:
            for end in (ours, handing):
                ends.callback(end.close)
            with theirs, handed:
                process = self._context.Process(
                    target=self._main, args=(self._settings, theirs, handed), name="receiver", daemon=True
                )
                process.start()
            ends.pop_all()
        receiver = ReceiverProcess(process, ours, handing)
        with self._changed:
            self._receivers.append(receiver)
            self._changed.notify_all()
        if self._stopping:  # it was told to stop before this one was known
            with suppress(OSError):
                handing.send(STOP)
        return receiver

    def _kill(self, receiver: ReceiverProcess, reason: str) -> None:
        log.error("%s; it is killed", reason, extra={"action": "receiver"})
        receiver.kill()

    def _end(self, receiver: ReceiverProcess) -> None:
        with self._changed:
            self._receivers.remove(receiver)
        if receiver.alive(STOP_S):  # it closed its end and did not go
            receiver.kill()
        status = receiver.process.exitcode
        receiver.close()
        if not self._stopping:
            reason = exit_text(status, "a receiver") if status is not None else "a receiver ended"
            log.error("%s; its associations are aborted, another takes its place", reason, extra={"action": "receiver"})
