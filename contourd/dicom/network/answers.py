"""Whether an answer is the answer to what was asked (DICOM PS3.7 9.3 and 10.3): nothing else delivers anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from contourd.dicom.network.guard import AssociationGuard, BoundsBreach, Serve
from contourd.dicom.network.pynetdicom_internals import NOTHING, Seam, queued_messages, replace_method
from contourd.system.logs import one_line

# What an answer may repeat of the request, and then must: (of the answer, of the request where it is named otherwise).
REPEATED = (
    ("AffectedSOPClassUID", "RequestedSOPClassUID"),
    ("AffectedSOPInstanceUID", "RequestedSOPInstanceUID"),
    ("ActionTypeID", "ActionTypeID"),
    ("EventTypeID", "EventTypeID"),
)


def mismatch(request: Any, context_id: int, answer: Any, answer_context_id: int) -> str:
    """Return in what a message is not the answer to a request; empty where it is.

    Parameters
    ----------
    request, answer
        Primitives of pynetdicom.
    """
    answered = answer.msg_type
    if type(answer) is not type(request) or answer.MessageIDBeingRespondedTo is None:
        kind = "request" if answer.MessageIDBeingRespondedTo is None else "response"
        return f"{request.msg_type} was answered by a {answered} {kind}"
    if answer.MessageIDBeingRespondedTo != request.MessageID:
        return f"it answers message {answer.MessageIDBeingRespondedTo}, message {request.MessageID} was sent"
    if answer_context_id != context_id:
        return f"it answers in presentation context {answer_context_id}, context {context_id} was used"
    for name, other in REPEATED:
        message = getattr(answer, name, None)
        asked = getattr(request, name, None)
        asked = getattr(request, other, None) if asked is None else asked
        if message is not None and str(message).rstrip("\0 ") != str(asked).rstrip("\0 "):
            return one_line(f"it answers for {name} {message}, {asked} was sent", 200)
    return "" if answer.Status is not None else "its answer has no status"


class PendingRequests:
    """The requests that are sent on an association, one at a time, and their answers.

    Parameters
    ----------
    answer_s
        In which a request must be sent and answered.
    """

    def __init__(self, association: Any, guard: AssociationGuard, answer_s: float) -> None:
        self._association = association
        self._guard = guard
        self._answer_s = answer_s
        self._asked: tuple[Any, int] | None = None
        replace_method(association, Seam.SEND_MESSAGE, self._send)
        replace_method(association, Seam.GET_MESSAGE, self._get)
        guard.serve_by(self._serve)

    def _send(self, send: Serve, primitive: Any, context_id: int) -> None:
        if primitive.MessageIDBeingRespondedTo is None:
            if any(waiting != NOTHING for waiting in queued_messages(self._association)):
                self._guard.cut(BoundsBreach.ANSWER, "it sent a message that nothing asked for")
            else:
                self._guard.allow(self._answer_s)
            self._asked = primitive, context_id
        send(primitive, context_id)

    def _get(self, get: Callable[[bool], tuple[Any, Any]], block: bool = False) -> tuple[Any, Any]:
        """Return a message; where an answer is waited for, that alone, and else nothing, the connection being cut."""
        if not block and self._asked is not None:  # pynetdicom's reactor would take the answer from who asked
            return NOTHING
        context_id, message = get(block)
        if not block or message is None or self._asked is None:
            self._asked = None
            return context_id, message
        (request, asked_in), self._asked = self._asked, None
        reason = mismatch(request, asked_in, message, context_id)
        if reason:
            self._guard.cut(BoundsBreach.ANSWER, reason)
            return NOTHING
        self._guard.allow(None)
        return context_id, message

    def _serve(self, serve: Serve, message: Any, context_id: int) -> None:
        """Serve reports of storage commitment where somebody waits for them; nothing else is offered."""
        if message.msg_type == "N-EVENT-REPORT" and message.is_valid_request:
            serve(message, context_id)
        else:
            self._guard.cut(BoundsBreach.ANSWER, f"it sent a {message.msg_type} that nothing asked for")
