"""No text that another library wrote reaches a log line or standard error: it may quote the patient."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import pytest

from contourd.errors import SeriesUnusable
from contourd.reasons.catalogue import HoldReason
from contourd.system.logs import LineFormatter, error_text, traceback_text

NAME = "DOE^JOHN"


def test_a_line_begins_with_the_time_and_its_offset_from_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("contourd", logging.INFO, "", 1, "done", (), None)
    seen = []
    for zone in ("Europe/Berlin", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        for created in (1792886400.25, 1792890000.25):  # 25 October 2026, 00:00 and 01:00 UTC: 02:00 comes twice
            record.created = created
            seen.append(LineFormatter("%(asctime)s %(message)s").format(record))
    monkeypatch.undo()
    time.tzset()
    assert seen == [
        "2026-10-25 02:00:00,250+0200 done",
        "2026-10-25 02:00:00,250+0100 done",
        "2026-10-25 00:00:00,250+0000 done",
        "2026-10-25 01:00:00,250+0000 done",
    ]


def raised(depth: int = 0) -> Exception:
    try:
        if depth:
            raise SeriesUnusable(HoldReason.NOT_DECODED, z_mm=1.0, said="DecodingError") from raised(depth - 1)
        raise ValueError(f"Invalid value for VR DA: {NAME!r}")
    except (ValueError, SeriesUnusable) as error:
        return error


def formatted(logger: str, message: object, *arguments: object, error: Exception | None = None, **extra: object) -> str:
    exc_info = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord(logger, logging.ERROR, "/lib/file.py", 7, message, arguments, exc_info)
    record.__dict__.update(extra)
    return LineFormatter("%(levelname)s %(message)s").format(record)


def test_kinds_and_texts():
    assert error_text(ValueError(NAME)) == "ValueError"
    assert error_text(SeriesUnusable(HoldReason.NO_IMAGES)) == "SeriesUnusable: the series has no images"
    assert error_text(OSError(28, "No space left on device", f"/{NAME}")) == "OSError: No space left on device"
    assert error_text(OSError(NAME)) == "OSError"


def test_a_traceback_tells_the_place_and_the_kinds_of_the_whole_chain():
    text = traceback_text(raised(depth=2))
    assert text.count("Traceback") == 3
    assert "SeriesUnusable: slice z = 1.00 mm cannot be decoded (DecodingError)" in text.splitlines()[-1]
    assert "\nValueError\n" in text
    assert "test_logs.py" in text
    assert NAME not in text


def test_an_error_that_is_its_own_cause_ends():
    error = ValueError(NAME)
    error.__cause__ = error
    assert traceback_text(error).count("ValueError") == 1


def test_lines():
    assert formatted("contourd.x", "stored %d", 3, job=7, peer="10.0.0.1") == "ERROR stored 3 job=7 peer=10.0.0.1"
    assert formatted("contourd.x", "accepted", calling_ae="CT\n1") == "ERROR accepted calling_ae=CT\\n1"
    line = formatted("contourd.x", "the job failed", error=raised(), job=7)
    assert line.startswith("ERROR the job failed job=7\n  Traceback")
    assert line.endswith("\n  ValueError")
    assert formatted("pynetdicom.events", raised()) == "ERROR pynetdicom.events: ValueError"
    assert formatted("pydicom.filereader", f"odd value {NAME}") == "ERROR pydicom.filereader has a remark at file.py:7"


def test_the_text_that_another_handler_made_is_not_used():
    error = raised()
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "m", (), (type(error), error, error.__traceback__))
    assert NAME in logging.Formatter().format(record)  # and is kept in the record
    assert NAME not in LineFormatter().format(record)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import warnings; warnings.warn('DOE^JOHN')", "UserWarning at <string>:4"),
        ("import logging; logging.getLogger('a').exception('m', exc_info=ValueError('DOE^JOHN'))", "ValueError"),
        ("raise ValueError('DOE^JOHN')", 'File "<string>", line 4'),
        (
            "import threading; t = threading.Thread(target=int, args=('DOE^JOHN',)); t.start(); t.join()",
            "ValueError",
        ),
        ("class C:\n def __del__(self): raise ValueError('DOE^JOHN')\nC()", "ignored: ValueError"),
    ],
    ids=["warning", "log", "uncaught", "thread", "unraisable"],
)
def test_standard_error(code, told):
    begin = "from contourd.system.logs import set_up_logging\nset_up_logging()\n\n"
    ran = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, check=False, timeout=60)
    assert told in ran.stderr
    assert NAME not in ran.stderr.replace(code, "")
