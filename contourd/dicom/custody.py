"""Whether a received instance is still on the disk as it came."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydicom.filereader import read_file_meta_info

from contourd.dicom.commitment import CLASS_CONFLICT, PROCESSING_FAILURE, Reference
from contourd.dicom.instance import BEFORE_META_BYTES, UNREADABLE


def custody_failure(path: Path, sha256: str, reference: Reference) -> int | None:
    """Read a file whole and compare it; returns None where it is as it came, else the Failure Reason.

    Parameters
    ----------
    sha256
        Of the dataset's bytes, without the file meta information.
    """
    try:
        meta = read_file_meta_info(path)
        with path.open("rb") as file:
            file.seek(BEFORE_META_BYTES + int(meta.FileMetaInformationGroupLength))
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except UNREADABLE:
        return PROCESSING_FAILURE
    if found != sha256:
        return PROCESSING_FAILURE
    if meta.MediaStorageSOPClassUID != reference.sop_class_uid:
        return CLASS_CONFLICT
    return None
