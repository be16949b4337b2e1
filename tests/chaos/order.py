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
    "8",
    "-e",
    "trace=fsync,fdatasync,rename,renameat,renameat2,sendto",
)
# "123 fsync(7</spool/partial/ab>) = 0"; a call that another thread cuts in two is joined below.
CALL = re.compile(r"^\d+\s+(?P<name>\w+)\((?P<arguments>.*)\)\s+= (?P<result>-?\d+)")
UNFINISHED = re.compile(r"^(?P<thread>\d+)\s+(?P<begun>.*) <unfinished \.\.\.>$")
RESUMED = re.compile(r"^(?P<thread>\d+)\s+<\.\.\. \w+ resumed>(?P<rest>.*)$")
PATH_OF_DESCRIPTOR = re.compile(r"^\d+<(?P<path>[^>]*)>")
NAMES = re.compile(r'"(?P<name>[^"]*)"')
P_DATA = '"\\4'  # the first byte of the PDU that carries a message (DICOM PS3.8 9.3.5)


@dataclass(frozen=True)
class Call:
    """One call that succeeded: ``fsync`` (or fdatasync) of a path, ``rename`` to a path, or ``message`` sent."""

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
            if P_DATA in arguments:
                yield Call("message")
        elif name.startswith("rename"):
            yield Call("rename", NAMES.findall(arguments)[-1])
        elif descriptor := PATH_OF_DESCRIPTOR.match(arguments):
            yield Call("fsync", descriptor["path"])


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
