"""The table of reasons in docs/operating.md, made of the catalogue: ``python -m tests.reason_table``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter

from contourd.reasons.catalogue import CATALOGUE, HoldReason, NextStep, Reason, ReasonEntry
from contourd.reasons.codes import HOLDING

PAGE = Path(__file__).resolve().parents[1] / "docs" / "operating.md"
BEGIN = "<!-- made of the catalogue of reasons by `python -m tests.reason_table` -->\n"
END = "<!-- end of the table -->\n"
WAYS: Mapping[NextStep, str] = {
    NextStep.AGAIN: "`release SERIES`, `retry JOB`",
    NextStep.GIVE_REASON: '`release SERIES --reason "WHY"`, `retry JOB`',
    NextStep.OVERRIDE: '`retry JOB --override "WHY"`',
    NextStep.CONFIRM: "`confirm JOB`",
    NextStep.REPLACE: '`replace SERIES --reason "WHY"`, `release SERIES --reason "WHY"`',
    NextStep.SENDER: "its sender alone",
}
WHY = Reason.of(HoldReason.SPOOL_FULL, said="no space is left")
# Details of the sentences that no template says.
EXAMPLES: Mapping[HoldReason, Mapping[str, object]] = {
    HoldReason.IMAGES_REFUSED: {
        "images": 2,
        "uncertain": 0,
        "causes": [{"status": 0xA700, "why": WHY, "images": 2}],
        "found": None,
    },
    HoldReason.IMAGES_MISSING_SINCE_PURGE: {"here": 40, "removed": 80, "on": "2026-01-31", "found": None},
    HoldReason.SLICES_MISSING: {"z_mm": [10.0, 12.5]},
    HoldReason.SENT_TWICE: {"images": 2, "series": 7},
    HoldReason.SENT_TWICE_OTHER_PATIENT: {"images": 2, "series": 7, "differs": ["PatientID"]},
    HoldReason.SAME_UID_TWICE: {"differing": 2, "images": 80, "z_mm": [10.0], "more": False},
    HoldReason.IMAGES_DAMAGED: {
        "damaged": 1,
        "images": 80,
        "what": "have changed on the disk",
        "z_mm": [10.0],
        "more": False,
    },
    HoldReason.OUTSIDE_LIMITS: {"model": "hn7", "beyond": ["slices are 7.00 mm apart"]},
    HoldReason.ALL_WITHHELD: {"organs": {"Brainstem": "too small"}},
    HoldReason.ALL_REJECTED: {"organs": {"Brainstem": "reads back with Dice 0.5"}},
    HoldReason.ORGANS_DIFFER: {"organs": {"Brainstem": "reads back with Dice 0.5"}},
    HoldReason.CONTOURS_FROM_NOWHERE: {"organs": {}, "names": ["Brainstem"]},
    HoldReason.MODEL_UNPAIRED: {"path": "model.json", "organs": ["Eye_L"]},
    HoldReason.MODEL_TAKEN_OUT: {"model": "hn7", "at": "2026-01-31 12:00", "actor": "ann"},
    HoldReason.MODEL_NOT_THERE: {"model": "hn7", "file": "model.json", "folder": "/srv/models/hn7"},
    HoldReason.MODEL_OF_JOB_GONE: {"model": "hn7 1.0"},
    HoldReason.ACTIVATED_MODEL_UNUSABLE: {"why": WHY, "roll_back": "hn7"},
    HoldReason.ORDER_OF_NOBODY: {"hosts": {"gpu1": Reason.of(HoldReason.ORDER_OF_OTHER_MODEL, model="hn7 1.0")}},
    HoldReason.JOB_BROKE_WORKER: {"tries": 2, "why": Reason.of(HoldReason.WORKER_ENDED, how="the worker died")},
    HoldReason.DELIVERY_OF_ENDED_JOB: {
        "job": Reason.of(HoldReason.IMAGES_REPLACED),
        "why": Reason.of(HoldReason.DESTINATION_BUSY, said="PACS closed the connection"),
    },
}


def words(code: HoldReason, entry: ReasonEntry) -> str:
    """Return how a reason's sentence begins, with dots for what differs from case to case."""
    if isinstance(entry.sentence, str):
        told = "".join(part + ("..." if field else "") for part, field, _, _ in Formatter().parse(entry.sentence))
    else:
        told = str(Reason.of(code, **EXAMPLES[code]))
    return told.split("; ")[0].replace("|", "\\|")


def table() -> str:
    """Return the table: a row for the codes of one meaning and remedy."""
    groups: dict[tuple[str, str, str, NextStep], list[str]] = {}
    for code, entry in CATALOGUE.items():
        if entry.held_as in HOLDING:
            same = (entry.held_as.value, entry.means, entry.remedy, entry.way)
            groups.setdefault(same, []).append(f"`{code}` {words(code, entry)}")
    rows = [
        f"| {'<br>'.join(codes)} | `{held_as}` | {means} | {remedy} | {WAYS[way]} |"
        for (held_as, means, remedy, way), codes in groups.items()
    ]
    head = "| code, and how the reason begins | class | what happened | what to do | it goes on by `contourd ...` |"
    return "\n".join([head, "|---|---|---|---|---|", *rows, ""])


def page() -> str:
    """Return the page with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return text[:begin] + table() + text[end:]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
