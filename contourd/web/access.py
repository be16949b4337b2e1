"""Who may act: the token, sessions, and a brake on guessing.

A session is a random number in a cookie that scripts cannot read; everything else of it stays here, in memory.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from contourd.errors import SettingsError
from contourd.system.regular_files import read_regular

SHORTEST_TOKEN = 16
SESSION_S = 12 * 3600.0
MOST_SESSIONS = 200
TRIES = 5
TRIES_S = 60.0
TRIES_OF_ALL = 60
LONGEST_NAME = 48


class SignInRefused(Exception):
    """The token or the name is wrong, or there were too many tries; ``wait_s`` tells the last."""

    def __init__(self, message: str, wait_s: int = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A person who gave the token.

    Attributes
    ----------
    actor
        The name that the audit trail keeps.
    csrf
        What a form must send back, so that no other site can post it.
    """

    actor: str
    csrf: str
    until: float


class Access:
    """Sessions of one token.

    Parameters
    ----------
    token
        None: nobody can sign in, the page is read-only.
    """

    def __init__(self, token: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._now = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, SignedIn] = {}
        self._failures: deque[tuple[float, str]] = deque(maxlen=1000)

    @property
    def can_sign_in(self) -> bool:
        """Whether there is a token at all."""
        return self._token is not None

    def sign_in(self, client: str, name: str, token: str) -> str:
        """Return the number of a new session.

        Raises
        ------
        SignInRefused
            In words for the person who tries.
        """
        with self._lock:
            self._brake(client)
            known = hmac.compare_digest(token.strip().encode(), (self._token or "").encode())
            if self._token is None or not known:
                self._failures.append((self._now(), client))
                raise SignInRefused("that is not the token")
            actor = " ".join(name.split())
            if not 0 < len(actor) <= LONGEST_NAME or not actor.isprintable():
                raise SignInRefused(f"give your name, at most {LONGEST_NAME} characters: it is kept with what you do")
            self._forget_old()
            number = secrets.token_urlsafe(32)
            self._sessions[number] = SignedIn(actor, secrets.token_urlsafe(32), self._now() + SESSION_S)
            return number

    def _brake(self, client: str) -> None:
        since = self._now() - TRIES_S
        recent = [(at, who) for at, who in self._failures if at > since]
        own = [at for at, who in recent if who == client]
        if len(own) >= TRIES or len(recent) >= TRIES_OF_ALL:
            wait_s = int(max(1.0, (own[-TRIES] if len(own) >= TRIES else recent[0][0]) - since)) + 1
            raise SignInRefused(f"too many tries; wait {wait_s} s", wait_s)

    def _forget_old(self) -> None:
        now = self._now()
        self._sessions = {number: s for number, s in self._sessions.items() if s.until > now}
        while len(self._sessions) >= MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))

    def signed_in(self, number: str | None) -> SignedIn | None:
        """Find a session by its number, None where there is none or its time is over."""
        with self._lock:
            found = self._sessions.get(number or "")
            return found if found is not None and found.until > self._now() else None

    def sign_out(self, number: str | None) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(number or "", None)


def read_token(path: Path | None) -> str | None:
    """Read the token's file, None where the settings name none.

    Raises
    ------
    SettingsError
        It cannot be read, others can read it, or the token is too short to be a secret.
    """
    if path is None:
        return None
    remedy = f"make it: (umask 077; openssl rand -hex 24 > {path})"
    try:
        token = read_regular(path).decode().strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "the configuration", [f"web.token_file: {path} cannot be read: {error}; {remedy}"]
        ) from error
    if mode & 0o077:
        raise SettingsError(
            "the configuration", [f"web.token_file: {path} can be read by others than its owner: chmod 600 {path}"]
        )
    if len(token) < SHORTEST_TOKEN:
        raise SettingsError(
            "the configuration", [f"web.token_file: {path} holds less than {SHORTEST_TOKEN} characters; {remedy}"]
        )
    return token
