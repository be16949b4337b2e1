"""One record, one line, whatever a peer put into it."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator

import pytest

from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.settings import Destination
from contourd.system.logs import LineFormatter, guard_standard_error, one_line, set_up_logging
from tests.peers import LOOPBACK, free_port

FORGED = "X\n2026-01-01 00:00:00,000 ERROR forged\r\x1b[2J\x1b]0;owned\x07\u202e\u2028\x85\x00"


@pytest.fixture
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    hooks = (warnings.showwarning, sys.excepthook, threading.excepthook, sys.unraisablehook)
    yield
    warnings.showwarning, sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    root.handlers[:], root.level = before


def formatted(message: str, *arguments: object, **extra: object) -> str:
    record = logging.LogRecord("n", logging.INFO, "p", 1, message, arguments, None)
    record.__dict__.update(extra)
    return LineFormatter("%(asctime)s %(levelname)s %(message)s").format(record)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("患者 é", "患者 é"),
        ("a\nb", "a\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\u202eabc", "\\u202eabc"),
        ("\ud800", "\\ud800"),
        ("x" * 20, "xxxxxxx..."),
    ],
)
def test_text_from_outside(text: str, shown: str) -> None:
    assert one_line(text, 10 if text.startswith("xx") else 100) == shown


@pytest.mark.parametrize("where", ["calling_ae", "peer", "destination"])
def test_an_extra_cannot_forge_a_record(where: str) -> None:
    line = formatted("association accepted", action="accept", **{where: FORGED})
    assert line.isprintable()
    assert "\\n2026-01-01" in line


def test_a_message_cannot_forge_a_record() -> None:
    assert formatted("refused: %s", FORGED).isprintable()


def test_a_traceback_cannot_forge_a_record() -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        record = logging.LogRecord("n", logging.ERROR, "p", 1, "it failed", (), sys.exc_info())
    first, *rest = LineFormatter("%(asctime)s %(levelname)s %(message)s").format(record).split("\n")
    assert first.endswith("ERROR it failed")
    assert len(rest) > 2
    assert all(line.startswith("  ") and line.isprintable() for line in rest)


@pytest.mark.usefixtures("restored")
def test_what_a_library_quotes_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Pydicom quotes what it reads in its warnings and in its log."""
    set_up_logging()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        guard_standard_error()
        warnings.warn(FORGED, stacklevel=1)
    logging.getLogger("pydicom").error(FORGED)
    logging.getLogger("contourd.x").warning("kept")
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("UserWarning at ")
    assert "pydicom has a remark at " in second
    assert third.endswith("WARNING kept")
    assert all("owned" not in line and line.isprintable() for line in (first, second, third))


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # left to the garbage collector by pynetdicom
@pytest.mark.usefixtures("restored")
def test_a_peer_that_is_down_is_no_error_of_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    """ERROR is for what a person must do; an outage is told of once, by the node itself."""
    set_up_logging()
    peer = Destination(name="pacs", ae_title="PACS", host=LOOPBACK, port=free_port())
    assert StorageSCU("CONTOURD").echo(peer).kind is OutcomeKind.UNREACHABLE
    assert "ERROR" not in capsys.readouterr().err
