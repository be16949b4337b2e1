"""An object store on loopback: moto's server in a process of its own, and a proxy before it that refuses at will."""

from __future__ import annotations

import http.client
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from uuid import uuid4

from contourd.settings import StoreSettings
from contourd.spool.s3 import S3Store
from tests.peers import free_port

KEY = "[default]\naws_access_key_id = test\naws_secret_access_key = secret-of-the-test\n"
START_S = 60.0
FOLDERS = ("series", "waiting", "outgoing", "models")


class Server:
    """moto's server; ended by its own process."""

    def __init__(self) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while not self._answers():
            if time.monotonic() > until or self._process.poll() is not None:
                self.stop()
                raise AssertionError("moto's server does not answer")
            time.sleep(0.1)

    def _answers(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
            asked.request("GET", "/moto-api/")
            return asked.getresponse().status < 500
        return False

    def make_bucket(self) -> str:
        name = f"bucket-{uuid4().hex}"
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        asked.request("PUT", f"/{name}", headers={"Content-Length": "0"})
        assert asked.getresponse().status == 200
        return name

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(20)


class Proxy(ThreadingHTTPServer):
    """Stands before the server; whoever asks may have gone before the answer comes."""

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Bucket:
    """A bucket of its own; ``fault`` decides of each request what becomes of it.

    It takes the method and the path, and returns nothing (all is well), "refuse" (503), "denied" (403), "slow" (no
    answer in time), "half" (the body breaks off), "lost" (it is done, and the answer does not come), or "away" (no
    connection).
    """

    def __init__(self, server: Server, folder: Path, address: str = "127.0.0.1") -> None:
        self.name = server.make_bucket()
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.unconditional = False
        self.requests: list[tuple[str, str]] = []
        self.server = server
        self.address = address
        self._credentials = folder / "s3.credentials"
        self._credentials.write_text(KEY)
        self._proxy = Proxy((address, 0), self._handler())
        self._proxy.daemon_threads = True
        self._thread = Thread(target=self._proxy.serve_forever, daemon=True)
        self._thread.start()

    def settings(self, timeout_s: float = 3.0) -> StoreSettings:
        return StoreSettings(
            endpoint=f"http://{self.address}:{self._proxy.server_address[1]}",
            bucket=self.name,
            credentials_file=self._credentials,
            timeout_s=timeout_s,
        )

    def toml(self, timeout_s: float = 3.0) -> str:
        """Return the section of the settings' file."""
        values = self.settings(timeout_s)
        return (
            f'[spool.store]\nendpoint = "{values.endpoint}"\nbucket = "{values.bucket}"\n'
            f'credentials_file = "{values.credentials_file}"\ntimeout_s = {timeout_s}\n'
        )

    def open(self) -> S3Store:
        return S3Store(self.settings())

    def objects(self) -> list[str]:
        return sorted(found.name for prefix in FOLDERS for found in self.open().list(prefix))

    def close(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        bucket = self

        def ignored(header: str) -> bool:
            return bucket.unconditional and header.lower() == "if-none-match"

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *told: object) -> None:
                pass

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                bucket.requests.append((self.command, self.path))
                fault = bucket.fault(self.command, self.path)
                headers = {key: value for key, value in self.headers.items() if not ignored(key)}
                if fault in ("refuse", "denied", "away", "slow"):
                    self._refuse(fault)
                    return
                asked = http.client.HTTPConnection("127.0.0.1", bucket.server.port, timeout=30)
                asked.request(self.command, self.path, body, headers)
                answer = asked.getresponse()
                content = answer.read()
                if fault == "lost":
                    self._refuse("away")
                    return
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                        self.send_header(key, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content[: len(content) // 2] if fault == "half" else content)
                if fault == "half":
                    self.close_connection = True
                asked.close()

            def _refuse(self, fault: str) -> None:
                if fault in ("refuse", "denied"):
                    self.send_response(503 if fault == "refuse" else 403)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "slow":
                    time.sleep(1.5)
                self.close_connection = True

            do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = _pass_on  # noqa: N815

        return Handler
