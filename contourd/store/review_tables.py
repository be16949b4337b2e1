"""The tables of what comes back: structure sets of planning systems, and what became of each organ."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Double, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from contourd.store.column_types import one_of
from contourd.store.states import OrganFate, ReviewState
from contourd.store.tables import ReasonColumns, Table


class ReviewRow(ReasonColumns, Table):
    """A structure set that came back from a planning system; no series, and in no queue.

    What of its job is needed to read the comparison later is kept here: model and destination. Nobody is named.
    """

    __tablename__ = "reviews"
    __table_args__ = (
        one_of("state", ReviewState),
        UniqueConstraint("sop_instance_uid", "sha256"),
        Index("reviews_by_state", "state", "updated_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    sop_instance_uid: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(String(64))  # of the dataset, as it came
    path: Mapped[str] = mapped_column(String(255), index=True)  # relative to the spool
    calling_ae: Mapped[str] = mapped_column(String(16))
    tps: Mapped[str] = mapped_column(String(32))
    patient: Mapped[str] = mapped_column(String(32))  # a keyed pseudonym
    state: Mapped[str] = mapped_column(String(16))
    received_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    tried_at: Mapped[datetime]  # when its job was looked for last
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    approval: Mapped[str] = mapped_column(String(16), default="", server_default="")  # as Approval Status says
    reviewer: Mapped[str] = mapped_column(String(32), default="", server_default="")  # a keyed pseudonym
    reviewed_at: Mapped[datetime | None]  # as it says itself
    delivered_at: Mapped[datetime | None]  # when the destination took what it was made of
    destination: Mapped[str] = mapped_column(String(32), default="", server_default="")
    model_name: Mapped[str] = mapped_column(String(32), default="", server_default="")
    model_version: Mapped[str] = mapped_column(String(16), default="", server_default="")
    model_sha256: Mapped[str] = mapped_column(String(64), default="", server_default="")
    unchanged: Mapped[bool | None]  # every contour is as it was delivered; empty until it is compared
    purged_at: Mapped[datetime | None]  # when retention removed its file


class ReviewOrganRow(Table):
    """What became of one ROI: of an organ that is known, by how much; of one whose name is not sure, its name alone."""

    __tablename__ = "review_organs"
    __table_args__ = (one_of("fate", OrganFate), Index("review_organs_of", "organ", "review_id"))

    id: Mapped[int] = mapped_column(primary_key=True)
    review_id: Mapped[int] = mapped_column(ForeignKey("reviews.id"), index=True)
    organ: Mapped[str] = mapped_column(String(64))  # empty where the name is not sure
    roi: Mapped[str] = mapped_column(String(64))  # as it is called there
    fate: Mapped[str] = mapped_column(String(16))
    dice: Mapped[float | None] = mapped_column(Double)
    surface_dice: Mapped[float | None] = mapped_column(Double)
    hausdorff_95_mm: Mapped[float | None] = mapped_column(Double)
    added_path_mm: Mapped[float | None] = mapped_column(Double)
    draft_cc: Mapped[float | None] = mapped_column(Double)
    reviewed_cc: Mapped[float | None] = mapped_column(Double)
    remark: Mapped[str] = mapped_column(Text, default="", server_default="")
