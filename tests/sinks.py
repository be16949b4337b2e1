"""Receivers on loopback for what a node tells others: a small SMTP server and a webhook."""

from __future__ import annotations

import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_string, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.peers import LOOPBACK


@dataclass
class Mailbox:
    """What the SMTP server took; ``refuses``: it answers 451 to messages; ``strangers``: it takes no recipient."""

    port: int = 0
    messages: list[EmailMessage] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    refuses: bool = False
    strangers: bool = False


@contextmanager
def smtp_sink() -> Iterator[Mailbox]:
    """Speak as much SMTP (RFC 5321) as smtplib needs."""
    box = Mailbox()

    class Session(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

        def handle(self) -> None:
            self.say("220 sink")
            while line := self.rfile.readline().decode().strip():
                box.commands.append(line)
                verb = line.split()[0].upper()
                if verb == "EHLO":
                    self.say("250-sink")
                    self.say("250 AUTH PLAIN")
                elif verb == "AUTH":
                    self.say("235 welcome")
                elif verb == "RCPT" and box.strangers:
                    self.say("550 relaying denied")
                elif verb == "DATA" and box.refuses:
                    self.say("451 not now")
                elif verb == "DATA":
                    self.say("354 go on")
                    self.take()
                elif verb == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok")

        def take(self) -> None:
            lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
            message = message_from_string("\n".join(lines), policy=policy.default)
            assert isinstance(message, EmailMessage)
            box.messages.append(message)
            self.say("250 taken")

    server = socketserver.ThreadingTCPServer((LOOPBACK, 0), Session)
    with running(server):
        box.port = server.server_address[1]
        yield box


@dataclass
class Hook:
    """What the webhook took; ``status``: what it answers."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200


@contextmanager
def webhook_sink() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if hook.status == 200:
                hook.posts.append(json.loads(content))
            self.send_response(hook.status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *about: object) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    with running(server):
        hook.url = f"http://{LOOPBACK}:{server.server_address[1]}/alerts"
        yield hook


@contextmanager
def running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def raw_sink(play: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection by hand; what the other side closes ends the play. Yields the port."""

    class Session(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                play(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    server = Server((LOOPBACK, 0), Session)
    with running(server):
        yield server.server_address[1]
