"""What the Storage SCP tells of, and whom: received instances, associations, what peers did."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from contourd.reasons.catalogue import Reason
from contourd.spool.objects import StoredFile
from contourd.system.addresses import address_group

if TYPE_CHECKING:  # the page's process does without pynetdicom
    from contourd.dicom.network.malformed import Flaw

# Is told an action, the peer's address, its AE title or nothing, and why; neither waits nor raises.
Witness = Callable[[str, str, str, str], None]


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """An instance whose file is durable.

    Attributes
    ----------
    path
        Relative to the spool.
    sha256
        Of the dataset's bytes as they were sent, without the file meta information.
    patient
        A keyed pseudonym of PatientID.
    stored
        Where in the object store it lies, where it is durable there already.
    """

    association_id: int
    calling_ae: str
    series_instance_uid: str
    sop_instance_uid: str
    path: str
    sha256: str
    patient: str
    stored: StoredFile | None = None


@dataclass(frozen=True, slots=True)
class RefusedInstance:
    """An instance that was not taken.

    Attributes
    ----------
    series_instance_uid, sop_instance_uid
        Empty where they could not be read.
    sha256
        Of the dataset's bytes, as far as they came; empty where nothing is known of them.
    status
        Of the C-STORE response.
    """

    association_id: int
    calling_ae: str
    series_instance_uid: str
    sop_instance_uid: str
    sha256: str
    status: int = 0
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class ReceivedReview:
    """A structure set that came back, whose file is durable.

    Attributes
    ----------
    path
        Relative to the spool.
    sha256
        Of the dataset's bytes as they were sent, without the file meta information.
    patient
        A keyed pseudonym of PatientID.
    """

    association_id: int
    calling_ae: str
    sop_instance_uid: str
    path: str
    sha256: str
    patient: str


class ReviewSink(Protocol):
    """Who is told of structure sets that come back."""

    def review_stored(self, received: ReceivedReview) -> None:
        """Record a durable structure set; an exception refuses it."""


class InstanceSink(Protocol):
    """Who is told of what the SCP receives; of one association never two things at a time."""

    def association_opened(self, association_id: int, calling_ae: str, peer: str) -> None:
        """Record an accepted association."""

    def instance_stored(self, received: ReceivedInstance) -> None:
        """Record a durable instance; an exception refuses it."""

    def instance_refused(self, refused: RefusedInstance) -> None:
        """Record an instance that is refused, before its sender is told so."""

    def association_closed(self, association_id: int, aborted: bool) -> None:
        """Record that an association ended, once; nothing of it comes afterwards.

        It is not told of one that the node itself ends when it is stopped: how it would have gone on is not known.
        """


class AssociationCounter(Protocol):
    """Who counts the associations of a node."""

    def admit(self, number: int, address: str) -> str:
        """Give the association of a connection from an address a place, which it keeps until the connection ends.

        Returns
        -------
        Why there is none; empty where it has one.
        """

    def gone(self, number: int) -> None:
        """Record that a connection has ended."""


class AssociationLimits:
    """So many places for associations, and so many of them for one party (of IPv6, a network)."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._taken: dict[int, str] = {}
        self._lock = threading.Lock()

    def admit(self, number: int, address: str) -> str:
        """Give a place, if there is one; say why not."""
        whose = address_group(address)
        with self._lock:
            if len(self._taken) >= self._most:
                return "too many associations"
            if sum(taken == whose for taken in self._taken.values()) >= self._most_of_one:
                return "too many associations of this address (node.associations_per_peer)"
            self._taken[number] = whose
            return ""

    def gone(self, number: int) -> None:
        """Release the place, if one was given."""
        with self._lock:
            self._taken.pop(number, None)


@dataclass(slots=True, eq=False)
class OpenAssociation:
    """An open association; the lock keeps its end from overtaking a store that is under way.

    ``told`` is set when the sink knows of its end; ``told_flaw`` tells of a request that is flawed. ``refusals``
    counts the images that were refused, by status.
    """

    number: int
    calling_ae: str
    lock: threading.Lock = field(default_factory=threading.Lock)
    began: float = field(default_factory=time.monotonic)
    releasing: bool = False
    ended: bool = False
    cut_off: bool = False
    end_reported: threading.Event = field(default_factory=threading.Event)
    told_flaw: Callable[[Flaw], None] = field(default=lambda flaw: None)
    refusals: Counter[int] = field(default_factory=Counter)
