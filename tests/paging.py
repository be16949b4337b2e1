"""The page served on loopback from a thread, and a plain client for it."""

from __future__ import annotations

import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from contourd.observe.pulse import Pulse
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.web.server import make_server
from contourd.web.site import Site
from tests.peers import LOOPBACK, free_port

TOKEN = "0123456789abcdef0123"
START_S = 60.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class PageClock:
    """Monotonic seconds, which a test may let run ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@dataclass
class Page:
    """A running page: its database and spool, and requests to it."""

    port: int
    settings: Settings
    database: Database
    spool: Spool
    pulse: Pulse
    clock: PageClock
    site: Site
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def ask(self, method: str, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=60)
        sent = {"Cookie": self.cookie} if self.cookie else {}
        if form is not None:
            sent["Content-Type"] = "application/x-www-form-urlencoded"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, urlencode(form) if form is not None else None, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        return self.ask("POST", path, form or {}, **headers)

    def sign_in(self, name: str = "Marie Curie") -> None:
        answer = self.post("/sign-in", {"name": name, "token": TOKEN})
        assert answer.status == 303, answer.text
        self.cookie = answer.headers["set-cookie"].split(";")[0]

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get("/").text)
        assert found is not None
        return found[1]

    def act(self, path: str, **form: str) -> Answer:
        return self.post(path, {"csrf": self.csrf, **form})


def settings_for(root: Path, port: int, web: Mapping[str, Any]) -> Settings:
    return Settings.model_validate(
        {
            "spool": {"root": str(root / "spool"), "min_free_gb": 0},
            "web": {"enabled": True, "port": port, **web},
            "destination": [
                {"name": name, "ae_title": name.upper(), "host": "192.0.2.7", "port": 104} for name in ("pacs", "tps")
            ],
            "route": [{"model": "hn7", "destinations": ["pacs", "tps"], "confirm": True}],
        }
    )


def write_token(root: Path) -> Path:
    path = root / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return path


@contextmanager
def served(root: Path, **web: Any) -> Iterator[Page]:
    """Serve the page of an empty node until the block ends; ``web``: settings of the page."""
    settings = settings_for(root, free_port(), web)
    spool, database, pulse = Spool(settings.spool.root), Database(settings.database_url), Pulse(clock := PageClock())
    database.upgrade()
    pulse.beat(True)
    server = make_server(settings, database, pulse)
    thread = threading.Thread(target=server.run, name="page")
    thread.start()
    try:
        deadline = time.monotonic() + START_S
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        application: Any = server.config.app
        yield Page(settings.web.port, settings, database, spool, pulse, clock, application.state.site)
    finally:
        server.should_exit = True
        thread.join()
        database.close()


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
