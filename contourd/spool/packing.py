"""Many files of the spool in one object: a tar archive (POSIX.1-1988 ustar), which anybody can unpack.

An object for each slice has ruined others' deployments: stores count, list and bill by the object. A file is read by
its offset, without the rest; the names in the archive are the files' paths, so that the index can be made again.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping

from contourd.errors import StoreUnavailable
from contourd.spool.objects import StoredFile

BLOCK_BYTES = 512
# A series of more is packed into several.
MOST_BYTES = 256_000_000


def pack(name: str, files: Mapping[str, bytes]) -> tuple[bytes, list[StoredFile]]:
    """Pack files into an object.

    Parameters
    ----------
    name
        Of the object.
    files
        Path relative to the spool -> bytes.

    Returns
    -------
    The object's bytes, and where each file lies in it.
    """
    content, places = io.BytesIO(), []
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, file in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(file)
            member.mode = 0o600
            offset = content.tell() + BLOCK_BYTES
            archive.addfile(member, io.BytesIO(file))
            places.append(StoredFile(path, name, offset, len(file), hashlib.sha256(file).hexdigest()))
    return content.getvalue(), places


def unpack(name: str, content: bytes) -> Iterator[tuple[StoredFile, bytes]]:
    """Go through the files of an object; raises StoreUnavailable where it is none that ``pack`` made."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                file = content[member.offset_data : member.offset_data + member.size]
                place = StoredFile(member.name, name, member.offset_data, member.size, hashlib.sha256(file).hexdigest())
                yield place, file
    except tarfile.TarError as error:
        raise StoreUnavailable(f"the object {name} is no archive of the spool's files: {error}") from error
