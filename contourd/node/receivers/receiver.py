"""A receiver: takes connections that the node's first process accepted, stores the images, has them recorded there.

Nothing is acknowledged before the first process has committed it. Without that process this one ends.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

from contourd.dicom.network.commitment_messages import CommitmentReport, CommitmentRequest
from contourd.dicom.network.commitment_scp import CommitmentSCP, ReportSink, RequestSink
from contourd.dicom.network.events import ReceivedInstance, ReceivedReview, RefusedInstance, ReviewSink
from contourd.dicom.network.review_scp import ReviewSCP
from contourd.dicom.network.scp import StorageSCP
from contourd.errors import QueueUnavailable
from contourd.node.receivers.channel import RequestChannel
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.spool.folder import Spool
from contourd.spool.opening import open_spool
from contourd.system.logs import set_up_logging
from contourd.system.memory import use_one_arena

STOP = b"stop"
MESSAGE_BYTES = 4096
# How often it says that it is alive.
BEAT_S = 2.0
# Associations that have ended are let go by the garbage collector alone: after so many, and in the next pause.
COLLECT_AFTER, COLLECT_S = 100, 10.0


class ConnectionChannels:
    """The connections that this process has, each with a channel of its own; what the SCP asks and tells."""

    def __init__(self, control: RequestChannel) -> None:
        self._control = control
        self._channels: dict[int, RequestChannel] = {}

    def add(self, number: int, channel: RequestChannel) -> None:
        """Record a connection."""
        self._channels[number] = channel

    def admit(self, number: int, address: str) -> str:  # noqa: ARG002  the first process knows it
        """Ask for a place for the association of a connection."""
        try:
            return str(self._channels[number].ask("admit"))
        except QueueUnavailable as error:
            return str(error)

    def gone(self, number: int) -> None:
        """Release a connection that has ended; its place is free then."""
        channel = self._channels.pop(number, None)
        if channel is not None:
            channel.close()

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        """Pass on; where nobody is there the association's images are refused."""
        with suppress(QueueUnavailable):
            self._channels[association_id].ask("opened", calling_ae, peer)

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record a durable instance; raises what the queue raises."""
        self._channels[received.association_id].ask("stored", received)

    def review_stored(self, received: ReceivedReview) -> None:
        """Record a durable structure set that came back; raises what the queue raises."""
        self._channels[received.association_id].ask("reviewed", received)

    def instance_refused(self, refused: RefusedInstance) -> None:
        """Pass on; raises QueueUnavailable where nobody is there: the association's end is not told then, either."""
        self._channels[refused.association_id].ask("refused", refused)

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Pass on; raises QueueUnavailable."""
        self._channels[association_id].ask("closed", aborted)

    def beat(self) -> None:
        """Report that this process is alive."""
        with suppress(QueueUnavailable):
            self._control.ask("alive")

    def witness(self, action: str, peer: str, calling_ae: str, reason: str) -> None:
        """Pass on what a peer did."""
        with suppress(QueueUnavailable):
            self._control.ask("witness", action, peer, calling_ae, reason)

    def requested(self, calling_ae: str, request: CommitmentRequest) -> None:
        """Record a request for storage commitment; raises what refuses it."""
        self._control.ask("requested", calling_ae, request)

    def reported(self, calling_ae: str, report: CommitmentReport) -> None:
        """Record a report of storage commitment; raises what refuses it."""
        self._control.ask("reported", calling_ae, report)


def commitment_scp(settings: Settings, reports: ReportSink, requests: RequestSink) -> CommitmentSCP | None:
    """Take part in storage commitment only where the settings say so, in one role or the other."""
    if settings.node.commitment:
        return CommitmentSCP(reports, requests)
    if any(destination.commitment for destination in settings.destination):
        return CommitmentSCP(reports)
    return None


def review_scp(settings: Settings, spool: Spool, sink: ReviewSink) -> ReviewSCP | None:
    """Take structure sets that come back only where the settings name somebody who may send them."""
    allowed = frozenset(reviewer.ae_title for reviewer in settings.reviewer)
    return ReviewSCP(allowed, spool, sink) if allowed else None


def main(settings: Settings, control: Connection, handing: socket.socket) -> None:
    """Serve the connections that are handed over, until told to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the first process's affair
        signal.signal(number, signal.SIG_IGN)
    use_one_arena()
    keep_private()
    set_up_logging()
    parties = ConnectionChannels(RequestChannel(control))
    spool = open_spool(settings.spool, int(settings.spool.min_free_gb * 1e9))
    commitment = commitment_scp(settings, parties, parties)
    reviews = review_scp(settings, spool, parties)
    scp = StorageSCP(settings.node, spool, parties, parties.witness, commitment, parties, reviews)
    scp.begin()
    handing.settimeout(BEAT_S)
    taken = 0
    beaten = 0.0
    busy = time.monotonic()
    while True:
        if time.monotonic() - beaten >= BEAT_S:
            parties.beat()
            beaten = time.monotonic()
        content, descriptors = b"", list[int]()
        with suppress(TimeoutError):
            content, descriptors, _, _ = socket.recv_fds(handing, MESSAGE_BYTES, 2, socket.MSG_CMSG_CLOEXEC)
            if not content:
                os._exit(1)
        if content == STOP:
            break
        if content:
            own = _take(scp, parties, content, descriptors)
            taken, busy = taken + 1, busy if own else time.monotonic()  # its own calls never pause
        if taken >= COLLECT_AFTER or (taken and time.monotonic() - busy >= COLLECT_S):
            gc.collect()
            taken = 0
    scp.stop()


def _take(scp: StorageSCP, parties: ConnectionChannels, content: bytes, descriptors: Sequence[int]) -> bool:
    """Begin to serve a connection; says whether it is the node's own."""
    number, address, own = json.loads(content)
    connection, channel = descriptors
    parties.add(number, RequestChannel(Connection(channel)))
    scp.take(socket.socket(fileno=connection), tuple(address), number, own)
    return bool(own)
