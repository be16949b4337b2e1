"""The page's connections: each must come to something in its time, and a crowd of them keeps nobody out.

uvicorn waits for ever for a request, and beyond its limit refuses whoever comes. Here a connection that rests gives its
place to the next one, each address has its share, and some places are kept for health and figures alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from contourd.system.addresses import Network, lies_in

# Connections of all, of one address that is no proxy, and those beyond for HEALTH alone.
MOST = 100
MOST_OF_ONE = 40
MOST_FOR_HEALTH = 20
HEALTH = ("/healthz", "/readyz", "/metrics")


class Phase(StrEnum):
    """What a connection is about."""

    IDLE = "idle"
    HEADER = "header"
    BODY = "body"
    ANSWER = "answer"
    STALLED = "stalled"  # the peer does not read
    CLOSING = "closing"


# How long each may last; the header and the body of a form are short.
LONGEST_S: Mapping[Phase, float] = MappingProxyType(
    {
        Phase.IDLE: 25.0,
        Phase.HEADER: 10.0,
        Phase.BODY: 10.0,
        Phase.ANSWER: 300.0,
        Phase.STALLED: 60.0,
        Phase.CLOSING: 10.0,
    }
)


class ConnectionRegistry:
    """Who is connected. Used by the server's one thread.

    Parameters
    ----------
    proxies
        Networks whose connections are those of many people: none of them has a share of one address.
    """

    def __init__(self, proxies: Sequence[Network]) -> None:
        self._proxies = proxies
        self._here: dict[PageConnection, str] = {}

    def enter(self, connection: PageConnection, address: str) -> bool | None:
        """Give a connection a place, or one for health alone (False), or none (None)."""
        own = [one for one, whose in self._here.items() if whose == address]
        if len(own) >= MOST_OF_ONE and not self._is_proxy(address) and not _let_go(own):
            return self._spare(connection, address)
        if len(self._here) >= MOST and not _let_go(self._here):
            return self._spare(connection, address)
        self._here[connection] = address
        return True

    def _spare(self, connection: PageConnection, address: str) -> bool | None:
        if len(self._here) >= MOST + MOST_FOR_HEALTH:
            return None
        self._here[connection] = address
        return False

    def leave(self, connection: PageConnection) -> None:
        """Take a place back."""
        self._here.pop(connection, None)

    def _is_proxy(self, address: str) -> bool:
        try:
            return lies_in(address, self._proxies)
        except ValueError:  # a socket of the file system has no address
            return False


def _let_go(connections: Iterable[PageConnection]) -> bool:
    """End the connection that rests for the longest; says whether there was one."""
    resting = [one for one in connections if one.phase is not Phase.ANSWER]
    if not resting:
        return False
    min(resting, key=lambda one: one.since).end()
    return True


class PageConnection(H11Protocol):
    """One connection, and how long it may go on with what it is about.

    Parameters
    ----------
    crowd
        To which it belongs.
    """

    def __init__(self, crowd: ConnectionRegistry, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._crowd = crowd
        self._about: object = None
        self._limit: asyncio.TimerHandle | None = None
        self.phase = Phase.HEADER
        self.since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, where there is a place."""
        super().connection_made(transport)
        place = self._crowd.enter(self, self.client[0] if self.client else "")
        if place is None:
            transport.abort()
            return
        if not place:
            self.app: Any = _HealthAlone(self.app)
        self._begin(Phase.HEADER, None)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._crowd.leave(self)
        if self._limit is not None:
            self._limit.cancel()
        super().connection_lost(exc)

    def data_received(self, content: bytes) -> None:
        """Take what the peer sent."""
        if self.phase is Phase.IDLE:
            self._begin(Phase.HEADER, self.cycle)
        try:
            super().data_received(content)
        except h11.LocalProtocolError:  # uvicorn refuses what comes behind the last request, while that one is answered
            self.transport.abort()
            return
        self._follow()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """Pause the answer for a peer that does not read."""
        super().pause_writing()
        self._begin(Phase.STALLED, self.cycle)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        super().resume_writing()
        self._begin(self._now_about(), self.cycle)

    def _follow(self) -> None:
        """See what the connection is about now; the time of what it was about already goes on."""
        if self.phase is Phase.STALLED:
            return
        phase, cycle = self._now_about(), self.cycle
        if (phase, cycle) != (self.phase, self._about):
            self._begin(phase, cycle)

    def _now_about(self) -> Phase:
        if self.transport.is_closing():
            return Phase.CLOSING
        if self.cycle is None:
            return Phase.HEADER
        if self.conn.their_state is h11.SEND_BODY:  # also that of a request which was answered already
            return Phase.BODY
        if not self.cycle.response_complete:
            return Phase.ANSWER
        return Phase.HEADER if self.phase is Phase.HEADER and self._about is self.cycle else Phase.IDLE

    def _begin(self, phase: Phase, about: object) -> None:
        self.phase, self._about, self.since = phase, about, time.monotonic()
        if self._limit is not None:
            self._limit.cancel()
        self._limit = self.loop.call_later(LONGEST_S[phase], self.end)

    def end(self) -> None:
        """Cut the connection off, whatever is still to be sent."""
        self._crowd.leave(self)
        self.transport.abort()


class _HealthAlone:
    """Answers for health and figures, and to all else that there are too many."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] in HEALTH:
            await self._app(scope, receive, send)
            return
        headers = {"Connection": "close", "Retry-After": "5"}
        await PlainTextResponse("too many connections; try again\n", 503, headers)(scope, receive, send)
