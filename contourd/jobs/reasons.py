"""Classes of the reasons for which series and jobs are held: few and fixed, so that they can be counted."""

from __future__ import annotations

import re

# The first that is found in a reason gives its class.
CLASSES: tuple[tuple[str, str], ...] = (
    ("missing_slices", r"^missing slices|fewer than the \d+ that"),
    ("interrupted", r"^the sender aborted"),
    ("confirmation", r"^waits for confirmation"),
    ("by_a_person", r"^held by "),
    ("sent_twice", r"^an image was sent twice"),
    ("no_route", r"^no route"),
    ("outside_limits", r"^the series is outside the limits"),
    ("not_head_and_neck", r"does not look like a head and neck|^no patient found"),
    ("implausible", r"^every organ that was found is withheld|^no organ was found"),
    ("read_back", r"reads back|^rt-utils"),
    ("worker_died", r"^the worker died|^the job broke its worker"),
    ("model", r"^no model|is not a model of this version|is damaged: its sha256"),
    ("not_decoded", r"cannot be decoded"),
    ("not_a_ct", r"^modality|is a localizer"),
)
OTHER = "series_unusable"
NAMES = (*(name for name, _ in CLASSES), OTHER)


def class_of(reason: str) -> str:
    """Return the class of a reason; one that no pattern knows is about the series itself."""
    return next((name for name, pattern in CLASSES if re.search(pattern, reason)), OTHER)
