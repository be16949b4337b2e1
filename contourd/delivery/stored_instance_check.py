"""Whether a received instance is still on the disk as it came."""

from __future__ import annotations

from pathlib import Path

from pydicom.filereader import read_file_meta_info

from contourd.dicom.network.commitment_messages import CLASS_CONFLICT, PROCESSING_FAILURE, InstanceReference
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.dicom.reading.instance import UNREADABLE


def stored_instance_failure(path: Path, sha256: str, reference: InstanceReference) -> int | None:
    """Read a file whole and compare it; returns None where it is as it came, else the Failure Reason.

    Parameters
    ----------
    sha256
        Of the dataset's bytes, without the file meta information.
    """
    if stored_sha256(path) != sha256:
        return PROCESSING_FAILURE
    try:
        meta = read_file_meta_info(path)
    except UNREADABLE:
        return PROCESSING_FAILURE
    if meta.MediaStorageSOPClassUID != reference.sop_class_uid:
        return CLASS_CONFLICT
    return None
