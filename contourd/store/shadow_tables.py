"""The tables of shadows: models that contour the same series beside the one whose contours are sent.

They are tables of their own: no row of theirs leads to a delivery, and no delivery's row can name a shadow's file.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint, event
from sqlalchemy.orm import Mapped, mapped_column

from contourd.spool.folder import is_shadow
from contourd.store.tables import DeliveryRow, ReasonColumns, Table, VeryMany


class ShadowState(StrEnum):
    """Of a shadow."""

    WAITING = "WAITING"  # for the end of the live job, and for a worker with nothing else to do
    RUNNING = "RUNNING"  # a worker holds its lease
    COMPARED = "COMPARED"  # its structure set is kept, and was compared with the live one
    FAILED = "FAILED"  # the reason says why
    DROPPED = "DROPPED"  # there is nothing to contour, or to compare with, any more; the reason says why


STATES = ", ".join(f"'{state.value}'" for state in ShadowState)


class ShadowRow(ReasonColumns, Table):
    """One model that contours a job's series beside the live one; it is never sent."""

    __tablename__ = "shadows"
    __table_args__ = (
        CheckConstraint(f"state IN ({STATES})", name="state_is_known"),
        UniqueConstraint("job_id", "model"),
        Index("shadows_by_state", "state", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    model: Mapped[str] = mapped_column(String(255))  # as the route names it
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int] = mapped_column(default=0)
    claims: Mapped[int] = mapped_column(default=0)  # the fencing token, as of a job
    worker: Mapped[str] = mapped_column(String(64), default="")  # ``processes.id``
    lease_until: Mapped[datetime | None]
    output: Mapped[str] = mapped_column(String(255), default="")  # relative to the spool
    output_sha256: Mapped[str] = mapped_column(String(64), default="")
    model_name: Mapped[str] = mapped_column(String(32), default="")  # of what ``model`` stood for
    model_version: Mapped[str] = mapped_column(String(16), default="")
    model_sha256: Mapped[str] = mapped_column(String(64), default="")
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ShadowAgreementRow(Table):
    """How one organ of a shadow agrees with the live contours of its job: appended, never changed.

    Measures are empty where one of both did not draw the organ; there its volume is empty, too.
    """

    __tablename__ = "shadow_agreements"
    __table_args__ = (Index("shadow_agreements_by_time", "at"),)

    id: Mapped[int] = mapped_column(VeryMany, primary_key=True)
    shadow_id: Mapped[int] = mapped_column(ForeignKey("shadows.id"), index=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"), index=True)
    at: Mapped[datetime]
    organ: Mapped[str] = mapped_column(String(64))  # TG-263
    shadow_name: Mapped[str] = mapped_column(String(32))
    shadow_version: Mapped[str] = mapped_column(String(16))
    shadow_sha256: Mapped[str] = mapped_column(String(64))
    live_name: Mapped[str] = mapped_column(String(32))
    live_version: Mapped[str] = mapped_column(String(16))
    live_sha256: Mapped[str] = mapped_column(String(64))
    dice: Mapped[float | None]
    surface_dice: Mapped[float | None]  # within 2 mm
    hausdorff_95_mm: Mapped[float | None]
    live_cc: Mapped[float | None]
    shadow_cc: Mapped[float | None]


@event.listens_for(DeliveryRow.output, "set")
def refuse_shadow(delivery: DeliveryRow, output: str, *_: object) -> None:
    """Refuse a delivery of a shadow's structure set; raises ValueError."""
    if is_shadow(output):
        raise ValueError(f"{output} is a shadow's structure set: it is never sent (delivery {delivery.id})")
