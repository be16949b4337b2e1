"""The queue's tables. Invariants live here as constraints: one row per instance, series, job, delivery and event."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.orderinglist import ordering_list
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from contourd.model.remarks import NO_REMARKS, Remarks
from contourd.reasons.catalogue import Reason
from contourd.store.column_types import Keywords, RemarkRecords, UTCDateTime, one_of
from contourd.store.states import (
    CommitmentState,
    ConstancyState,
    DeliveryState,
    JobState,
    ProcessRole,
    RequestState,
    SeriesState,
)

# The revision of migrations/ that makes these tables.
SCHEMA_REVISION = "0018"
# Ids of rows that are very many; SQLite's are of 64 bits by themselves.
VeryMany = BigInteger().with_variant(Integer, "sqlite")
# Of jobs to which the leading node is to give their order.
UNORDERED = "state = 'QUEUED' AND contouring_order = ''"
# Of what has no DIMSE status, in the key of ``tallies``.
NO_STATUS = -1


class Table(DeclarativeBase):
    """Base of the tables."""

    type_annotation_map = {datetime: UTCDateTime, Remarks: RemarkRecords}  # noqa: RUF012


def _columns(reason: Reason | None) -> tuple[str, str]:
    """Return a reason's code and detail as a row keeps them; empty where there is none."""
    return (reason.code.value, reason.dump()) if reason else ("", "")


class ReasonColumns:
    """Columns of a row that has a reason: a code of the catalogue, and its detail as JSON; empty where it has none."""

    reason_code: Mapped[str] = mapped_column(String(48), default="", server_default="")
    reason_detail: Mapped[str] = mapped_column(Text, default="", server_default="")

    @property
    def reason(self) -> Reason | None:
        """Why the row is as it is."""
        return Reason.read(self.reason_code, self.reason_detail)

    @reason.setter
    def reason(self, reason: Reason | None) -> None:
        self.reason_code, self.reason_detail = _columns(reason)


