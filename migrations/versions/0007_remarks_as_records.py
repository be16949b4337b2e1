"""Remarks on a job's structure sets as records, which were words.

The words of earlier versions are read here and nowhere else: each remark keeps its own, for their values are not told
apart from the sentence.
"""

from __future__ import annotations

import json
import re

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

JOBS = sa.table(
    "jobs", sa.column("id", sa.Integer), sa.column("remarks", sa.Text), sa.column("remark_records", sa.Text)
)
# Where a remark begins among others.
NEXT = re.compile(r"; (?=withheld: |check: |header: |not commissioned: )")
OF_ORGAN = re.compile(r"(?P<verdict>withheld|check): (?P<organ>\S+) \((?P<words>.*)\)", re.DOTALL)
OF_SERIES = {"outside the model's limits, released: ": "limits", "header: ": "header"}
UNJUDGED = "not commissioned: "
VERDICTS = {"withheld": "withhold", "check": "flag"}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("remark_records", sa.Text, nullable=False, server_default="[]"))
    for job, words in op.get_bind().execute(sa.select(JOBS.c.id, JOBS.c.remarks).where(JOBS.c.remarks != "")).all():
        records = json.dumps([_record(part) for part in NEXT.split(words)])
        op.execute(JOBS.update().where(JOBS.c.id == job).values(remark_records=records))
    op.drop_column("jobs", "remarks")


def downgrade() -> None:
    op.add_column("jobs", sa.Column("remarks", sa.Text, nullable=False, server_default=""))
    rows = op.get_bind().execute(sa.select(JOBS.c.id, JOBS.c.remark_records)).all()
    for job, records in rows:
        words = "; ".join(_words(record) for record in json.loads(records))
        op.execute(JOBS.update().where(JOBS.c.id == job).values(remarks=words))
    op.drop_column("jobs", "remark_records")


def _record(words: str) -> dict[str, str]:
    if found := OF_ORGAN.fullmatch(words):
        verdict = VERDICTS[found["verdict"]]
        return {"organ": found["organ"], "check": "earlier", "verdict": verdict, "words": found["words"]}
    for begins, check in OF_SERIES.items():
        if words.startswith(begins):
            return {"check": check, "verdict": "note", "words": words.removeprefix(begins)}
    return {"check": "distribution" if words.startswith(UNJUDGED) else "earlier", "verdict": "note", "words": words}


def _words(record: dict[str, object]) -> str:
    """Return the words for an older version; of a measured value the figures."""
    words = record.get("words") or str(record["check"])
    if record.get("value") is not None:
        low, high = record["expected"]  # type: ignore[misc]
        words = f"{record['check']}: {record['measure']} {record['value']:.4g}, expected {low:.4g} to {high:.4g}"
    organs = {verdict: word for word, verdict in VERDICTS.items()}
    if record["verdict"] in organs:
        return f"{organs[str(record['verdict'])]}: {record['organ']} ({words})"
    series = {check: begins for begins, check in OF_SERIES.items()}
    return f"{series.get(str(record['check']), '')}{words}"
