"""Classes of the reasons for which series and jobs are held: few and fixed, so that they can be counted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from contourd.commands import command
from contourd.jobs.job import JOBS_STOPPED

# The first that is found in a reason gives its class.
CLASSES: tuple[tuple[str, str], ...] = (
    ("refused", r"^(an image|\d+ images) of the series (was|were) refused"),
    ("sent_twice", r"^(an image|\d+ images) (was|were) sent twice"),
    ("missing_slices", r"^missing slices|fewer than the \d+ that"),
    ("interrupted", r"^the sender aborted|^contourd was ended"),
    ("confirmation", r"^waits for confirmation"),
    ("by_a_person", r"^(held|cancelled) by "),
    ("unknown_sender", r"^the sender of the series is not known"),
    ("sent_twice", r"^an image is there twice"),
    ("no_route", r"^no route"),
    ("outside_limits", r"^the series is outside the limits"),
    ("not_head_and_neck", r"does not look like a head and neck|^no patient found|of the head lie beside"),
    ("implausible", r"^every organ that was found is withheld|^no organ was found"),
    ("read_back", r"reads back|^rt-utils|come from nowhere"),
    ("device", r"^the device could|^worker\.(device|precision|runtime)|^OpenVINO|does not give the masks of"),
    ("device", r"^the volume needs about"),
    ("out_of_memory", r"^out of memory"),
    ("images_gone", r"received images|^only \d+ of the \d+ images came again"),
    ("worker_died", r"^the worker died|^the job broke its worker"),
    ("model", r"^no model|is not a model of this version|is damaged: its sha256|is not the model that was activated"),
    ("model", r"in no pair of it|is not here:|^the job was contoured with|weights do not fit model|holds weights that"),
    ("not_decoded", r"cannot be decoded"),
    ("not_a_ct", r"^modality|is a localizer"),
)
OTHER = "series_unusable"
NAMES = (*dict.fromkeys(name for name, _ in CLASSES), OTHER)
ONE_UID = "one SOP Instance UID stands on several slices"
AGAIN = "Release it afterwards: it is examined again."
# What a person does about each class; docs/operating.md says the same.
REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "refused": "Mend what the reason names (the disk, the database, the images), and send the series again: it "
        "goes on by itself when those very images came. Only if it is whole without them, release it with a reason.",
        "unknown_sender": "Send the series again from its sender: what is here is kept once, and it goes on by itself.",
        "missing_slices": "Send the whole series again from the scanner or the PACS. What came is kept, and it goes on "
        "by itself; a release alone cannot help, the gap would be held again.",
        "interrupted": "Look whether this is all that was scanned. If it is, release it; else send the series again.",
        "confirmation": "Look at the pictures, then confirm.",
        "by_a_person": "Ask that person; a retry of the job, or a release of the series, lets it go on.",
        "sent_twice": "Look at the sender: two images have one UID. If the newer ones are a correction, have all of "
        "the series sent again and take it (replace). Do not treat on either before you know.",
        "no_route": f"Add or widen a [[route]] in the settings, and restart contourd. {AGAIN}",
        "outside_limits": "Whoever answers for it retries it with a reason, which the structure set will hold.",
        "not_head_and_neck": "Look at what was scanned. If it is a head and neck all the same, retry it with a reason.",
        "implausible": "Look at the CT and at the reasons; see [plausibility] in the settings.",
        "read_back": "Nothing was sent. Keep the series, and report it.",
        "out_of_memory": "Raise worker.memory_gb and restart contourd, or send thicker slices. Then retry it.",
        "device": "Nothing is wrong with the series. Look at the device, at its driver, and at worker.device in the "
        "settings. Then retry it.",
        "images_gone": "Send the whole series again: what is damaged is replaced, and it is contoured.",
        "worker_died": "Look at the log. Retry it when the cause is mended.",
        "model": "As the reason says: take the last activation back, or activate the bundle again. Then retry it.",
        "not_decoded": "Send it uncompressed. If that is not decoded either, it is damaged at its source: reconstruct "
        "or export it anew. Where the reason says so, install the decoders: pip install 'contourd[codecs]'.",
        "not_a_ct": "Nothing, if it was sent by mistake; else send the planning CT.",
        OTHER: "The reason says what to send instead. A release alone cannot help where the images stay as they are.",
    }
)


def class_of(reason: str) -> str:
    """Return the class of a reason; one that no pattern knows is about the series itself."""
    return next((name for name, pattern in CLASSES if re.search(pattern, reason)), OTHER)


def advice_of(job: int, state: str, reason: str) -> str:
    """Return the command that lets a held or failed job go on, as it can be typed; empty for another state.

    A job that the model was not made for, or that shows no head and neck, is held again unless a person answers for it.
    """
    if state not in JOBS_STOPPED:
        return ""
    kind = class_of(reason)
    if kind == "confirmation":
        return command("confirm", job)
    if kind in ("outside_limits", "not_head_and_neck"):
        return command("retry", job, "--override", "REASON")
    return command("retry", job)


def advice_of_series(series: int, reason: str) -> str:
    """Return the command that lets a held series go on, as it can be typed; empty where only its sender can do that."""
    kind = class_of(reason)
    if kind == "unknown_sender" or reason.startswith(ONE_UID):
        return ""
    if kind == "sent_twice" and f" replace {series} " in reason:
        return command("replace", series, "--reason", "REASON")
    if kind in ("refused", "sent_twice"):
        return command("release", series, "--reason", "REASON")
    return command("release", series)


def remedy_of(reason: str) -> str:
    """Return what a person does about a reason; empty where there is none."""
    return REMEDIES[class_of(reason)] if reason else ""
