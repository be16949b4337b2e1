"""A conversation with a server that may drip or never end: so many seconds and so many bytes in all."""

from __future__ import annotations

import io
import smtplib
import socket
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

# More than the replies to a mail, or the head of a reply to a webhook, ever are.
MOST_BYTES = 256 * 1024
LONGEST_LINE_BYTES = 8192
# RFC 9112, 4: the status line; RFC 9110, 15.2: those of 1xx are not final.
PROTOCOL, INTERIM = b"HTTP/1.", range(100, 200)
OK = range(200, 300)


class Budget:
    """What is left of the time and the bytes of one conversation."""

    def __init__(self, seconds: float, most_bytes: int = MOST_BYTES) -> None:
        self._seconds, self._until = seconds, time.monotonic() + seconds
        self._bytes = self._most_bytes = most_bytes

    def left_s(self) -> float:
        """Return the seconds that are left.

        Raises
        ------
        TimeoutError
            None are.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"it did not come to an end within {self._seconds:g} s")
        return left

    def spend(self, count: int) -> None:
        """Record bytes that came.

        Raises
        ------
        OSError
            They are too many.
        """
        self._bytes -= count
        if self._bytes < 0:
            raise OSError(f"it answered with more than {self._most_bytes} bytes")

    def reader(self, connection: socket.socket) -> io.BufferedReader:
        """Read what comes by a connection, within the budget."""
        return io.BufferedReader(_Reader(connection, self))


class _Reader(io.RawIOBase):
    def __init__(self, connection: socket.socket, budget: Budget) -> None:
        self._connection = connection
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._connection.settimeout(self._budget.left_s())
        try:
            count = self._connection.recv_into(buffer)
        except TimeoutError:
            self._budget.left_s()
            raise
        self._budget.spend(count)
        return count


class BudgetedSMTP(smtplib.SMTP):
    """A mail server whose replies keep to a budget."""

    def __init__(self, budget: Budget, *arguments: Any, **named: Any) -> None:
        self._budget = budget
        super().__init__(*arguments, **named)

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply."""
        if self.file is None and self.sock is not None:
            self.file = self._budget.reader(self.sock)
        return super().getreply()

    def send(self, s: Any) -> None:
        """Send a command."""
        if self.sock:
            self.sock.settimeout(self._budget.left_s())
        super().send(s)


class BudgetedSMTPS(BudgetedSMTP, smtplib.SMTP_SSL):
    """The same by TLS from the beginning."""


def post(connect: Callable[[float], HTTPConnection], path: str, content: bytes, budget: Budget) -> int:
    """Post JSON and return the status of the answer, whose rest is not read: nothing in it is followed.

    Parameters
    ----------
    connect
        Makes a connection that is not open, with a time-out.

    Raises
    ------
    OSError
        The server cannot be reached, or does not answer within the budget.
    ValueError
        It answers with what is no HTTP.
    """
    connection = connect(budget.left_s())
    try:
        connection.connect()
        connection.sock.settimeout(budget.left_s())
        headers = {"Content-Type": "application/json", "User-Agent": "contourd", "Connection": "close"}
        connection.request("POST", path, content, headers)
        reader = budget.reader(connection.sock)
        while True:
            status = _status(reader.readline(LONGEST_LINE_BYTES))
            if status not in INTERIM:
                return status
            while reader.readline(LONGEST_LINE_BYTES).strip():
                pass
    finally:
        connection.close()


def _status(line: bytes) -> int:
    words = line.split(None, 2)
    whole = line.endswith(b"\n") and len(words) > 1
    if not whole or not words[0].startswith(PROTOCOL) or len(words[1]) != 3 or not words[1].isdigit():
        raise ValueError("it answered with what is no HTTP" if line else "it closed the connection without an answer")
    return int(words[1])
