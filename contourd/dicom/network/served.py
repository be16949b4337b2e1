"""Which operations are served on an association that others opened; all else is answered in its own kind, and told of.

pynetdicom serves what its class of the request's SOP class happens to serve, raises on all else, and aborts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from pydicom.uid import UID, CTImageStorage, RTStructureSetStorage
from pynetdicom.dimse_primitives import C_CANCEL, C_ECHO, C_STORE, N_ACTION, N_EVENT_REPORT
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class  # type: ignore[attr-defined]

from contourd.dicom.network.commitment_messages import PUSH_MODEL
from contourd.dicom.network.guard import AssociationGuard, Serve
from contourd.dicom.network.malformed import CLASS_NOT_SUPPORTED, NO_SUCH_CLASS, UNRECOGNIZED_OPERATION
from contourd.dicom.network.pynetdicom_internals import accepted_contexts, send_message

log = logging.getLogger(__name__)

SERVED: Mapping[UID, tuple[type, ...]] = MappingProxyType(
    {
        CTImageStorage: (C_STORE,),
        RTStructureSetStorage: (C_STORE,),
        Verification: (C_ECHO,),
        PUSH_MODEL: (N_ACTION, N_EVENT_REPORT),
    }
)


def refuse_unserved(association: Any, guard: AssociationGuard, witness: Callable[[str], None]) -> None:
    """Answer what is not served on an accepted association.

    Parameters
    ----------
    witness
        Is told of each kind of operation that is refused, and on what, once.
    """
    seen: set[str] = set()

    def refused(what: str) -> None:
        if what not in seen:
            seen.add(what)
            log.warning("refused: %s", what, extra={"action": "refuse"})
            witness(what)

    guard.serve_by(partial(_serve, association, refused))


def _serve(
    association: Any,
    refused: Callable[[str], None],
    serve: Serve,
    message: Any,
    context_id: int,
) -> None:
    if isinstance(message, C_CANCEL):  # has no answer (PS3.7 9.3.2.3), and nothing lasts that could be cancelled
        return
    context = accepted_contexts(association).get(context_id)
    if context is None or not message.is_valid_request:
        serve(message, context_id)  # which aborts, or ignores it
        return
    of = UID(context.abstract_syntax)
    status = 0 if type(message) in SERVED.get(of, ()) else UNRECOGNIZED_OPERATION
    asked = _sop_class(message)
    # An image of another storage class is refused with its series where images are (A900, C000).
    is_image = isinstance(message, C_STORE) and uid_to_service_class(asked) is StorageServiceClass
    if not status and asked != of and not is_image:
        status = CLASS_NOT_SUPPORTED if message.msg_type.startswith("C-") else NO_SUCH_CLASS
    if not status:
        serve(message, context_id)
        return
    whose = "" if status == UNRECOGNIZED_OPERATION else " of another SOP class"
    refused(f"{message.msg_type}{whose} on {of.name}")
    send_message(association, _answer(message, status), context_id)


def _sop_class(message: Any) -> str:
    affected = getattr(message, "AffectedSOPClassUID", None)
    return str(affected if affected is not None else message.RequestedSOPClassUID)


def _answer(message: Any, status: int) -> Any:
    """Answer a request with a status and what every answer must name (PS3.7 9.3, 10.3)."""
    answer: Any = type(message)()
    answer.MessageIDBeingRespondedTo = message.MessageID
    answer.Status = status
    return answer
