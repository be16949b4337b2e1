"""The commissioning record of a model: what a physicist measured of it on this site's patients, signed with its key.

It lies beside the model in the store. Plausibility takes the usual size and place of the organs from it, so that a
model of others is judged as ours are. Who cannot read the site's key cannot change it unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contourd.commands import command
from contourd.errors import RecordInvalid, SpoolError
from contourd.model.bundle_config import Commissioning
from contourd.model.library import RECORD_FILE as RECORD_FILE
from contourd.model.plausibility import OrganSpread
from contourd.spool.folder import PARTIAL, Spool
from contourd.spool.signed import canonical, is_signed, sign
from contourd.system.durable_files import write_durably
from contourd.system.regular_files import read_regular

PURPOSE = "commissioning record"
LARGEST_BYTES = 8 * 2**20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OrganFigures(_Part):
    """One organ over all cases: means with their bootstrap intervals (95 %); None where nothing could be measured.

    cases, found
        In which it is drawn by a person, and by the model too.
    other_side
        Cases in which the model drew it on the other side of the patient.
    """

    cases: int
    found: int
    other_side: int
    dice: tuple[float | None, float | None, float | None]
    surface_dice: tuple[float | None, float | None, float | None]
    hausdorff_95_mm: tuple[float | None, float | None, float | None]


class CommissioningRecord(_Part):
    """What was measured, by whom, and of which model; or why nothing was.

    Attributes
    ----------
    name, version, sha256
        Of the model.
    dataset
        As the person called it.
    distribution
        Size and place of the organs as persons drew them; organs of few cases are left out.
    report_sha256
        Of the report that lies beside the record.
    without
        Why the model is used without being measured; empty: it was measured.
    """

    by: str
    at: datetime
    contourd: str
    name: str
    version: str
    sha256: str
    dataset: str = ""
    cases: int = 0
    held: int = 0
    organs: Mapping[str, OrganFigures] = Field(default_factory=dict)
    distribution: Mapping[str, OrganSpread] = Field(default_factory=dict)
    report_sha256: str = ""
    without: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an activation brings with it.

    Attributes
    ----------
    record
        The folder or file of a commissioning record.
    without
        Why there is none.
    """

    record: Path | None = None
    without: str = ""


def write_record(path: Path, spool: Spool, record: CommissioningRecord) -> None:
    """Sign and write it.

    Raises
    ------
    SpoolError
        The file system refuses, or the site's key cannot be read.
    """
    content = record.model_dump(mode="json")
    signed = {"signature": sign(spool, PURPOSE, content), "record": content}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(signed, indent=1) + "\n"
        write_durably(path.with_name(f"{PARTIAL}-{uuid4().hex}"), path, [text.encode()])
    except OSError as error:
        raise SpoolError(f"{path} cannot be written: {error.strerror}") from error


def read_record(path: Path, spool: Spool) -> CommissioningRecord:
    """Read a record, if its signature is this site's; ``path`` is the file, or the folder that it lies in.

    Raises
    ------
    RecordInvalid
        There is none, or it was changed or not signed by this site; with the remedy.
    SpoolError
        The site's key cannot be read.
    """
    file = path / RECORD_FILE if path.is_dir() else path
    again = command("models commission", "MODEL", "DATASET", "--output", "RECORD")
    try:
        if file.stat().st_size > LARGEST_BYTES:
            raise RecordInvalid(f"{file} is larger than any record; {again} makes one")
        signed = json.loads(read_regular(file))
        content, signature = signed["record"], str(signed["signature"])
    except OSError as error:
        raise RecordInvalid(f"{file} cannot be read: {error.strerror}; {again} makes one") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordInvalid(f"{file} is no record, or not signed; {again} makes one") from error
    if not is_signed(spool, PURPOSE, content, signature):
        raise RecordInvalid(
            f"{file} was changed, or signed with another key than this site's: find out who changed it; {again} makes "
            "a new one"
        )
    try:
        return CommissioningRecord.model_validate(content)
    except ValidationError as error:
        raise RecordInvalid(f"{file} is of another version of contourd; {again} makes a new one") from error


def commissioning_of(folder: Path, spool: Spool) -> Commissioning | None:
    """Return what a stored model's record says for contouring, None where it has none.

    Raises
    ------
    RecordInvalid
        It was changed.
    """
    if not (folder / RECORD_FILE).exists():
        return None
    record = read_record(folder, spool)
    content = canonical(record.model_dump(mode="json"))
    return Commissioning(record.by, record.distribution, record.without, hashlib.sha256(content).hexdigest())
