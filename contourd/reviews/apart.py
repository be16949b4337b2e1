"""Reading and comparing in a process of its own: low in priority, bounded in time and memory, and ended with the node.

It is given one request as JSON and answers with one object. What a peer sent may be made to take for ever.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from contourd.dicom.reading.instance import UNREADABLE
from contourd.errors import ContourdError, DatasetError, ReviewUnusable, SeriesUnusable
from contourd.imaging.written_grid import read_grid
from contourd.model.site_structures import extended_catalogue
from contourd.model.spellings import vocabulary_of
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.reviews.asking import LONGEST_S, MOST_BYTES, Plain, not_finished
from contourd.reviews.comparison import Draft, Names, compare
from contourd.reviews.reading import read_contents

LOWEST_PRIORITY = 19


def answer(request: Plain) -> dict[str, Any]:
    """Answer one request: ``{"read": path}``, or ``{"compare": {...}}`` as ``contourd.reviews.runner`` makes it.

    Raises
    ------
    ReviewUnusable
        What came back is refused.
    DatasetError
        Something else cannot be read.
    """
    if "read" in request:
        return {"contents": read_contents(Path(request["read"])).plain()}
    asked = request["compare"]
    draft = Draft(Path(asked["draft"]), asked["draft_names"], read_grid(asked["grid"]), asked["frame"])
    file = Path(asked["structures"]) if asked["structures"] else None
    names = Names(asked["names"], vocabulary_of(extended_catalogue(file)))
    return {"organs": [organ.plain() for organ in compare(Path(asked["reviewed"]), draft, names)]}


def refused(reason: Reason) -> dict[str, Any]:
    """Return the answer that refuses a request."""
    return {"refused": reason.plain()}


def answered(request: Plain) -> dict[str, Any]:
    """Answer one request; whatever keeps it from being answered is a reason."""
    try:
        return answer(request)
    except ReviewUnusable as error:
        return refused(error.reason)
    except MemoryError:
        return refused(not_finished(LONGEST_S).reason)
    except (*UNREADABLE, DatasetError, SeriesUnusable, ContourdError) as error:
        return refused(Reason.of(HoldReason.REVIEW_UNREADABLE, said=type(error).__name__))


def main() -> None:
    """Answer the request on standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    os.nice(LOWEST_PRIORITY)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        answers.write(json.dumps(answered(json.load(sys.stdin))).encode())


if __name__ == "__main__":
    main()