class SeriesRow(ReasonColumns, Table):
    """A received series; ``revision`` counts from 1, one more for each time that new instances re-opened it."""

    __tablename__ = "series"
    __table_args__ = (one_of("state", SeriesState), Index("series_by_state", "state", "last_instance_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    series_uid: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    revision: Mapped[int] = mapped_column(default=1)
    interrupted: Mapped[str] = mapped_column(String(16), default="")  # open, aborted, ended, restart, or empty
    hold_code: Mapped[str] = mapped_column(String(48), default="", server_default="")  # why, until a person acts
    hold_detail: Mapped[str] = mapped_column(Text, default="", server_default="")
    corrected_revision: Mapped[int] = mapped_column(
        default=0, server_default="0"
    )  # from it on the images are newer ones
    calling_ae: Mapped[str] = mapped_column(String(16), default="")
    patient: Mapped[str] = mapped_column(String(32), default="", index=True)  # a keyed pseudonym
    created_at: Mapped[datetime]
    last_instance_at: Mapped[datetime]
    purged_at: Mapped[datetime | None]  # when retention removed its images; until all of them came again
    purged_images: Mapped[int] = mapped_column(default=0, server_default="0")  # how many those were

    @property
    def hold(self) -> Reason | None:
        """Why it is held until a person acts."""
        return Reason.read(self.hold_code, self.hold_detail)

    @hold.setter
    def hold(self, reason: Reason | None) -> None:
        self.hold_code, self.hold_detail = _columns(reason)


class InstanceRow(Table):
    """A stored instance; ``path`` is relative to the spool."""

    __tablename__ = "instances"
    __table_args__ = (UniqueConstraint("series_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64), index=True)
    path: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    received_at: Mapped[datetime]


class StoredFileRow(Table):
    """Where in the object store a file's bytes lie, of an image or a structure set; ``path`` is as in the spool.

    The row of one that was removed stays for a while: other hosts have copies that are to go.
    """

    __tablename__ = "stored_files"
    __table_args__ = (Index("stored_files_removed", "removed_at"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    path: Mapped[str] = mapped_column(String(255), unique=True)
    object: Mapped[str] = mapped_column(String(255), index=True)  # empty when the object is gone, too
    offset_bytes: Mapped[int]
    size_bytes: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))  # of these bytes
    stored_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class RefusalRow(ReasonColumns, Table):
    """An image that was refused: its series is held until that very image came, or a person releases it."""

    __tablename__ = "refusals"
    __table_args__ = (UniqueConstraint("series_uid", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    series_uid: Mapped[str] = mapped_column(String(64))  # empty where nobody knows it
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]  # of the C-STORE response
    certain: Mapped[bool]  # the image itself named the series
    differs: Mapped[bool]  # an image of that UID was there already, with other bytes
    refused_at: Mapped[datetime]


class NewerImageRow(Table):
    """An image that came again with other content: the last one of a UID counts, until a person decides."""

    __tablename__ = "newer_images"

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(String(255))
    sha256: Mapped[str] = mapped_column(String(64))
    patient: Mapped[str] = mapped_column(String(32))  # a keyed pseudonym
    differs: Mapped[tuple[str, ...]] = mapped_column(Keywords)  # of what identifies the patient, and the slice's place
    to_remove: Mapped[bool] = mapped_column(default=False)  # it was decided on: the file is to go
    received_at: Mapped[datetime]


class ContradictingFileRow(Table):
    """A file of an image that came again with other content, of which a version before ``newer_images`` spoke."""

    __tablename__ = "contradicting_files"

    path: Mapped[str] = mapped_column(String(255), primary_key=True)  # relative to the spool
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)


class JobDestinationRow(Table):
    """A destination that a job goes to; ``position`` counts from 0 in the order of its route."""

    __tablename__ = "job_destinations"
    __table_args__ = (UniqueConstraint("destination", "job_id"),)

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    destination: Mapped[str] = mapped_column(String(32))


def _to_destination(name: str) -> JobDestinationRow:
    return JobDestinationRow(destination=name)


class JobRow(ReasonColumns, Table):
    """One series revision, one list of models; ``destinations`` are names in the order of the route."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("state", JobState),
        UniqueConstraint("series_id", "revision", "model"),
        Index("jobs_by_state", "state", "attempts", "created_at", "id"),
        Index("jobs_unordered", "id", sqlite_where=text(UNORDERED), postgresql_where=text(UNORDERED)),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"), index=True)
    revision: Mapped[int]
    model: Mapped[str] = mapped_column(String(255))  # a name or a folder, or a list of them (model_names)
    partial: Mapped[str] = mapped_column(String(8), default="hold", server_default="hold")  # what if one of them fails
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    claims: Mapped[int] = mapped_column(default=0, server_default="0")  # the fencing token: one more with each claim
    worker: Mapped[str] = mapped_column(String(64), default="")  # ``processes.id`` of the one that has it, or had it
    lease_until: Mapped[datetime | None]
    # JSON: what decides the bytes, as it was when the job was made; empty: as it is when the job is claimed.
    contouring_order: Mapped[str] = mapped_column(Text, default="", server_default="")
    route_choice: Mapped[str] = mapped_column(Text, default="", server_default="")  # JSON: why it took its route
    override: Mapped[str] = mapped_column(Text, default="")  # why, and who lets the model run outside of its limits
    remarks: Mapped[Remarks] = mapped_column("remark_records", default=NO_REMARKS)  # of organs, and of the series
    confirm: Mapped[bool] = mapped_column(default=False)  # a person is to see the pictures before it is sent
    confirmed_by: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    # A person wants another product of it: until that is made, sending what there is would not be all.
    rewriting: Mapped[bool] = mapped_column(default=False, server_default=false())
    purged_at: Mapped[datetime | None]  # when retention removed its structure sets
    destination_rows: Mapped[list[JobDestinationRow]] = relationship(
        order_by=JobDestinationRow.position, collection_class=ordering_list("position")
    )
    destinations: AssociationProxy[list[str]] = association_proxy(
        "destination_rows", "destination", creator=_to_destination
    )


class DeliveryRow(ReasonColumns, Table):
    """One product of a job, its structure set or its segmentation, to one destination."""

    __tablename__ = "deliveries"
    __table_args__ = (
        one_of("state", DeliveryState),
        Index("deliveries_of_job", "job_id", "destination", "product", unique=True),
        Index(
            "deliveries_due",
            "destination",
            "state",
            "not_before",
            sqlite_where=text("state = 'PENDING'"),
            postgresql_where=text("state = 'PENDING'"),
        ),
        Index("deliveries_of_destination", "destination", "state", "updated_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    destination: Mapped[str] = mapped_column(String(32))
    product: Mapped[str] = mapped_column(String(16), default="rtstruct", server_default="rtstruct")
    output: Mapped[str] = mapped_column(String(255), default="")  # relative to the spool
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    claims: Mapped[int] = mapped_column(default=0, server_default="0")  # the fencing token, as of a job
    process: Mapped[str] = mapped_column(String(64), default="", server_default="")  # ``processes.id`` of who sends it
    not_before: Mapped[datetime]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class AttemptRow(Table):
    """One try of a delivery and how it ended: appended, never changed."""

    __tablename__ = "attempts"
    __table_args__ = (Index("attempts_of_destination", "destination", "outcome", "status", "id"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    destination: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime]
    outcome: Mapped[str] = mapped_column(String(16))  # accepted, retry, unreachable, improper, refused, interrupted
    status: Mapped[int | None]  # of the C-STORE response, where there was one
    reason: Mapped[str] = mapped_column(Text, default="")


class CommitmentRow(Table):
    """A storage commitment that contourd asked a destination for."""

    __tablename__ = "commitments"
    __table_args__ = (one_of("state", CommitmentState), Index("commitments_by_state", "state", "requested_at"))

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64), unique=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("deliveries.id"), index=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))  # of the structure set
    state: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str] = mapped_column(Text, default="")
    requested_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]


class CommitmentRequestRow(Table):
    """A storage commitment that a sender asked contourd for; answered by N-EVENT-REPORT."""

    __tablename__ = "commitment_requests"
    __table_args__ = (
        one_of("state", RequestState),
        Index("commitment_requests_due", "state", "not_before"),
        UniqueConstraint("calling_ae", "transaction_uid"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    transaction_uid: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str] = mapped_column(String(16))
    instances: Mapped[str] = mapped_column(
        Text
    )  # JSON: [[SOP class UID, SOP instance UID], ...]; when it is over, its hash
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(Text, default="")
    not_before: Mapped[datetime]
    created_at: Mapped[datetime]


class ConstancyCheckRow(Table):
    """A constancy check, or the making of a baseline; ``result`` is JSON, and nobody's contours are in it."""

    __tablename__ = "constancy_checks"
    __table_args__ = (one_of("state", ConstancyState), Index("constancy_checks_by_state", "state"))

    id: Mapped[int] = mapped_column(primary_key=True)
    purpose: Mapped[str] = mapped_column(String(16))  # check or baseline
    state: Mapped[str] = mapped_column(String(16))
    actor: Mapped[str] = mapped_column(String(64))  # contourd, or the operator's user name
    reason: Mapped[str] = mapped_column(Text, default="")
    result: Mapped[str] = mapped_column(Text, default="")
    port: Mapped[int] = mapped_column(default=0)  # of its receiver on loopback
    requested_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class ConstancySeriesRow(Table):
    """A series that a constancy check sends, written down before it is sent: it is nobody's, and goes nowhere else."""

    __tablename__ = "constancy_series"

    series_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    check_id: Mapped[int] = mapped_column(ForeignKey("constancy_checks.id"), index=True)
    series_id: Mapped[int | None] = mapped_column(ForeignKey("series.id"), unique=True)  # when its first image came
    model: Mapped[str] = mapped_column(String(255))
    instances_sha256: Mapped[str] = mapped_column(String(64))  # of its SOP Instance UIDs


class AuditRow(Table):
    """Who did what: appended, never changed; the database itself refuses that."""

    __tablename__ = "audit"
    __table_args__ = (Index("audit_by_time", "at"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str] = mapped_column(String(64))  # contourd, a calling AE title, or the operator's user name
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(64), default="")  # as "job 12", "association 7", "model hn7"
    detail: Mapped[str] = mapped_column(Text, default="")
    times: Mapped[int] = mapped_column(default=1, server_default="1")  # how often it came, within a minute


class ActivationRow(Table):
    """A bundle that was put into use, or taken back: appended, never changed; the last one of a name is in force."""

    __tablename__ = "activations"
    __table_args__ = (Index("activations_of_name", "name", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    name: Mapped[str] = mapped_column(String(32))
    version: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64))  # of model.json, which holds that of the weights
    folder: Mapped[str] = mapped_column(String(255))  # relative to the spool; empty: the shipped one
    actor: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text, default="")
    undoes: Mapped[int | None] = mapped_column(ForeignKey("activations.id"))  # what a rollback took back


class ContouringRow(Table):
    """What made the structure sets of a job, once for each time that it was contoured: appended, never changed."""

    __tablename__ = "contourings"
    __table_args__ = (Index("contourings_by_time", "at"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    process: Mapped[str] = mapped_column(String(64), default="", server_default="")  # ``processes.id`` of the worker
    at: Mapped[datetime]
    model_name: Mapped[str] = mapped_column(String(32))
    model_version: Mapped[str] = mapped_column(String(16))
    model_sha256: Mapped[str] = mapped_column(String(64))
    contourd: Mapped[str] = mapped_column(String(32))  # its version
    runtime: Mapped[str] = mapped_column(Text)  # JSON: what ran the network, and where
    versions: Mapped[str] = mapped_column(Text)  # JSON: library -> version
    settings: Mapped[str] = mapped_column(Text)  # JSON: those that decide the bytes
    models: Mapped[str] = mapped_column(Text, default="", server_default="")  # JSON: of several, each; else empty
    images: Mapped[int]
    images_sha256: Mapped[str] = mapped_column(String(64))
    outputs: Mapped[str] = mapped_column(Text)  # JSON: [[path relative to the spool, sha256], ...]
    grid: Mapped[str] = mapped_column(Text, default="", server_default="")  # JSON: of the CT, which retention removes


class EventRow(ReasonColumns, Table):
    """The record of every transition: appended, never changed."""

    __tablename__ = "events"
    __table_args__ = (Index("events_of_subject", "subject", "subject_id"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    at: Mapped[datetime]
    subject: Mapped[str] = mapped_column(String(16))  # series, job or delivery
    subject_id: Mapped[int]
    event: Mapped[str] = mapped_column(String(32))
    state: Mapped[str] = mapped_column(String(16))
    detail: Mapped[str] = mapped_column(Text, default="")

    @property
    def text(self) -> str:
        """What there is to say of it; older rows keep the sentence of their reason in ``detail``."""
        return self.detail or str(self.reason or "")


class ProcessRow(Table):
    """A process of contourd that serves or works: one row for each start, for the id is made anew with each."""

    __tablename__ = "processes"
    __table_args__ = (one_of("role", ProcessRole), Index("processes_by_end", "ended_at"))

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    host: Mapped[str] = mapped_column(String(64))
    place: Mapped[str] = mapped_column(String(96))  # who shares it sees whether the process number lives
    pid: Mapped[int]
    born: Mapped[str] = mapped_column(String(32))  # tells it from a later process of the same number
    parent: Mapped[int] = mapped_column(default=0)  # of a worker: the number of the process that watches over it
    version: Mapped[str] = mapped_column(String(32))  # of contourd
    device: Mapped[str] = mapped_column(String(64), default="")  # of a worker
    cannot: Mapped[str] = mapped_column(Text, default="")  # JSON: orders that a worker does not take, each with why
    loaded: Mapped[str] = mapped_column(Text, default="", server_default="")  # JSON: the models that a worker has ready
    started_at: Mapped[datetime]
    heartbeat_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    gone: Mapped[bool] = mapped_column(default=False)  # it did not end in order: others noticed
    disk_free_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of its spool's file system, as of its size
    disk_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    store_reachable: Mapped[bool | None]  # how the object store answered it last; none where it has not asked
    store_since: Mapped[datetime | None]  # since when it answers so
    store_said: Mapped[str] = mapped_column(Text, default="", server_default="")  # the last error
    store_waiting: Mapped[int | None]  # images of its host that are to be put there


class OpenSeriesRow(Table):
    """A series that associations of one receiving process hold open: nobody judges it meanwhile."""

    __tablename__ = "open_series"

    series_uid: Mapped[str] = mapped_column(String(64), primary_key=True)
    process: Mapped[str] = mapped_column(String(64), primary_key=True)


class TallyRow(Table):
    """The number of rows of one table that are alike; the database counts, and nothing else writes here."""

    __tablename__ = "tallies"

    table_name: Mapped[str] = mapped_column(String(16), primary_key=True)
    destination: Mapped[str] = mapped_column(String(32), primary_key=True)  # of deliveries and attempts
    state: Mapped[str] = mapped_column(String(16), primary_key=True)  # of attempts the outcome
    status: Mapped[int] = mapped_column(primary_key=True)  # of attempts; NO_STATUS where there is none
    number: Mapped[int]


class ToldAlertRow(Table):
    """What a channel was told and is still so; of no channel: whose earlier record was carried over (CARRIED_OVER)."""

    __tablename__ = "told_alerts"

    channel: Mapped[str] = mapped_column(String(16), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)  # ``contourd.observe.concerns.Concern.key``
    told_at: Mapped[datetime]


class SiteRow(Table):
    """Whose database it is: one row, written at the first start."""

    __tablename__ = "site"
    __table_args__ = (CheckConstraint("id = 1", name="site_is_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key_hmac: Mapped[str] = mapped_column(String(64))  # of the site's key, which is not in the database
    since: Mapped[datetime]
