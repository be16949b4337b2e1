"""Shadows for the tests: one of a job that is there, and what became of it."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select

from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.store.database import Database
from contourd.store.shadow_tables import ShadowAgreementRow, ShadowRow, ShadowState
from tests.queueing import START


def with_shadow(settings: Settings, model: str) -> Settings:
    """Return settings whose first route has a shadow."""
    first, *others = settings.route
    return settings.model_copy(update={"route": (first.model_copy(update={"shadow": model}), *others)})


def add_shadow(database: Database, job_id: int, model: str) -> int:
    with database.transaction() as session:
        row = ShadowRow(job_id=job_id, model=model, state=ShadowState.WAITING, lease_until=None)
        row.created_at = row.updated_at = START
        session.add(row)
        session.flush()
        return row.id


def shadow_of(database: Database, job_id: int) -> ShadowRow:
    with database.reading() as session:
        return session.scalars(select(ShadowRow).where(ShadowRow.job_id == job_id)).one()


def agreements_of(database: Database, job_id: int) -> list[ShadowAgreementRow]:
    with database.reading() as session:
        wanted = select(ShadowAgreementRow).where(ShadowAgreementRow.job_id == job_id)
        return list(session.scalars(wanted.order_by(ShadowAgreementRow.id)))


def compared_shadow(
    database: Database, job_id: int, dice: float = 0.9, at: datetime = START, organ: str = "Parotid_L"
) -> int:
    """Record a shadow that was compared, of an organ that both drew and one that the live model alone drew."""
    shadow = add_shadow(database, job_id, "candidate")
    with database.transaction() as session:
        row = session.get_one(ShadowRow, shadow)
        row.state, row.worker, row.claims = ShadowState.COMPARED, "w", 1
        row.output, row.updated_at = f"outgoing/{job_id}-shadow{shadow}-c1.dcm", at
        row.model_name, row.model_version, row.model_sha256 = "candidate", "2", "c" * 64
        for name, measured in ((organ, (dice, dice + 0.05, 2.5)), ("BrainStem", (None, None, None))):
            one = ShadowAgreementRow(shadow_id=shadow, job_id=job_id, at=at, organ=name)
            one.shadow_name, one.shadow_version, one.shadow_sha256 = "candidate", "2", "c" * 64
            one.live_name, one.live_version, one.live_sha256 = "hn7", "1", "a" * 64
            one.dice, one.surface_dice, one.hausdorff_95_mm = measured
            one.live_cc, one.shadow_cc = 20.0, 22.0 if measured[0] is not None else None
            session.add(one)
    return shadow


def failed_shadow(database: Database, job_id: int) -> int:
    shadow = add_shadow(database, job_id, "candidate")
    with database.transaction() as session:
        row = session.get_one(ShadowRow, shadow)
        row.state, row.reason = ShadowState.FAILED, Reason.of(HoldReason.FAULT, said="it broke")
    return shadow
