"""The order in which a running daemon asks the kernel for things, read from strace."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

TRACED = (
    "strace",
    "-f",
    "--seccomp-bpf",
    "-y",
    "-s",
    "96",  # of what is sent: as far as the command field, see below
    "-e",
    "trace=fsync,fdatasync,rename,renameat,renameat2,sendto",
)
# "123 fsync(7</spool/partial/ab>) = 0"; a call that another thread cuts in two is joined below.
CALL = re.compile(r"^\d+\s+(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
UNFINISHED = re.compile(r"^(?P<thread>\d+)\s+(?P<begun>.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(?P<thread>\d+)\s+<\.\.\. \w+ resumed>(?P<rest>.*)$")
PATH_OF_DESCRIPTOR = re.compile(r"^\d+<(?P<path>[^>]*)>")
NAMES = re.compile(r'"(?P<name>[^"]*)"')
SENT = re.compile(r'^\d+<[^>]*>, "(?P<content>(?:[^"\\]|\\.)*)"')
P_DATA = b"\x04"  # the first byte of the PDU that carries a message (DICOM PS3.8 9.3.5)
# A C-ECHO and its answer promise nothing, and the node calls itself by them whenever it likes. PS3.7 9.3.5: the whole
# command, after the heads of the PDU and of its item (PS3.8 9.3.5, E.2): its length, its class, its command field, and
# three more elements, or four.
ECHO = re.compile(
    rb"\x04.{10}\x03"
    rb"\x00{4}\x04\x00{3}.{4}"
    rb"\x00\x00\x02\x00\x12\x00{3}1\.2\.840\.10008\.1\.1\x00"
    rb"\x00\x00\x00\x01\x02\x00{3}\x30[\x00\x80](?:.{20}|.{30})",
    re.DOTALL,
)


@dataclass(frozen=True)
class Call:
    """One call that succeeded: ``fsync`` (or fdatasync) of a path, ``rename`` to a path, or ``message`` sent, which is
    any but a C-ECHO.
    """

    name: str
    path: str = ""


def calls(trace: str) -> Iterator[Call]:
    """Read the calls in the order in which they ended."""
    begun: dict[str, str] = {}
    for line in trace.splitlines():
        text = line
        if cut := UNFINISHED.match(line):
            begun[cut["thread"]] = cut["begun"]
            continue
        if rest := RESUMED.match(line):
            text = f"{rest['thread']} {begun.pop(rest['thread'], '')}{rest['rest']}"
        call = CALL.match(text)
        if call is None or int(call["result"]) < 0:
            continue
        name, arguments = call["name"], call["arguments"]
        if name == "sendto":
            if is_message(arguments):
                yield Call("message")
        elif name.startswith("rename"):
            yield Call("rename", NAMES.findall(arguments)[-1])
        elif descriptor := PATH_OF_DESCRIPTOR.match(arguments):
            yield Call("fsync", descriptor["path"])


def is_message(arguments: str) -> bool:
    """Say whether a sendto sends (a part of) a message, which is anything that a P-DATA-TF carries but a C-ECHO."""
    sent = SENT.match(arguments)
    if sent is None:
        return False
    content = sent["content"].encode("ascii").decode("unicode_escape").encode("latin-1")
    return content.startswith(P_DATA) and ECHO.fullmatch(content) is None


def before_each_message(made: Sequence[Call]) -> list[list[Call]]:
    """Split the calls at the messages that were sent; what comes after the last is left out."""
    parts: list[list[Call]] = [[]]
    for call in made:
        if call.name == "message":
            parts.append([])
        else:
            parts[-1].append(call)
    return parts[:-1]


def durable(made: Sequence[Call], folder: str) -> bool:
    """Say whether a file was written, fsynced, renamed into a folder, the folder fsynced, and the queue committed."""
    steps = (
        ("fsync", r".*/partial/\w+"),
        ("rename", rf".*/{folder}/[\w-]+\.dcm"),
        ("fsync", rf".*/{folder}"),
        ("fsync", r".*/contourd\.sqlite-wal"),
    )
    at = 0
    for name, path in steps:
        at = next((i + 1 for i in range(at, len(made)) if made[i].name == name and re.fullmatch(path, made[i].path)), 0)
        if not at:
            return False
    return True
