"""The AE titles of an A-ASSOCIATE-RQ (DICOM PS3.8 9.3.2): what is none is told as that, and the association rejected.

pynetdicom breaks down on them, and tells nobody. Padding by NULs is taken for blanks.
"""

from __future__ import annotations

import re

# Behind type, reserved, length, protocol version and two reserved bytes.
CALLED = 10
CALLING = 26
LONGEST = 16
# Stands in the place of a title that is none, until the association is rejected.
UNTITLED = b"?"
# PS3.5 6.2, AE: no control characters, no backslash, not only blanks.
TITLE = re.compile(rb"[ -\[\]-~]+")


def correct_ae_titles(request: bytearray) -> str:
    """Correct both titles in their place; returns in words what is wrong with the calling one, empty where it is one.

    A called title that is none is left to be rejected as another's.
    """
    flaws = {}
    for at in (CALLED, CALLING):
        title = bytes(request[at : at + LONGEST]).strip(b"\0 ")
        flaws[at] = "" if TITLE.fullmatch(title) else "holds characters that are none" if title else "is empty"
        if len(request) >= at + LONGEST:
            request[at : at + LONGEST] = (UNTITLED if flaws[at] else title).ljust(LONGEST)
    return f"its calling AE title {flaws[CALLING]}" if flaws[CALLING] else ""
