"""What a peer may do on an association, whichever side opened it.

pynetdicom 3.0.4 reads a PDU of whatever length the peer announces, waits for the rest of it for ever, gathers the
fragments of a message without an end, measures its timers by the time of day, and breaks down on a maximum length that
leaves no room for a fragment (DICOM PS3.8 9.3, PS3.7 6.3). A destination can do to contourd all that a sender can, so
both are held to the same bounds here.
"""

from __future__ import annotations

import math
import queue
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.fsm import InvalidEventError

from contourd.dicom.network.pynetdicom_internals import (
    Seam,
    note_closed,
    queued_messages,
    read_and_write_by,
    replace_method,
    steady_timers,
    stop_speaking,
    wake_serving,
    wake_waiting,
)
from contourd.dicom.reading.instance import UNREADABLE

# What pynetdicom's threads raise on PDUs and messages that come out of order or that it cannot make sense of.
BROKEN = (*UNREADABLE, InvalidEventError, RuntimeError, queue.Empty)
# Requests that wait while one is answered; PS3.7 D.3.3.3 allows none that was not negotiated.
MOST_WAITING = 2
# PS3.8 D.1.1 names no least; with less, a structure set would become hundreds of thousands of PDUs, or (below 7) none.
LEAST_PDU_BYTES = 128
# A goodbye (A-ABORT) may take so long, whatever is over.
GOODBYE_S = 1.0
# Elements of an answer by which it is believed (PS3.7 E.1).
SINGLE = ("CommandField", "MessageIDBeingRespondedTo", "Status", "AffectedSOPClassUID", "AffectedSOPInstanceUID")
# Is given a message of the peer, and its presentation context.
Serve = Callable[[Any, int], None]


@dataclass(frozen=True, slots=True)
class AssociationBounds:
    """What a peer may do.

    Attributes
    ----------
    pdu_bytes
        The longest PDU; a longer one ends the connection before it is read.
    pdu_s
        In which a PDU must arrive once it has begun, and be taken once it is sent.
    message_bytes
        The largest message, command and data set with all their fragments.
    """

    pdu_bytes: int
    pdu_s: float
    message_bytes: int


class BoundsBreach(Enum):
    """What a peer did that it may not."""

    PDU = "a PDU is longer than allowed"
    MESSAGE = "a message is larger than allowed"
    LATE = "it does not end in its time what it sends"
    WAITING = "it does not wait for answers"
    BROKE = "the association broke"
    ANSWER = "it does not answer what it was asked"


