"""Everything of pynetdicom that its documentation does not offer, in one place; others call the functions below.

contourd holds each association to bounds, and wakes its threads in place of having them poll (``guard``, ``reactor``).
pynetdicom 3.0 has no interface for either: methods of an association's parts are taken over, and its queues are looked
at. ``pyproject.toml`` pins the version; that every name is there is checked when this module is imported. The parts are
``dul`` (upper layer: speaks to the peer, in a thread of its own), ``dimse`` (messages) and ``acse`` (negotiation).
"""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, TypeVar

import pynetdicom
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA, MaximumLengthNotification
from pynetdicom.timer import Timer
from pynetdicom.transport import AssociationSocket, RequestHandler

Message = TypeVar("Message", bound=DIMSEMessage)

PINNED = ">=3.0.4,<3.1"
# What a queue of messages holds where there is none: whoever waits wakes up and looks around.
NOTHING = (None, None)
# PS3.8 9.2.3: awaiting the close of the connection; pynetdicom closes it itself as soon as it looks.
AWAITING_CLOSE = "Sta13"
# PS3.8 9.2.1: the transport connection is closed.
CLOSED = "Evt17"


class Seam(Enum):
    """A method of an association, or of one of its parts, that another function may take over: (part, method)."""

    SERVE_ALL = ("", "run")  # the thread that serves requests, or that asks
    SERVE = ("", "_serve_request")
    SPEAK = ("dul", "run")  # the thread that speaks to the peer
    STOP_SPEAKING = ("dul", "kill_dul")
    LOOK_FOR_PDU = ("dul", "_is_transport_event")
    READ_PDU = ("dul", "_read_pdu_data")
    DECODE_PDU = ("dul", "_decode_pdu")
    ACT = ("dul.state_machine", "do_action")
    TAKE_PART = ("dimse", "receive_primitive")
    GET_MESSAGE = ("dimse", "get_msg")
    SEND_MESSAGE = ("dimse", "send_msg")


# Part -> what of it is used below beside the seams.
NAMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "": ("_accepted_cx", "dul", "dimse", "acse", "requestor", "acceptor"),
        "dul": (
            *("_idle_timer", "artim_timer", "socket", "event_queue", "to_provider_queue", "to_user_queue"),
            *("_kill_thread", "_process_recv_primitive", "send_pdu", "state_machine"),
        ),
        "dul.state_machine": ("current_state",),
        "dul.artim_timer": ("_start_time", "_end_time", "timeout"),
        "dimse": ("message", "msg_queue", "maximum_pdu_size", "dimse_timeout"),
        "acse": ("send_reject",),
        "ae": ("_servers",),
    }
)
# The same of classes, and of modules.
CLASSES: Mapping[type, Sequence[str]] = MappingProxyType(
    {
        AE: ("_create_socket",),
        RequestHandler: ("_create_association",),
        AssociationSocket: ("recv", "send"),
        C_STORE: ("_context_id", "_dataset_path", "_dataset_file"),
        Timer: ("remaining", "start", "stop"),
    }
)


def _missing_names() -> list[str]:
    """Return what this module uses and pynetdicom does not have; instances are asked, for classes lack attributes."""
    association = Association(AE(), "acceptor")
    used = [*((part, name) for part, names in NAMES.items() for name in names), *(seam.value for seam in Seam)]
    missing = [f"{part or 'association'}.{name}" for part, name in used if not hasattr(_part(association, part), name)]
    of_classes = [(kind, name) for kind, names in CLASSES.items() for name in names]
    missing += [f"{kind.__name__}.{name}" for kind, name in of_classes if not hasattr(kind, name)]
    modules = (("_config.LOG_HANDLER_LEVEL", _config), ("evt.trigger", evt))
    missing += [name for name, module in modules if not hasattr(module, name.partition(".")[2])]
    return missing


def _part(association: Any, path: str) -> Any:
    try:
        return attrgetter(path)(association) if path else association
    except AttributeError:
        return None


def require_names() -> None:
    """Check that pynetdicom has what is used of it.

    Raises
    ------
    ImportError
        It lacks some; another version than the pinned one is installed.
    """
    missing = _missing_names()
    if missing:
        raise ImportError(
            f"pynetdicom {pynetdicom.__version__} lacks {', '.join(missing)}, by which contourd bounds and serves "
            f"associations: install 'pynetdicom{PINNED}'"
        )


