"""How an association's two threads wait for each other and for the peer, and how its PDUs are read.

pynetdicom has one thread that speaks to the peer and one that serves its requests. Each looks a thousand times a second
whether there is something to do, and a store waits for both of them. Here each sleeps until there is: until the peer
sends, or the other thread leaves it something in a queue. Both still look up every ``LOOK_UP_S``, for timers run out
unannounced.
"""

from __future__ import annotations

import os
import queue
import select
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from pynetdicom import evt
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem

from contourd.dicom.arriving import receive
from contourd.dicom.instance import UNREADABLE
from contourd.dicom.success import answer
from contourd.dicom.titles import correct_titles

LOOK_UP_S = 0.1
# PS3.8 9.3.5 and 9.3.5.1: type, reserved, length; then of each item its length and its context.
P_DATA, A_ASSOCIATE_RQ, HEADER_BYTES, ITEM = 0x04, 0x01, 6, struct.Struct(">LB")
# PS3.8 9.2.3: awaiting the close of the connection; pynetdicom closes it itself as soon as it looks.
AWAITING_CLOSE = "Sta13"
NOTHING = (None, None)
# PS3.8 9.2.1: unrecognized or invalid PDU received.
INVALID_PDU = "Evt19"


class _Told(queue.Queue[Any]):
    """A queue that tells somebody of what is put into it."""

    def __init__(self, tell: Callable[[], None]) -> None:
        super().__init__()
        self._tell = tell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, and tell."""
        super().put(item, block, timeout)
        self._tell()


class _Bell:
    """What a thread listens for beside its socket; there is one only while it listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: tuple[int, int] | None = None

    def ring(self) -> None:
        """Wake the thread, if it listens."""
        with self._lock, suppress(BlockingIOError):  # it rings already
            if self._ends is not None:
                os.write(self._ends[1], b"\0")

    def listened_to(self) -> int:
        """Return what to select on."""
        with self._lock:
            if self._ends is None:
                self._ends = os.pipe()
                for end in self._ends:
                    os.set_blocking(end, False)
            return self._ends[0]

    def heard(self) -> None:
        """Be silent until it is rung again."""
        if self._ends is not None:
            os.read(self._ends[0], 4096)

    def put_away(self) -> None:
        """Close it; nobody listens any more."""
        with self._lock:
            for end in self._ends or ():
                os.close(end)
            self._ends = None


def wait_instead_of_polling(association: Any) -> None:
    """Have both threads of an association that has not begun sleep until there is something to do."""
    provider, dimse, bell = association.dul, association.dimse, _Bell()
    provider.to_provider_queue = _Told(bell.ring)
    provider._is_transport_event = partial(_wait_for_peer, provider, bell, provider._is_transport_event)
    provider.kill_dul = partial(_kill, bell, provider.kill_dul)
    # What is no message, as a request for release, wakes the serving thread all the same.
    provider.to_user_queue = _Told(lambda: dimse.msg_queue.put(NOTHING))
    provider.run = partial(_run_provider, dimse, bell, provider.run)
    provider._decode_pdu = partial(_decode, association, provider._decode_pdu)
    dimse.get_msg = partial(_get_message, dimse)
    dimse.send_msg = partial(answer, dimse, dimse.send_msg)
    dimse.receive_primitive = partial(receive, dimse, dimse.receive_primitive)


def _wait_for_peer(provider: Any, bell: _Bell, look: Callable[[], bool]) -> bool:
    """Wait until the peer sent something or another thread wants something sent; say whether there was a PDU."""
    transport = provider.socket
    connection = transport.socket if transport is not None else None
    listened = bell.listened_to()
    if (
        connection is not None
        and provider.event_queue.empty()
        and provider.to_provider_queue.empty()
        and not provider._kill_thread
        and provider.state_machine.current_state != AWAITING_CLOSE
        and not (isinstance(connection, ssl.SSLSocket) and connection.pending())
    ):
        with suppress(OSError, ValueError):  # it was closed meanwhile: pynetdicom finds that out
            if listened in select.select([connection, listened], [], [], LOOK_UP_S)[0]:
                bell.heard()
    return not provider._process_recv_primitive() and look()


def _kill(bell: _Bell, kill: Callable[[], None]) -> None:
    kill()
    bell.ring()


def _run_provider(dimse: Any, bell: _Bell, run: Callable[[], None]) -> None:
    """Run the thread that speaks to the peer; its end wakes the one that serves, or that waits for a request."""
    try:
        run()
    finally:
        bell.put_away()
        dimse.dul.to_user_queue.put(None)


def _get_message(dimse: Any, block: bool = False) -> Any:
    """Wait for a message as long as the serving thread may sleep; it asks without wanting to wait."""
    with suppress(queue.Empty):
        return dimse.msg_queue.get(timeout=dimse.dimse_timeout if block else LOOK_UP_S)
    return NOTHING


def _decode(association: Any, decode: Callable[[bytearray], Any], content: bytearray) -> Any:
    """Decode a PDU; what a P-DATA-TF carries is not copied.

    Raises
    ------
    ValueError
        An item goes beyond the end of its PDU.
    """
    if content[0] != P_DATA:
        return _decode_other(association, decode, content)
    pdu, view, at = P_DATA_TF(), memoryview(content), HEADER_BYTES
    while at < len(content):
        length, context = ITEM.unpack_from(content, at)
        end = at + 4 + length
        if length < 2 or end > len(content):
            raise ValueError("an item of a P-DATA-TF PDU has a wrong length")
        item: Any = PresentationDataValueItem()
        item.presentation_context_id = context
        item.presentation_data_value = view[at + 5 : end]
        pdu.presentation_data_value_items.append(item)
        at = end
    evt.trigger(association, evt.EVT_PDU_RECV, {"pdu": pdu})
    return pdu, "Evt10"


def _decode_other(association: Any, decode: Callable[[bytearray], Any], content: bytearray) -> Any:
    """Decode any other PDU; one that cannot be read ends the association, which remembers why."""
    try:
        if content[0] == A_ASSOCIATE_RQ:
            association.untitled = correct_titles(content)
        return decode(content)
    except UNREADABLE as error:
        association.unreadable = f"a PDU of type {content[0]:02X} cannot be read: {type(error).__name__}"
        return A_ABORT_RQ(), INVALID_PDU
