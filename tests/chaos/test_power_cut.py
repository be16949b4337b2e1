"""What a power cut would take: nothing is answered, and nothing sent, before the kernel was told to make it durable.

SIGKILL leaves the kernel's memory alive; so the order of the daemon's own calls is what shows that a power cut loses
nothing either. Disks that say that they have written and have not are outside of any program's reach.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.bright import phantom
from tests.chaos.order import TRACED, Call, before_each_message, calls, durable
from tests.chaos.peers import Acknowledged, Destination, send
from tests.interop.node import CONTOURD, write_configuration
from tests.peers import free_port, require, wait_for_port

INCOMING, OUTGOING = r"incoming/\d{8}", "outgoing"
IN_ORDER = [
    Call("fsync", "/spool/partial/ab"),
    Call("rename", "/spool/outgoing/1.dcm"),
    Call("fsync", "/spool/outgoing"),
    Call("fsync", "/spool/contourd.sqlite-wal"),
]


@pytest.mark.peers
def test_nothing_is_answered_or_sent_before_it_is_durable(tmp_path: Path, bright_bundle: Path) -> None:
    require("strace")
    images = sorted(write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("p", "P^Test")).iterdir())
    trace, log, port = tmp_path / "trace", tmp_path / "log", free_port()
    destination, acknowledged = Destination("pacs"), Acknowledged()
    names = {destination.name: (destination.ae_title, destination.port)}
    configuration = write_configuration(tmp_path / "node", port, bright_bundle, names)
    command = [*TRACED, "-o", str(trace), *CONTOURD, "serve", "--config", str(configuration)]
    try:
        with log.open("wb") as out:
            server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            wait_for_port(port, server, log)
            send(images, port, acknowledged)
            deadline = time.monotonic() + 120
            while not destination.copies and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            for daemon in psutil.Process(server.pid).children():
                daemon.terminate()
            assert server.wait(60) == 0, log.read_text()
    finally:
        destination.stop()
    assert len(acknowledged.digests) == len(images)
    assert len(destination.copies) == 1
    answers = before_each_message(list(calls(trace.read_text())))
    received, sent = answers[: len(images)], answers[len(images)]
    assert [durable(made, INCOMING) for made in received] == [True] * len(images)
    assert durable(sent, OUTGOING)
    assert Call("fsync", str(tmp_path / "node")) in received[0]  # the new spool's own name


@pytest.mark.parametrize("missing", range(len(IN_ORDER)))
def test_a_missing_or_exchanged_step_is_seen(missing: int) -> None:
    assert durable(IN_ORDER, OUTGOING)
    assert not durable([call for i, call in enumerate(IN_ORDER) if i != missing], OUTGOING)
    assert not durable(IN_ORDER[::-1], OUTGOING)
    assert not durable(IN_ORDER, INCOMING)


def test_calls_that_threads_cut_in_two_are_joined() -> None:
    trace = (
        "7 fsync(3</spool/partial/ab> <unfinished ...>\n"
        '8 sendto(9<socket:[1]>, "\\4\\0\\0"..., 150, 0, NULL, 0) = 150\n'
        "7 <... fsync resumed>) = 0\n"
        '7 rename("/spool/partial/ab", "/spool/outgoing/1.dcm") = 0\n'
        '8 sendto(9<socket:[1]>, "\\2\\0\\0"..., 208, 0, NULL, 0) = 208\n'
        "7 fdatasync(5</spool/contourd.sqlite-wal>) = -1 EIO (Input/output error)\n"
    )
    expected = [Call("message"), Call("fsync", "/spool/partial/ab"), Call("rename", "/spool/outgoing/1.dcm")]
    assert list(calls(trace)) == expected


HEADS = r"\4\0\0\0\0J\0\0\0F\1\3\0\0\0\0\4\0\0\08\0\0\0\0\0\2\0"
ECHO = HEADS + r"\22\0\0\0001.2.840.10008.1.1\0\0\0\0\1\2\0\0\000"
REST = r"\0\0\20\1\2\0\0\0\1\0\0\0\0\10\2\0\0\0\1\1"
ANSWERED = r"\0\0 \1\2\0\0\0\1\0\0\0\0\10\2\0\0\0\1\1\0\0\0\t\2\0\0\0\0\0"
STORE = HEADS + r"\32\0\0\0001.2.840.10008.5.1.4.1.1.2\0\0\0\0\1\2\0\0\000"


@pytest.mark.parametrize(
    ("content", "messages"),
    [
        (ECHO + r"0\0" + REST, 0),
        (ECHO + r"0\200" + ANSWERED, 0),
        (ECHO + r"0\200" + ANSWERED + r"\0\0\0P\1\3", 1),  # and something more
        (ECHO + r"\1\200" + ANSWERED, 1),
        (STORE + r"\1\200" + ANSWERED, 1),
        (STORE + r"0\200" + ANSWERED, 1),
        (r"\4\0\0\0\1L\0\0\1H\1\2\\\"2.887", 1),  # a part of a data set
        (r"\6\0\0\0\0\4\0\0\0\0", 0),
    ],
)
def test_whatever_a_message_carries_counts_but_a_c_echo(content: str, messages: int) -> None:
    trace = f'8 sendto(9<socket:[1]>, "{content}"..., 150, 0, NULL, 0) = 150\n'
    assert list(calls(trace)) == [Call("message")] * messages
