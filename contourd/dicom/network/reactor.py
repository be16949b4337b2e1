"""How an association's two threads wait for each other and for the peer, and how its PDUs are read.

pynetdicom has one thread that speaks to the peer and one that serves its requests. Each looks a thousand times a second
whether there is something to do, and a store waits for both of them. Here each sleeps until there is: until the peer
sends, or the other thread leaves it something in a queue. Both still look up every ``LOOK_UP_S``, for timers run out
unannounced.
"""

from __future__ import annotations

import os
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

from contourd.dicom.network.incoming import receive
from contourd.dicom.network.pynetdicom_internals import (
    Seam,
    answer_wait_s,
    connection_of,
    has_nothing_to_do,
    next_message,
    notify_of_receiving,
    notify_of_sending,
    replace_method,
    take_up_sending,
    trigger,
    wake_serving,
    wake_waiting,
)
from contourd.dicom.network.success import answer
from contourd.dicom.network.titles import correct_ae_titles
from contourd.dicom.reading.instance import UNREADABLE

LOOK_UP_S = 0.1
# PS3.8 9.3.5 and 9.3.5.1: type, reserved, length; then of each item its length and its context.
P_DATA = 0x04
A_ASSOCIATE_RQ = 0x01
HEADER_BYTES = 6
ITEM = struct.Struct(">LB")
# PS3.8 9.2.1: unrecognized or invalid PDU received.
INVALID_PDU = "Evt19"


class _WakeUpPipe:
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
    """Make both threads of an association that has not begun sleep until there is something to do."""
    bell = _WakeUpPipe()
    notify_of_sending(association, bell.ring)
    replace_method(association, Seam.LOOK_FOR_PDU, partial(_wait_for_peer, association, bell))
    replace_method(association, Seam.STOP_SPEAKING, partial(_stop_speaking, bell))
    # What is no message, as a request for release, wakes the serving thread all the same.
    notify_of_receiving(association, partial(wake_waiting, association))
    replace_method(association, Seam.SPEAK, partial(_speak, association, bell))
    replace_method(association, Seam.DECODE_PDU, partial(_decode, association))
    replace_method(association, Seam.GET_MESSAGE, partial(_get_message, association))
    replace_method(association, Seam.SEND_MESSAGE, partial(answer, association))
    replace_method(association, Seam.TAKE_PART, partial(receive, association))


def _wait_for_peer(association: Any, bell: _WakeUpPipe, look: Callable[[], bool]) -> bool:
    """Wait until the peer sent something or another thread wants something sent; return whether there was a PDU."""
    connection = connection_of(association)
    listened = bell.listened_to()
    if (
        connection is not None
        and has_nothing_to_do(association)
        and not (isinstance(connection, ssl.SSLSocket) and connection.pending())
    ):
        watched: list[Any] = [connection, listened]
        with suppress(OSError, ValueError):  # it was closed meanwhile: pynetdicom finds that out
            if listened in select.select(watched, [], [], LOOK_UP_S)[0]:
                bell.heard()
    return not take_up_sending(association) and look()


def _stop_speaking(bell: _WakeUpPipe, stop: Callable[[], None]) -> None:
    stop()
    bell.ring()


def _speak(association: Any, bell: _WakeUpPipe, run: Callable[[], None]) -> None:
    """Run the thread that speaks to the peer; its end wakes the one that serves, or that waits for a request."""
    try:
        run()
    finally:
        bell.put_away()
        wake_serving(association)


def _get_message(association: Any, _: Callable[..., Any], block: bool = False) -> Any:
    """Wait for a message as long as the serving thread may sleep; it asks without wanting to wait."""
    return next_message(association, answer_wait_s(association) if block else LOOK_UP_S)


def _decode(association: Any, decode: Callable[[bytearray], Any], content: bytearray) -> Any:
    """Decode a PDU; what a P-DATA-TF carries is not copied.

    Raises
    ------
    ValueError
        An item goes beyond the end of its PDU.
    """
    if content[0] != P_DATA:
        return _decode_other(association, decode, content)
    pdu = P_DATA_TF()
    view = memoryview(content)
    at = HEADER_BYTES
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
    trigger(association, evt.EVT_PDU_RECV, {"pdu": pdu})
    return pdu, "Evt10"


def _decode_other(association: Any, decode: Callable[[bytearray], Any], content: bytearray) -> Any:
    """Decode any other PDU; one that cannot be read ends the association, which remembers why."""
    try:
        if content[0] == A_ASSOCIATE_RQ:
            association.untitled = correct_ae_titles(content)
        return decode(content)
    except UNREADABLE as error:
        association.unreadable = f"a PDU of type {content[0]:02X} cannot be read: {type(error).__name__}"
        return A_ABORT_RQ(), INVALID_PDU
