"""States and events of series, jobs and deliveries: pure values, no database.

A series is what was received; a job is one series revision contoured by one model; a delivery is one job's structure
set on its way to one destination. A pair that is not in its table raises InvalidTransition.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from contourd.errors import InvalidTransition


class SeriesState(StrEnum):
    """Of a received series."""

    RECEIVING = "RECEIVING"  # instances may still come
    COMPLETE = "COMPLETE"  # contiguous and quiet; routed
    HELD = "HELD"  # a person must look; the reason says why


class SeriesEvent(StrEnum):
    """What happens to a series."""

    INSTANCE = "instance"
    COMPLETED = "completed"
    HOLD = "hold"
    RELEASE = "release"


class JobState(StrEnum):
    """Of one series revision with one model."""

    QUEUED = "QUEUED"  # waits for a worker
    CONTOURING = "CONTOURING"  # a worker holds its lease
    DELIVERING = "DELIVERING"  # the structure set is on disk, its deliveries are under way
    DELIVERED = "DELIVERED"  # every destination has it
    CONFIRMING = "CONFIRMING"  # the structure set is on disk, and a person is to look at it before it is sent
    HELD = "HELD"  # the gate or the read-back check refused it, or a person stopped it
    FAILED = "FAILED"  # the attempts are spent
    SUPERSEDED = "SUPERSEDED"  # a newer revision of the series took its place
    CANCELLED = "CANCELLED"  # a person ended it


class JobEvent(StrEnum):
    """What happens to a job."""

    CLAIM = "claim"
    REQUEUE = "requeue"  # the lease ran out, or the worker died
    CONTOURED = "contoured"
    ALL_DELIVERED = "all delivered"
    AWAIT_CONFIRMATION = "await confirmation"
    HOLD = "hold"
    FAIL = "fail"
    SUPERSEDE = "supersede"
    RELEASE = "release"  # a person asks for another try
    REDELIVER = "redeliver"  # a person has what is on disk sent, or sent again
    CONFIRM = "confirm"  # a person has seen the pictures
    REWRITE = "rewrite"  # a person wants it at a destination whose planning system needs another structure set
    CANCEL = "cancel"  # a person ends it
    REVIVE = "revive"  # a person takes the cancellation back


class DeliveryState(StrEnum):
    """Of one structure set to one destination."""

    PENDING = "PENDING"  # waits for its time
    SENDING = "SENDING"  # an association is under way
    SENT = "SENT"  # accepted; the storage commitment that was asked for is awaited
    DELIVERED = "DELIVERED"  # the destination answered Success or a warning
    REFUSED = "REFUSED"  # retrying cannot help, or was given up


class DeliveryEvent(StrEnum):
    """What happens to a delivery."""

    CLAIM = "claim"
    ACCEPTED = "accepted"
    AWAIT = "await commitment"
    COMMITTED = "committed"
    RETRY = "retry"
    REFUSE = "refuse"
    RELEASE = "release"


class CommitmentState(StrEnum):
    """Of a storage commitment that contourd asked for (DICOM PS3.4 annex J)."""

    REQUESTED = "REQUESTED"  # the destination's N-EVENT-REPORT is awaited
    COMMITTED = "COMMITTED"  # it answers for the structure set
    FAILED = "FAILED"  # it says that it does not have it
    EXPIRED = "EXPIRED"  # it never answered


class RequestState(StrEnum):
    """Of a storage commitment that a sender asked contourd for."""

    PENDING = "PENDING"  # the report is to be sent
    REPORTED = "REPORTED"  # the sender took it
    GIVEN_UP = "GIVEN_UP"  # the sender could not be reached in its time


class ProcessRole(StrEnum):
    """What a process of contourd is for."""

    SERVE = "serve"  # receives, routes, delivers and shows
    WORKER = "worker"  # contours


class ConstancyState(StrEnum):
    """Of a constancy check; of the making of a baseline GREEN says that it was made, RED that it was not."""

    REQUESTED = "REQUESTED"  # the running node takes it up
    RUNNING = "RUNNING"
    GREEN = "GREEN"
    RED = "RED"  # the reason says why


class ReviewState(StrEnum):
    """Of a structure set that came back."""

    RECEIVED = "RECEIVED"  # on disk; not read yet
    PAIRED = "PAIRED"  # its job is known; to be compared
    COMPARED = "COMPARED"
    UNPAIRED = "UNPAIRED"  # it fits no job, or several; the reason says what it waits for, or why it is left
    REFUSED = "REFUSED"  # it cannot be read or compared; the reason says why


class OrganFate(StrEnum):
    """What became of an ROI at the planning system."""

    UNTOUCHED = "untouched"  # its points are those that were delivered
    TOUCHED = "touched"
    REDRAWN = "redrawn"  # it has little in common with what was delivered
    DELETED = "deleted"  # it was delivered, and is not there any more
    ADDED = "added"  # it was not delivered
    UNSURE = "unsure"  # its name is that of no organ for sure: it is not compared
    UNUSABLE = "unusable"  # its contours cannot be laid on the CT; the remark says why


class ReviewEvent(StrEnum):
    """What happens to a structure set that came back."""

    PAIR = "pair"
    LEAVE = "leave"
    COMPARE = "compare"
    REFUSE = "refuse"


# Of jobs that are contoured and sent without anybody's doing, that wait for a person, and both.
JOBS_UNDER_WAY = (JobState.QUEUED, JobState.CONTOURING, JobState.DELIVERING)
JOBS_STOPPED = (JobState.CONFIRMING, JobState.HELD, JobState.FAILED)
JOBS_NOT_ENDED = (*JOBS_UNDER_WAY, *JOBS_STOPPED)
JOBS_ENDED = (JobState.DELIVERED, JobState.SUPERSEDED, JobState.CANCELLED)
# Of jobs whose deliveries are sent: one that failed at one destination goes on to the others.
JOBS_SENDING = (JobState.DELIVERING, JobState.FAILED)
# Of deliveries that the destination does not have for certain, and of those for which a time is set.
DELIVERIES_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.SENT)
DELIVERIES_WAITING = (DeliveryState.PENDING, DeliveryState.SENT)

SERIES_TRANSITIONS: Mapping[tuple[SeriesState, SeriesEvent], SeriesState] = MappingProxyType(
    {
        (SeriesState.RECEIVING, SeriesEvent.INSTANCE): SeriesState.RECEIVING,
        (SeriesState.RECEIVING, SeriesEvent.COMPLETED): SeriesState.COMPLETE,
        (SeriesState.RECEIVING, SeriesEvent.HOLD): SeriesState.HELD,
        (SeriesState.COMPLETE, SeriesEvent.INSTANCE): SeriesState.RECEIVING,
        (SeriesState.HELD, SeriesEvent.INSTANCE): SeriesState.RECEIVING,
        (SeriesState.HELD, SeriesEvent.RELEASE): SeriesState.RECEIVING,
    }
)

JOB_TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = MappingProxyType(
    {
        (JobState.QUEUED, JobEvent.CLAIM): JobState.CONTOURING,
        (JobState.QUEUED, JobEvent.HOLD): JobState.HELD,
        (JobState.QUEUED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.CONTOURING, JobEvent.REQUEUE): JobState.QUEUED,
        (JobState.CONTOURING, JobEvent.CONTOURED): JobState.DELIVERING,
        (JobState.CONTOURING, JobEvent.HOLD): JobState.HELD,
        (JobState.CONTOURING, JobEvent.FAIL): JobState.FAILED,
        (JobState.CONTOURING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.CONTOURING, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.DELIVERING, JobEvent.ALL_DELIVERED): JobState.DELIVERED,
        (JobState.DELIVERING, JobEvent.FAIL): JobState.FAILED,
        (JobState.DELIVERING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.DELIVERING, JobEvent.HOLD): JobState.HELD,
        (JobState.DELIVERING, JobEvent.REWRITE): JobState.QUEUED,
        (JobState.DELIVERING, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.DELIVERING, JobEvent.AWAIT_CONFIRMATION): JobState.CONFIRMING,
        (JobState.CONFIRMING, JobEvent.CONFIRM): JobState.DELIVERING,
        (JobState.CONFIRMING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.CONFIRMING, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.DELIVERED, JobEvent.REDELIVER): JobState.DELIVERING,
        (JobState.DELIVERED, JobEvent.REWRITE): JobState.QUEUED,
        (JobState.HELD, JobEvent.RELEASE): JobState.QUEUED,
        (JobState.HELD, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.HELD, JobEvent.REDELIVER): JobState.DELIVERING,
        (JobState.HELD, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.FAILED, JobEvent.RELEASE): JobState.QUEUED,
        (JobState.FAILED, JobEvent.REDELIVER): JobState.DELIVERING,
        (JobState.FAILED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
        (JobState.FAILED, JobEvent.REWRITE): JobState.QUEUED,
        (JobState.FAILED, JobEvent.CANCEL): JobState.CANCELLED,
        (JobState.CANCELLED, JobEvent.REVIVE): JobState.QUEUED,
    }
)

DELIVERY_TRANSITIONS: Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState] = MappingProxyType(
    {
        (DeliveryState.PENDING, DeliveryEvent.CLAIM): DeliveryState.SENDING,
        (DeliveryState.PENDING, DeliveryEvent.REFUSE): DeliveryState.REFUSED,
        (DeliveryState.SENDING, DeliveryEvent.ACCEPTED): DeliveryState.DELIVERED,
        (DeliveryState.SENDING, DeliveryEvent.RETRY): DeliveryState.PENDING,
        (DeliveryState.SENDING, DeliveryEvent.REFUSE): DeliveryState.REFUSED,
        (DeliveryState.SENDING, DeliveryEvent.AWAIT): DeliveryState.SENT,
        (DeliveryState.SENT, DeliveryEvent.COMMITTED): DeliveryState.DELIVERED,
        (DeliveryState.SENT, DeliveryEvent.RETRY): DeliveryState.PENDING,
        (DeliveryState.SENT, DeliveryEvent.REFUSE): DeliveryState.REFUSED,
        (DeliveryState.REFUSED, DeliveryEvent.RELEASE): DeliveryState.PENDING,
        (DeliveryState.DELIVERED, DeliveryEvent.RELEASE): DeliveryState.PENDING,
    }
)


REVIEW_TRANSITIONS: Mapping[tuple[ReviewState, ReviewEvent], ReviewState] = MappingProxyType(
    {
        (ReviewState.RECEIVED, ReviewEvent.PAIR): ReviewState.PAIRED,
        (ReviewState.RECEIVED, ReviewEvent.LEAVE): ReviewState.UNPAIRED,
        (ReviewState.RECEIVED, ReviewEvent.REFUSE): ReviewState.REFUSED,
        (ReviewState.UNPAIRED, ReviewEvent.PAIR): ReviewState.PAIRED,
        (ReviewState.UNPAIRED, ReviewEvent.LEAVE): ReviewState.UNPAIRED,
        (ReviewState.UNPAIRED, ReviewEvent.REFUSE): ReviewState.REFUSED,
        (ReviewState.PAIRED, ReviewEvent.COMPARE): ReviewState.COMPARED,
        (ReviewState.PAIRED, ReviewEvent.REFUSE): ReviewState.REFUSED,
    }
)


def next_series_state(state: SeriesState, event: SeriesEvent) -> SeriesState:
    """Look the pair up.

    Raises
    ------
    InvalidTransition
        It is not in the table.
    """
    if (state, event) not in SERIES_TRANSITIONS:
        raise InvalidTransition(f"a series that is {state} cannot take {event!s}")
    return SERIES_TRANSITIONS[state, event]


def next_job_state(state: JobState, event: JobEvent) -> JobState:
    """Look the pair up; raises InvalidTransition."""
    if (state, event) not in JOB_TRANSITIONS:
        raise InvalidTransition(f"a job that is {state} cannot take {event!s}")
    return JOB_TRANSITIONS[state, event]


def next_delivery_state(state: DeliveryState, event: DeliveryEvent) -> DeliveryState:
    """Look the pair up; raises InvalidTransition."""
    if (state, event) not in DELIVERY_TRANSITIONS:
        raise InvalidTransition(f"a delivery that is {state} cannot take {event!s}")
    return DELIVERY_TRANSITIONS[state, event]


def next_review_state(state: ReviewState, event: ReviewEvent) -> ReviewState:
    """Look the pair up; raises InvalidTransition."""
    if (state, event) not in REVIEW_TRANSITIONS:
        raise InvalidTransition(f"a review that is {state} cannot take {event!s}")
    return REVIEW_TRANSITIONS[state, event]


SPREAD = 1.1


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter; decides, and neither sleeps nor writes."""

    first_s: float
    max_s: float
    give_up_after_s: float

    def wait_s(self, attempts: int) -> float:
        """Return how long to wait after ``attempts`` tries.

        The wait doubles from ``first_s`` to ``max_s``; up to a tenth is added, so that retries spread out.
        """
        doubled: float = self.first_s * 2 ** min(max(attempts, 1) - 1, 30)
        return min(self.max_s, doubled) * random.uniform(1.0, SPREAD)

    @property
    def longest_s(self) -> float:
        """No wait is longer: what lies further ahead was written by a clock that has been set since."""
        return self.max_s * SPREAD

    def gives_up(self, waited_s: float) -> bool:
        """Return whether it has been tried for long enough."""
        return waited_s >= self.give_up_after_s
