"""What a case is called in the data set; who it is, if it came as DICOM, goes into a file for the owner alone."""

from __future__ import annotations

import csv
import hashlib
import hmac
import os
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.curation.archive import Item, Kind

KEY_FILE, PATIENTS_FILE = ".identity-key", "patients.csv"
OWNER_ONLY = 0o600
FORMULA = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class PseudonymisedItem:
    """An item, and what it and its patient are called in the data set."""

    item: Item
    identifier: str
    patient: str


def identify(items: Sequence[Item], output: Path) -> list[PseudonymisedItem]:
    """Name every item; the same archive gives the same names as long as the data set keeps its key."""
    key = _key(output / KEY_FILE)
    several = len({item.source for item in items}) > 1
    named, text = [], []
    counts: Counter[str] = Counter()
    for item in sorted(items, key=lambda i: (i.source, len(i.name), i.name)):
        if item.kind is Kind.DICOM:
            patient = "p" + hmac.new(key, item.patient.encode(), hashlib.sha256).hexdigest()[:12]
        else:
            patient = item.patient
        name = patient if item.kind is Kind.DICOM else item.name
        name = f"{item.source}-{name}" if several else name
        counts[name] += 1
        identifier = name if counts[name] == 1 else f"{name}-{counts[name]}"
        named.append(PseudonymisedItem(item, identifier, patient))
        if item.kind is Kind.DICOM:
            text.append((identifier, item.patient, item.name, str(item.images[0].parent)))
    if text:
        path = output / PATIENTS_FILE
        with open(path, "w", newline="", encoding="utf-8", opener=_owner_only) as file:
            writer = csv.writer(file)
            writer.writerow(("case", "PatientID", "SeriesInstanceUID", "folder"))
            writer.writerows([[_as_text(cell) for cell in row] for row in text])
    return named


def _as_text(cell: str) -> str:
    """Keep a spreadsheet from taking an archive's text for a formula: an apostrophe before it, which is not shown."""
    return f"'{cell}" if cell.lstrip().startswith(FORMULA) or cell.startswith(("\t", "\r", "\n")) else cell


def _owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, OWNER_ONLY)


def _key(path: Path) -> bytes:
    if not path.exists():
        with open(path, "wb", opener=_owner_only) as file:
            file.write(secrets.token_bytes(32))
    return path.read_bytes()
