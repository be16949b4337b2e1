"""Several hosts that have nothing in common but a database and an object store, each a process tree of its own.

A host has a name, process numbers and, where the machine allows, a network of its own (Linux namespaces), so that
nobody sees by the kernel whether another host's process lives, and a kill of its first process ends all that runs on
it at once, as a power switch does.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.uids import derived_uid
from contourd.errors import ContourdError
from contourd.spool.s3 import S3Store
from contourd.system.loopback import LOOPBACK, free_port
from tests import s3
from tests.bright import phantom
from tests.chaos.network import make_network
from tests.chaos.peers import Acknowledged, Destination, send
from tests.chaos.server import ROOT, WAIT_S, Timeout, wait_until
from tests.chaos.site import BROKEN_OFF, NEWEST_JOB, UNDER_WAY
from tests.databases import Cluster

NAMESPACES = ("unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
NAMED = ("sh", "-c", 'hostname "$0" && exec "$@"')
CONTOURD = (sys.executable, "-m", "contourd")
# What was committed survives the end of PostgreSQL's processes; only the machine's end would lose it.
CLUSTER = ("fsync=off",)
LEASE_S, MOST_ATTEMPTS = 5.0, 20
REFUSED = 1  # the exit status of a start that was refused
RECEIVERS, WORKERS = ("receiver1", "receiver2"), ("worker1", "worker2", "worker3")


def require_namespaces() -> None:
    """Skip the test where the user may make no namespaces: a host would see the others' processes."""
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no namespaces (unshare)")


def _listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


class Host:
    """One host: ``contourd serve --no-worker``, or ``contourd worker``.

    Parameters
    ----------
    address, port
        Where it receives; port 0: it is a worker's.
    within
        What starts a program in its network.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: str,
        key: bytes,
        address: str = LOOPBACK,
        port: int = 0,
        within: tuple[str, ...] = (),
    ) -> None:
        self.name, self.address, self.port, self.spool = name, address, port, folder / "spool"
        self._within = within
        self.configuration, self.log = folder / "contourd.toml", folder / "contourd.log"
        self.running: subprocess.Popen[bytes] | None = None
        self._from = 0  # where the log of the last start begins
        self.spool.mkdir(parents=True, mode=0o700)
        (self.spool / "site.key").write_bytes(key)
        (self.spool / "site.key").chmod(0o400)
        self.configuration.write_text(settings, encoding="utf-8")

    def start(self) -> None:
        """Switch it on, if it is off."""
        if self.running is not None:
            return
        command = ("serve", "--no-worker") if self.port else ("worker",)
        self._from = len(self.log.read_text(errors="replace")) if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(
                [
                    *self._within,
                    *NAMESPACES,
                    *NAMED,
                    self.name,
                    *CONTOURD,
                    *command,
                    "--config",
                    str(self.configuration),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    def processes(self) -> list[psutil.Process]:
        """Return all that runs on it, its first process first; a worker's process is none of the program's helpers."""
        if self.running is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return [one for one in psutil.Process(self.running.pid).children(recursive=True) if one.is_running()]
        return []

    def kill(self) -> None:
        """Switch it off: everything on it ends at once."""
        if self.running is None:
            return
        before = self.processes()
        for one in before[:1]:
            one.kill()  # the first process of the namespace: the kernel ends the others
        self.running.wait(WAIT_S)
        psutil.wait_procs(before, timeout=30)
        self.running = None

    def kill_worker(self) -> None:
        """Kill the process that contours, and not the one that watches over it."""
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(one.cmdline()):
                    one.kill()

    def signal(self, what: signal.Signals) -> None:
        """Stop every process where it is, or let all go on."""
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                one.send_signal(what)

    def terminate(self) -> None:
        """Tell it to stop."""
        for one in self.processes()[:1]:
            one.terminate()

    def wait_stopped(self) -> int:
        """Wait until it has stopped; returns the exit status."""
        assert self.running is not None
        status = self.running.wait(WAIT_S)
        self.running = None
        return status

    def check(self) -> None:
        """Start it again, as systemd does, where PostgreSQL was away at its start; fail where it ended otherwise."""
        if self.running is None or self.running.poll() is None:
            return
        if self.running.returncode != REFUSED or "Traceback" in self.log.read_text(errors="replace")[self._from :]:
            raise AssertionError(f"{self.name} ended with {self.running.returncode}:\n{self.tail()}")
        self.running = None
        self.start()

    def wait_listening(self) -> None:
        """Wait until it listens."""

        def there() -> bool:
            self.check()
            return _listens(self.address, self.port)

        wait_until(there, f"{self.name} does not listen")

    def tail(self) -> str:
        """Return the end of its log."""
        return f"--- {self.name}\n" + self.log.read_text(errors="replace")[-4000:]


class Hosts:
    """Two receivers, three workers, PostgreSQL, a store, two destinations, and any number of scanners.

    A scanner goes from one receiver to the other with each association that it opens, as behind a balancer.
    """

    def __init__(self, folder: Path, bundle: Path, seed: int = 1, lease_s: float = LEASE_S) -> None:
        self.folder, self.lease_s = folder, lease_s
        self.network = make_network()
        address = self.network.address if self.network else LOOPBACK
        self.cluster = Cluster(*CLUSTER, address=address, clients=self.network.addresses if self.network else "")
        self.cluster.start()
        self.url = self.cluster.url(self.cluster.make())
        self._store = s3.Server()
        self.bucket = s3.Bucket(self._store, folder, address)
        self.destinations = (
            Destination("steady", address=address),
            Destination("flaky", (0.4, 0.15, 0.15), seed, address),
        )
        self.acknowledged = Acknowledged()
        self.images: dict[str, list[Path]] = {}
        self.kills = 0
        self._checking = threading.Lock()
        self.receivers = [self._host(name, bundle, free_port()) for name in RECEIVERS]
        self.workers = [self._host(name, bundle, 0) for name in WORKERS]
        self._senders: list[tuple[str, threading.Thread]] = []
        self._fetched = Path(tempfile.mkdtemp(dir=folder))
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def _host(self, name: str, bundle: Path, port: int) -> Host:
        folder = self.folder / name
        within = self.network.plug(name) if self.network else ()
        address = self.network.address_of(name) if self.network else LOOPBACK
        text = f"""
