"""Reasons as a code and a detail; waiting for confirmation and cancelled as states; how often a line of the audit came.

Texts of before are classed once, here, and kept word for word. SQLite changes no constraint in place, and ``jobs``, to
which others refer, cannot be rebuilt: its CHECK is rewritten where it stands (sqlite.org/lang_altertable.html).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

from contourd.reasons.catalogue import Reason

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BEFORE = ("QUEUED", "CONTOURING", "DELIVERING", "DELIVERED", "HELD", "FAILED", "SUPERSEDED")
AFTER = ("QUEUED", "CONTOURING", "DELIVERING", "DELIVERED", "CONFIRMING", "HELD", "FAILED", "SUPERSEDED", "CANCELLED")
# The columns that a text was in, and the prefix of those that take its place.
TEXTS = (("series", "reason"), ("series", "hold"), ("jobs", "reason"), ("deliveries", "reason"), ("refusals", "reason"))
# How versions up to 0005 began their sentences, or what these held; the first that is found counts.
SENTENCES = (
    ("removed_while_held", r"; retention removed the images on "),
    ("images_refused", r"^(an image|\d+ images) of the series (was|were) refused|^images of the series were refused"),
    ("sent_twice_then_as_before", r"^an image was sent twice with different content, and then again"),
    ("sent_twice_other_patient", r"^(an image|\d+ images) (was|were) sent twice with different content: "),
    ("sent_twice", r"^(an image|\d+ images) (was|were) sent twice"),
    ("too_few_slices", r"fewer than the \d+ that"),
    ("slices_missing", r"^missing slices"),
    ("transfer_aborted", r"^the sender aborted"),
    ("node_ended", r"^contourd was ended"),
    ("waits_for_confirmation", r"^waits for confirmation"),
    ("database_put_back", r"; the database was put back since"),
    ("held_by_person", r"^held by "),
    ("cancelled_by_person", r"^cancelled by "),
    ("sender_unknown", r"^the sender of the series is not known"),
    ("same_uid_on_slices", r"^one SOP Instance UID stands on several slices"),
    ("same_uid_twice", r"^an image is there twice"),
    ("no_route", r"^no route"),
    ("outside_limits", r"^the series is outside the limits"),
    ("no_head_and_neck", r"does not look like a head and neck"),
    ("no_patient", r"^no patient found"),
    ("head_beside_box", r"of the head lie beside"),
    ("waits_for_device", r"^waits for the device"),
    ("device_never_free", r"^the device could"),
    ("organs_differ", r"reads back|was found but has no contour"),
    ("all_withheld", r"^every organ that was found is withheld"),
    ("no_organ", r"^no organ was found"),
    ("contours_from_nowhere", r"come from nowhere"),
    ("second_reader_fails", r"^rt-utils"),
    ("other_images", r"^the (frame of reference|study|referenced images|three ROI sequences) (is|are|do) not"),
    ("roi_name_unfit", r"^ROI name|^two ROIs are called"),
    ("value_too_long", r"^\w+: \d+ (characters|bytes), "),
    ("contour_off_its_slice", r"^\S+: a contour "),
    ("device_too_small", r"^the volume needs about"),
    ("device_out_of_memory", r"ran out of memory"),
    ("device_absent", r"^worker\.device"),
    ("openvino_refuses", r"^OpenVINO|^worker\.(precision|runtime)|^this processor has no bf16"),
    ("masks_differ", r"does not give the masks of"),
    ("worker_out_of_memory", r"^out of memory"),
    ("machine_out_of_memory", r"^this machine has no memory left"),
    ("images_missing_since_purge", r"^only \d+ of the \d+ images came again"),
    ("images_damaged", r"received images"),
    ("job_broke_worker", r"^the job broke its worker"),
    ("worker_hung", r"^the worker hung"),
    ("worker_ended", r"^the worker (died|ended)"),
    ("fault", r"; the log says where$"),
    ("waits_for_spool", r"^waits: "),
    ("model_of_job_gone", r"^the job was contoured with"),
    ("model_unknown", r"^no model|is not here: "),
    ("model_not_as_activated", r"is not the model that was activated"),
    ("model_file_invalid", r"is not a model of this version"),
    ("model_damaged", r"is damaged: its sha256"),
    ("model_unpaired", r"in no pair of it"),
    ("weights_unfit", r"weights do not fit model"),
    ("weights_not_finite", r"holds weights that"),
    ("not_decoded", r"cannot be decoded"),
    ("localizer", r"is a localizer"),
    ("other_modality", r"^modality"),
    ("check_over", r"constancy check"),
    ("newer_revision", r"a newer revision takes its place$"),
    ("images_differ_now", r"^its images came again with different content"),
    ("images_replaced", r"^its images were replaced"),
    ("commitment_to_ask", r"^sent; storage commitment is to be asked for"),
    ("commitment_awaited", r"^sent; the answer to the request"),
    ("never_committed", r"^sent, never committed"),
    ("commitment_not_wanted", r"^taken; its storage commitment"),
    ("commitment_failed", r"says that it does not hold it"),
    ("given_up_after", r"^given up after"),
    ("given_up", r"^given up"),
    ("destination_down", r" is down$"),
    ("sending_broke_off", r"^contourd was restarted"),
)
# What a text is that none of them knows, by the state of its row or the status of its response.
ELSE = {
    "jobs": {"FAILED": "delivery_refused"},
    "deliveries": {"PENDING": "destination_busy", "DELIVERED": "destination_took", "REFUSED": "destination_refused"},
    "refusals": {0xA700: "spool_failed", 0xA900: "instance_mismatch", 0xC000: "dataset_unreadable"},
}
STORED_IMAGE = re.compile(r"incoming/[0-9]+/[0-9a-f]+\.dcm")


def upgrade() -> None:
    for table in ("series", "jobs", "deliveries", "refusals", "events"):
        op.add_column(table, sa.Column("reason_code", sa.String(48), nullable=False, server_default=""))
        op.add_column(table, sa.Column("reason_detail", sa.Text, nullable=False, server_default=""))
    op.add_column("series", sa.Column("hold_code", sa.String(48), nullable=False, server_default=""))
    op.add_column("series", sa.Column("hold_detail", sa.Text, nullable=False, server_default=""))
    op.add_column("audit", sa.Column("times", sa.Integer, nullable=False, server_default="1"))
    _keep_named_files()
    for table, column in TEXTS:
        _class(table, column)
        op.drop_column(table, column)
    _class_events()
    _jobs_may_be(AFTER, _tell_states_apart)


def _keep_named_files() -> None:
    """Keep the files that older versions named in words alone."""
    op.create_table(
        "contradicting_files",
        sa.Column("path", sa.String(255), primary_key=True),
        sa.Column("series_id", sa.Integer, sa.ForeignKey("series.id"), nullable=False),
    )
    op.create_index("ix_contradicting_files_series_id", "contradicting_files", ["series_id"])
    connection = op.get_bind()
    told = connection.execute(
        sa.text(
            "SELECT subject_id, detail FROM events WHERE subject = 'series' AND detail LIKE '%incoming/%' "
            "UNION ALL SELECT id, reason FROM series WHERE reason LIKE '%incoming/%'"
        )
    )
    named = {path: series for series, text in told for path in STORED_IMAGE.findall(text)}
    known = set(connection.scalars(sa.text("SELECT id FROM series")))
    for path, series in named.items():
        if series in known:
            row = {"path": path, "series": series}
            connection.execute(sa.text("INSERT INTO contradicting_files VALUES (:path, :series)"), row)


def _code_of(text: str, table: str, state: str | int | None) -> str:
    found = next((code for code, pattern in SENTENCES if re.search(pattern, text)), None)
    return found or ELSE.get(table, {}).get(state, "other")  # type: ignore[call-overload, no-any-return]


def _class(table: str, column: str) -> None:
    rows = sa.table(table, *map(sa.column, ("state", "status", column, f"{column}_code", f"{column}_detail")))
    kind = rows.c.status if table == "refusals" else rows.c.state
    connection = op.get_bind()
    texts = connection.execute(sa.select(rows.c[column], kind).where(rows.c[column] != "").distinct()).all()
    for text, state in texts:
        values = {
            f"{column}_code": _code_of(text, table, state),
            f"{column}_detail": json.dumps({"verbatim": text}),
        }
        connection.execute(rows.update().where(rows.c[column] == text, kind == state).values(values))


def _class_events() -> None:
    """Tell which events held something, or waited for the device; their words stay where they are."""
    events = sa.table("events", *map(sa.column, ("event", "detail", "reason_code")))
    connection = op.get_bind()
    wanted = events.c.event.in_(("hold", "requeue")) & (events.c.detail != "")
    for text in connection.scalars(sa.select(events.c.detail).where(wanted).distinct()).all():
        same = wanted & (events.c.detail == text)
        connection.execute(events.update().where(same).values(reason_code=_code_of(text, "events", None)))


def _tell_states_apart() -> None:
    op.execute("UPDATE jobs SET state = 'CANCELLED' WHERE state = 'SUPERSEDED' AND reason_code = 'cancelled_by_person'")
    contoured = "id IN (SELECT job_id FROM deliveries)"
    op.execute(
        f"UPDATE jobs SET state = 'CONFIRMING' WHERE state = 'HELD' AND confirm AND confirmed_by = '' AND {contoured}"
    )


def _jobs_may_be(states: tuple[str, ...], change: Callable[[], None]) -> None:
    """Let jobs be in these states, and change what is there."""
    check = "CHECK (state IN (" + ", ".join(f"'{state}'" for state in states) + "))"
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint("state_is_known", "jobs", type_="check")
        change()
        op.execute(f"ALTER TABLE jobs ADD CONSTRAINT state_is_known {check}")
        return
    if set(states) < set(AFTER):
        change()
    made = connection.scalar(sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'jobs'"))
    rewritten, number = re.subn(r"CHECK \(state IN \([^)]*\)\)", check, str(made))
    assert number == 1, made
    version = connection.scalar(sa.text("PRAGMA schema_version"))
    connection.exec_driver_sql("PRAGMA writable_schema=ON")
    connection.execute(
        sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = 'jobs'"), {"sql": rewritten}
    )
    connection.exec_driver_sql(f"PRAGMA schema_version={int(version) + 1}")  # type: ignore[call-overload]
    connection.exec_driver_sql("PRAGMA writable_schema=RESET")
    if set(states) == set(AFTER):
        change()


def _tell_states_in_words() -> None:
    op.execute("UPDATE jobs SET state = 'SUPERSEDED' WHERE state = 'CANCELLED'")
    op.execute("UPDATE jobs SET state = 'HELD' WHERE state = 'CONFIRMING'")


def downgrade() -> None:
    _jobs_may_be(BEFORE, _tell_states_in_words)
    for table, column in TEXTS:
        op.add_column(table, sa.Column(column, sa.Text, nullable=False, server_default=""))
        _say(table, column)
    _say_events()
    op.drop_column("audit", "times")
    for table in ("series", "jobs", "deliveries", "refusals", "events"):
        op.drop_column(table, "reason_detail")
        op.drop_column(table, "reason_code")
    op.drop_column("series", "hold_detail")
    op.drop_column("series", "hold_code")
    op.drop_table("contradicting_files")


def _say(table: str, column: str) -> None:
    """Write the sentences where an older version looks for them."""
    rows = sa.table(table, *map(sa.column, (column, f"{column}_code", f"{column}_detail")))
    code, detail = rows.c[f"{column}_code"], rows.c[f"{column}_detail"]
    connection = op.get_bind()
    for one, its_detail in connection.execute(sa.select(code, detail).where(code != "").distinct()).all():
        same = (code == one) & (detail == its_detail)
        connection.execute(rows.update().where(same).values({column: str(Reason.read(one, its_detail))}))


def _say_events() -> None:
    events = sa.table("events", *map(sa.column, ("detail", "reason_code", "reason_detail")))
    connection = op.get_bind()
    silent = (events.c.reason_code != "") & (events.c.detail == "")
    kinds = sa.select(events.c.reason_code, events.c.reason_detail).where(silent).distinct()
    for code, detail in connection.execute(kinds).all():
        same = silent & (events.c.reason_code == code) & (events.c.reason_detail == detail)
        connection.execute(events.update().where(same).values(detail=str(Reason.read(code, detail))))
