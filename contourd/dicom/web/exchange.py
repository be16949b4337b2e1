"""One request of HTTP and its whole answer, bounded in time and size; nothing is followed and nothing is trusted."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contourd.dicom.network.outcomes import Outcome, OutcomeKind
from contourd.dicom.network.tls import calling_context
from contourd.dicom.web.answers import MOST_BYTES
from contourd.errors import NodeError
from contourd.settings import Destination, DestinationTLS
from contourd.system.regular_files import read_regular

if TYPE_CHECKING:
    import httpx

BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_TOKEN = 64 * 1024
# A line on which a large segmentation takes minutes is given them.
SLOWEST_BYTES_S = 125_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What came: status, and the body whole."""

    status: int
    content: bytes


class WebCalls:
    """The requests under way, which can be broken off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()

    def hang_up(self) -> None:
        """Break off whatever is under way."""
        with self._lock:
            sockets = list(self._open)
        for one in sockets:
            _shut(one)

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[Any]:
        """Give what is told of the connection; it is cut off after so long, however slowly the other side speaks."""
        mine: set[socket.socket] = set()

        def told(event: str, about: Mapping[str, Any]) -> None:
            if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
                found = about["return_value"].get_extra_info("socket")
                with self._lock:
                    mine.add(found)
                    self._open.add(found)

        def cut() -> None:
            with self._lock:
                sockets = list(mine)
            for one in sockets:
                _shut(one)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield told
        finally:
            timer.cancel()
            with self._lock:
                self._open -= mine

    def ask(
        self,
        destination: Destination,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        most: int = MOST_BYTES,
    ) -> Answer | Outcome:
        """Send one request; what gives no answer that can be looked at is an outcome, never an exception.

        Parameters
        ----------
        most
            Bytes of an answer that are read.
        """
        try:
            import httpx
        except ImportError:
            return Outcome(OutcomeKind.REFUSED, "httpx is not installed; install contourd[stow]")
        where = named(destination)
        sending_s = len(content) / SLOWEST_BYTES_S
        longest_s = destination.connect_timeout_s + destination.response_timeout_s + sending_s
        limits = httpx.Timeout(destination.response_timeout_s, connect=destination.connect_timeout_s)
        try:
            with (
                self._bounded(longest_s) as told,
                httpx.Client(verify=_context(destination), trust_env=False, timeout=limits) as client,
            ):
                request = client.build_request(
                    method,
                    f"{destination.url.rstrip('/')}/{path}",
                    headers={**headers, **_authorization(destination), "Accept-Encoding": "identity"},
                    content=content,
                    extensions={"trace": told, "timeout": limits.as_dict()},
                )
                response = client.send(request, stream=True, follow_redirects=False)
                return _read(response, where, most)
        except NodeError as error:  # its certificates or its token cannot be used
            return Outcome(OutcomeKind.UNREACHABLE, str(error))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            return Outcome(OutcomeKind.UNREACHABLE, f"{where} cannot be reached ({_kind(error)})")
        except httpx.RemoteProtocolError:
            return Outcome(OutcomeKind.IMPROPER, f"{where} broke off, or does not speak HTTP by its rules")
        except (httpx.HTTPError, OSError) as error:
            return Outcome(OutcomeKind.RETRY, f"{where} did not answer in time, or broke off ({type(error).__name__})")


def named(destination: Destination) -> str:
    """Name a destination in words."""
    return f"{destination.name} ({destination.url})"


def _read(response: httpx.Response, where: str, most: int) -> Answer | Outcome:
    """Read the body whole, and look at the status where that says all."""
    status = response.status_code
    if response.is_redirect or 300 <= status < 400:
        return Outcome(OutcomeKind.REFUSED, f"{where} sends elsewhere ({status}), which is not followed")
    body = bytearray()
    for part in response.iter_raw():
        body += part
        if len(body) > most:
            return Outcome(OutcomeKind.IMPROPER, f"{where} answered {status} with more than is read")
    if status in (401, 403):
        return Outcome(OutcomeKind.REFUSED, f"{where} does not let contourd in ({status}): look at its token")
    if status in BUSY:
        after_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return Outcome(OutcomeKind.RETRY, f"{where} cannot take it now ({status})", after_s=after_s)
    return Answer(status, bytes(body))


def _retry_after_s(value: str) -> float:
    """Return the seconds that a server asks for; a date, as anything else, is none: clocks differ."""
    return float(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0.0


def _context(destination: Destination) -> ssl.SSLContext:
    return calling_context(destination.tls or DestinationTLS(), destination.name)


def _authorization(destination: Destination) -> dict[str, str]:
    """Read the token each time: it may be replaced while contourd runs."""
    if destination.token_file is None:
        return {}
    try:
        token = read_regular(destination.token_file)[:LONGEST_TOKEN].decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise NodeError(
            f"destination {destination.name}: token_file cannot be read ({type(error).__name__})"
        ) from error
    if not token or not token.isprintable() or " " in token:
        raise NodeError(f"destination {destination.name}: token_file does not hold one token")
    return {"Authorization": f"Bearer {token}"}


def _kind(error: Exception) -> str:
    """Say what kind of error it was, without a text of the other side's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS did not come about"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