require_names()
# Its own handlers format every message for a log that nobody reads, with what the messages carry.
_config.LOG_HANDLER_LEVEL = "none"


def replace_method(association: Any, seam: Seam, function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace a method by a function that is given the method as its first argument; returns the method.

    Before the association begins, but for ``SERVE`` and the messages.
    """
    path, name = seam.value
    part = _part(association, path)
    method: Callable[..., Any] = getattr(part, name)
    setattr(part, name, partial(function, method))
    return method


class SteadyTimer(Timer):
    """pynetdicom's timer, by a clock that nobody can set."""

    @property
    def remaining(self) -> float:
        """Return the seconds that are left, less than none where the time is over."""
        if self.timeout is None:
            return 1.0
        if self._start_time is None:
            return float(self.timeout)
        now = time.monotonic() if self._end_time is None else self._end_time
        return float(self.timeout - (now - self._start_time))

    def start(self) -> None:
        """Begin anew."""
        self._start_time = time.monotonic()
        self._end_time = None

    def stop(self) -> None:
        """Stop."""
        self._end_time = time.monotonic()


def steady_timers(association: Any) -> None:
    """Measure the times of an association that has not begun by a clock that nobody can set."""
    for name in ("artim_timer", "_idle_timer"):
        setattr(association.dul, name, SteadyTimer(getattr(association.dul, name).timeout))


# The connection.


def read_and_write_by(transport: Any, receive: Callable[[int], bytearray], send: Callable[[bytes], None]) -> None:
    """Receive so many bytes, and send PDUs, by functions; ``transport`` is of an association."""
    transport.recv = receive
    transport.send = send


def transport_of(association: Any) -> Any:
    """Return pynetdicom's side of the connection of an association, None where there is none."""
    return association.dul.socket


def connection_of(association: Any) -> socket.socket | None:
    """Return the socket of an association, None where it is closed."""
    transport = transport_of(association)
    connection: socket.socket | None = transport.socket if transport is not None else None
    return connection


def close_transport(association: Any) -> None:
    """Close the connection as pynetdicom does when its state machine asks for that."""
    association.dul.socket.close()


def largest_pdu(association: Any) -> int:
    """Return how long a PDU the peer takes, 0 for any (PS3.8 D.1.1); one that does not say so takes any."""
    peer = association.acceptor if association.is_requestor else association.requestor
    if peer.maximum_length is None:
        unlimited: Any = MaximumLengthNotification()
        unlimited.maximum_length_received = 0
        peer.primitive.user_information.append(unlimited)
    return int(peer.maximum_length)


# The thread that speaks to the peer.


class _NotifyingQueue(queue.Queue[Any]):
    """A queue that tells somebody of what is put into it."""

    def __init__(self, notify: Callable[[], None]) -> None:
        super().__init__()
        self._notify = notify

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Put an item, and tell."""
        super().put(item, block, timeout)
        self._notify()


def notify_of_sending(association: Any, notify: Callable[[], None]) -> None:
    """Call a function whenever something is left for the thread that speaks to the peer."""
    association.dul.to_provider_queue = _NotifyingQueue(notify)


def notify_of_receiving(association: Any, notify: Callable[[], None]) -> None:
    """Call a function whenever something that is no message is left for the thread that serves."""
    association.dul.to_user_queue = _NotifyingQueue(notify)


def has_nothing_to_do(association: Any) -> bool:
    """Return whether the thread that speaks to the peer may wait for the peer."""
    provider = association.dul
    return bool(
        provider.event_queue.empty()
        and provider.to_provider_queue.empty()
        and not provider._kill_thread
        and provider.state_machine.current_state != AWAITING_CLOSE
    )


def take_up_sending(association: Any) -> bool:
    """Hand the state machine one thing that is to be sent; returns whether there was one."""
    return bool(association.dul._process_recv_primitive())


def stop_speaking(association: Any) -> None:
    """End the thread that speaks to the peer."""
    association.dul.kill_dul()


def note_closed(association: Any) -> None:
    """Report to the state machine that the connection is closed."""
    association.dul.event_queue.put(CLOSED)


def send_data(association: Any, context_id: int, fragment: bytes) -> None:
    """Send one fragment of a message, as it is (PS3.8 9.3.5.1)."""
    data = P_DATA()
    data.presentation_data_value_list.append((context_id, fragment))
    association.dul.send_pdu(data)


def trigger(association: Any, event: Any, attributes: dict[str, Any]) -> None:
    """Call the handlers that are bound to a notification event."""
    evt.trigger(association, event, attributes)


# The thread that serves, and its messages.


def wake_serving(association: Any) -> None:
    """Wake the thread that serves, or that waits for a request for an association, with nothing for it."""
    association.dul.to_user_queue.put(None)


def wake_waiting(association: Any) -> None:
    """Wake whoever waits for a message, with none."""
    association.dimse.msg_queue.put(NOTHING)


def queued_messages(association: Any) -> list[Any]:
    """Return the (context, message) that nobody has taken yet; NOTHING among them wakes somebody."""
    return list(association.dimse.msg_queue.queue)


def next_message(association: Any, wait_s: float | None) -> Any:
    """Return a (context, message), NOTHING where none came in the time; None: for ever."""
    with suppress(queue.Empty):
        return association.dimse.msg_queue.get(timeout=wait_s)
    return NOTHING


def answer_wait_s(association: Any) -> float | None:
    """Return how long an answer is waited for."""
    limit_s: float | None = association.dimse.dimse_timeout
    return limit_s


def send_message(association: Any, primitive: Any, context_id: int) -> None:
    """Send a message."""
    association.dimse.send_msg(primitive, context_id)


def fits_into_pdu(association: Any, number_bytes: int) -> bool:
    """Return whether so much goes into one PDU that the peer takes."""
    most: int = association.dimse.maximum_pdu_size
    return not 0 < most < number_bytes


def accepted_contexts(association: Any) -> Mapping[int, Any]:
    """Return the accepted presentation contexts by their number."""
    contexts: Mapping[int, Any] = association._accepted_cx
    return contexts


def reject(association: Any, result: int, source: int, reason: int) -> None:
    """Reject an association that is asked for (PS3.8 9.3.4), and end it."""
    association.acse.send_reject(result, source, reason)
    association.kill()


def message_under_way(association: Any) -> Any:
    """Return the message whose fragments arrive, None between two."""
    return association.dimse.message


def begin_message(association: Any, kind: type[Message]) -> Message:
    """Begin a message of a kind, before its first fragment is taken."""
    message = association.dimse.message = change_message_class(DIMSEMessage(), kind)
    return message


def change_message_class(message: Any, kind: type[Message]) -> Message:
    """Make a message one of another kind, as pynetdicom does when it knows what a message is."""
    message.__class__ = kind
    turned: Message = message
    return turned


def store_request(message_id: int, context_id: int | None, content: Any) -> Any:
    """Return a C-STORE request whose data set is in memory."""
    request: Any = C_STORE()
    request.MessageID = message_id
    request.DataSet = content
    request._context_id = context_id
    request._dataset_path = request._dataset_file = None
    return request


# Who listens and who calls.


class CallingEntity(AE):
    """An application entity that is told of each of its associations, which has not begun, with its transport."""

    def __init__(self, ae_title: str, begin: Callable[[Any, Any], None]) -> None:
        super().__init__(ae_title)
        self._begin = begin

    def _create_socket(self, assoc: Any, address: Any, tls_args: Any) -> Any:
        transport: Any = super()._create_socket(assoc, address, tls_args)
        self._begin(assoc, transport)
        return transport


class BeginningHandler(RequestHandler):
    """Tells of the association that a connection becomes, which has not begun."""

    def __init__(self, begin: Callable[[Any, Any], None], *arguments: Any) -> None:
        self._begin = begin
        super().__init__(*arguments)

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        self._begin(self.request, association)
        return association


def know_server(ae: Any, server: Any) -> None:
    """Register a server to be shut down with its application entity."""
    ae._servers.append(server)


def forget_server(ae: Any, server: Any) -> None:
    """Release a server that has ended."""
    ae._servers.remove(server)