class AssociationGuard:
    """Holds one association, which has not begun, to its bounds.

    Parameters
    ----------
    transport
        pynetdicom's, of the association.
    breached
        Is told what the peer did, and details; the connection is cut already.
    """

    def __init__(
        self, association: Any, transport: Any, bounds: AssociationBounds, breached: Callable[[BoundsBreach, str], None]
    ) -> None:
        self._association = association
        self._transport = transport
        self._bounds = bounds
        self._breached = breached
        self._until = self._pdu_until = math.inf
        self._unread_bytes = self._reports = 0
        self._cut = False
        self._lock = threading.Lock()
        steady_timers(association)
        read_and_write_by(transport, self._receive, self._send)
        replace_method(association, Seam.READ_PDU, self._read_pdu)
        replace_method(association, Seam.ACT, self._act)
        self._served: Serve = replace_method(association, Seam.SERVE, self._serve)
        association.bind(evt.EVT_DIMSE_RECV, self._note_message)

    def serve_by(self, serve: Callable[[Serve, Any, int], None]) -> None:
        """Serve requests of the peer by a function, which is given what served them until now."""
        self._served = partial(serve, self._served)

    def allow(self, seconds: float | None) -> None:
        """Limit the time that all further traffic may take; None: no limit."""
        self._until = math.inf if seconds is None else time.monotonic() + seconds

    def cut(self, breach: BoundsBreach, details: str = "") -> None:
        """Close the connection, for the peer did what it may not, and tell of the first such thing."""
        with self._lock:
            first, self._cut = not self._cut, True
        self.hang_up()
        if first:
            self._breached(breach, details)

    def hang_up(self) -> None:
        """Close the connection, and wake whoever waits for something from it."""
        with self._lock:
            self._cut = True
            self._until = -math.inf
        connection = self._transport.socket
        if connection is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)  # that of TLS would let go of what another reads
        wake_waiting(self._association)

    def end(self) -> None:
        """Release the threads and the connection of an association that is over."""
        stop_speaking(self._association)
        connection = self._transport.socket
        if connection is not None:
            connection.close()

    def _read_pdu(self, read: Callable[[], None]) -> None:
        self._pdu_until = time.monotonic() + self._bounds.pdu_s
        read()

    def _receive(self, count: int) -> bytearray:
        """Read so many bytes of a PDU; fewer where the connection is closed, by the peer or here for a breach.

        Nothing is raised, for pynetdicom would write a traceback into the log.
        """
        if count > self._bounds.pdu_bytes:
            self.cut(BoundsBreach.PDU, f"{count} bytes were announced, {self._bounds.pdu_bytes} are allowed")
            return bytearray()
        self._unread_bytes += count
        if self._unread_bytes > self._bounds.message_bytes:
            self.cut(BoundsBreach.MESSAGE, f"more than {self._bounds.message_bytes} bytes")
            return bytearray()
        content = bytearray(count)
        with memoryview(content) as view:
            read = self._fill(view)
        return content if read == count else content[:read]

    def _fill(self, view: memoryview) -> int:
        connection, read = self._transport.socket, 0
        while read < len(view):
            left = min(self._until, self._pdu_until) - time.monotonic()
            if left <= 0:
                self.cut(BoundsBreach.LATE, f"only {read} of {len(view)} bytes came")
                break
            try:
                connection.settimeout(min(left, self._bounds.pdu_s))
                got = connection.recv_into(view[read:])
            except TimeoutError:  # whether the time is over is seen above
                continue
            except (OSError, AttributeError):  # it is closed
                break
            if not got:
                break
            read += got
        return read

    def _send(self, content: bytes) -> None:
        """Send a PDU; where the peer does not take it in its time, the connection is closed."""
        now = time.monotonic()
        until = max(min(self._until, now + self._bounds.pdu_s), now + GOODBYE_S)
        connection, sent = self._transport.socket, 0
        try:
            with memoryview(content) as view:
                while sent < len(content):
                    left = until - time.monotonic()
                    if left <= 0:
                        raise TimeoutError("a PDU is not taken in its time")
                    connection.settimeout(left)
                    sent += connection.send(view[sent:])
        except (OSError, AttributeError):  # it was closed meanwhile
            note_closed(self._association)

    def _act(self, do_action: Callable[[str], None], event: str) -> None:
        """Pass an event to the state machine; one that it cannot act on ends the association."""
        try:
            do_action(event)
        except BROKEN as error:
            stop_speaking(self._association)
            wake_serving(self._association)  # or its own thread would wait out its time for a request
            self.cut(BoundsBreach.BROKE, type(error).__name__)

    def _note_message(self, event: Any) -> None:
        """Record a whole message: what waits for an answer already may each hold an image."""
        self._unread_bytes = 0
        if self._association.is_requestor and any(e.VM > 1 for e in event.message.command_set if e.keyword in SINGLE):
            self.cut(BoundsBreach.ANSWER, "an element of its answer has several values")  # pynetdicom takes the first
        kind = type(event.message).__name__
        reports = kind == "N_EVENT_REPORT_RQ"  # each gets a thread of pynetdicom's
        if self._association.is_requestor and kind.endswith("_RQ") and not reports:
            self.cut(
                BoundsBreach.ANSWER, "it sent a request"
            )  # pynetdicom takes one that names a message for its answer
        with self._lock:
            self._reports += reports
            waiting = self._reports > MOST_WAITING
        if waiting or len(queued_messages(self._association)) >= MOST_WAITING:
            self.cut(BoundsBreach.WAITING)

    def _serve(self, _: Serve, message: Any, context_id: int) -> None:
        try:
            if not self._cut:
                self._served(message, context_id)
        finally:
            if type(message).__name__ == "N_EVENT_REPORT":
                with self._lock:
                    self._reports -= 1