[node]
host = "{address}"
port = {port or 11112}
receivers = 0
associations_per_peer = 20
[spool]
root = "{folder / "spool"}"
min_free_gb = 0.0
cache_gb = 1.0
{self.bucket.toml()}
[database]
url = "{self.url}"
[series]
quiet_s = 1.0
gapped_s = 2.0
[worker]
device = "cpu"
runtime = "torch"
lease_s = {self.lease_s}
max_attempts = {MOST_ATTEMPTS}
[delivery]
first_retry_s = 0.5
max_retry_s = 1.0
[constancy]
enabled = false
[[route]]
model = "{bundle}"
destinations = ["steady", "flaky"]
"""
        for destination in self.destinations:
            text += f'[[destination]]\nname = "{destination.name}"\nae_title = "{destination.ae_title}"\n'
            text += f'host = "{self.bucket.address}"\nport = {destination.port}\n'
        return Host(name, folder, text, bytes(range(32)), address, port, within)

    @property
    def hosts(self) -> list[Host]:
        return [*self.receivers, *self.workers]

    def start(self) -> None:
        """Switch on what is off: the first receiver makes the tables, and workers wait for no one who makes them."""
        self.receivers[0].start()
        if not self.ask_or("SELECT 1 FROM information_schema.tables WHERE table_name = 'jobs'"):
            self.receivers[0].wait_listening()
        for host in self.hosts:
            host.start()

    def check(self) -> None:
        """See that each host that was switched on runs."""
        with self._checking:
            for host in self.hosts:
                host.check()

    def wait_listening(self) -> None:
        """Wait until both receivers listen."""
        for receiver in self.receivers:
            receiver.wait_listening()

    def arrive(self) -> str:
        """Begin to send a new series; returns its UID."""
        name = f"p{len(self.images)}"
        folder = write_ct_series(phantom(), self.folder / "ct" / name, SeriesIdentity(name, f"{name}^Test"))
        uid = str(derived_uid(name, "series"))
        self.images[uid] = sorted(folder.iterdir())
        addresses = [(receiver.address, receiver.port) for receiver in self.receivers]
        if len(self.images) % 2:
            addresses.reverse()
        sender = threading.Thread(target=send, args=(self.images[uid], addresses, self.acknowledged), daemon=True)
        sender.start()
        self._senders.append((uid, sender))
        return uid

    def sending(self) -> int:
        """How many senders have not sent all."""
        return sum(sender.is_alive() for _, sender in self._senders)

    def open(self) -> int:
        """How many series are not delivered, as far as the database says."""
        rows = self.ask_or("SELECT count(DISTINCT series_id) FROM jobs WHERE state = 'DELIVERED'")
        return len(self.images) - int(rows[0][0]) if rows else len(self.images)

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database; raises psycopg.Error while it is away."""
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = psycopg.connect(self.url, autocommit=True, connect_timeout=5)
        return self._connection.execute(query.replace("?", "%s").encode(), values).fetchall()

    def ask_or(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read it, and nothing while it is away."""
        with suppress(psycopg.Error):
            return self.ask(query, *values)
        return []

    def file(self, path: str) -> Path:
        """Return a file with what the store's index says of a path of the spool; one that is not there has no bytes."""
        found = self._fetched / path.replace("/", "_")
        rows = self.ask("SELECT object, offset_bytes, size_bytes FROM stored_files WHERE path = ?", path)
        content = b""
        with suppress(ContourdError):
            for name, offset, size in rows:
                content = S3Store(self.bucket.settings(WAIT_S)).get(name, offset, size)
        found.write_bytes(content)
        return found

    def settle(self, timeout_s: float = WAIT_S) -> None:
        """Let all hosts work unharmed until nothing is left to do, and stop them."""
        self.start()
        for _, sender in self._senders:
            sender.join(timeout_s)
            assert not sender.is_alive(), f"a sender is still waiting:\n{self.tails()}"
        try:
            wait_until(self._settled, "all work done", timeout_s)
        except Timeout:
            raise Timeout(f"work is left over: {self._unsettled()}\n{self.tails()}") from None
        for host in self.hosts:
            host.terminate()
        for host in self.hosts:
            status = host.wait_stopped()
            assert status == 0, f"{host.name} ended with {status}:\n{host.tail()}"

    def _settled(self) -> bool:
        self.check()
        with suppress(psycopg.Error):
            self.release_broken_off()
            return not self._unsettled()
        return False

    def release_broken_off(self) -> None:
        """Have a person who has looked say that a series which was broken off is all, once its sender has sent it."""
        sending = {uid for uid, sender in self._senders if sender.is_alive()}
        for number, uid in self.ask(BROKEN_OFF):
            if uid not in sending:
                command = [*CONTOURD, "release", str(number), "--config", str(self.receivers[0].configuration)]
                subprocess.run(
                    [*NAMESPACES, *NAMED, RECEIVERS[0], *command], capture_output=True, cwd=ROOT, check=False
                )

    def _unsettled(self) -> list[tuple[Any, ...]]:
        states = [
            (uid, self.ask("SELECT state FROM series WHERE series_uid = ?", uid), self._job(uid)) for uid in self.images
        ]
        waiting = [one for one in states if one[1:] != ([("COMPLETE",)], [("DELIVERED",)])]
        not_stored = "SELECT path FROM instances WHERE path NOT IN (SELECT path FROM stored_files)"
        return (
            waiting
            or self.ask(f"SELECT job_id, destination, state FROM deliveries WHERE {UNDER_WAY}")
            or self.ask(not_stored)
        )

    def _job(self, uid: str) -> list[tuple[Any, ...]]:
        return self.ask(f"SELECT jobs.state {NEWEST_JOB}", uid)

    def tails(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(host.tail() for host in self.hosts)

    def close(self) -> None:
        """End all that was started."""
        for host in self.hosts:
            host.signal(signal.SIGCONT)
            host.kill()
        for destination in self.destinations:
            destination.stop()
        if self._connection is not None:
            self._connection.close()
        self.bucket.close()
        self._store.stop()
        self.cluster.remove()
        if self.network is not None:
            self.network.close()


@contextmanager
def several_hosts(folder: Path, bundle: Path, seed: int = 1, lease_s: float = LEASE_S) -> Iterator[Hosts]:
    """Make them, and end all that was started."""
    require_namespaces()
    folder.mkdir(parents=True, exist_ok=True)
    made = Hosts(folder, bundle, seed, lease_s)
    try:
        yield made
    finally:
        made.close()
