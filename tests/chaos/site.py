"""A node that is killed and started again, with its senders and destinations, and what must hold in the end."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.uids import derived_uid
from contourd.imaging.volume import Volume
from tests.bright import phantom
from tests.chaos.committing import CommittingDestination
from tests.chaos.peers import SCANNER, Acknowledged, Destination, send
from tests.chaos.server import WAIT_S, Server, Struck, Timeout, wait_until
from tests.interop.node import GAPPED_S, write_configuration
from tests.peers import LOOPBACK, free_port

# Kills may well meet one job many times; that it is then held is another test's matter.
MOST_ATTEMPTS = 20
ELSEWHERE = "elsewhere"  # a destination of no route, whose structure sets are written otherwise
COMMITMENT = "commitment = true\ncommitment_wait_s = 3.0\n"  # of the last destination
CONFIRMED_SCANNER = "CT2"  # its route waits for a person


class Site:
    """A node, three destinations and any number of scanners."""

    def __init__(self, folder: Path, bundle: Path, seed: int = 1, page: bool = False) -> None:
        self.folder = folder
        port, page_port = free_port(), free_port() if page else 0
        self.strict = CommittingDestination("strict", port)
        self.destinations = (Destination("steady"), Destination("flaky", (0.4, 0.15, 0.15), seed), self.strict)
        self.elsewhere = Destination(ELSEWHERE)
        names = {d.name: (d.ae_title, d.port) for d in self.destinations}
        configuration = write_configuration(
            folder / "node", port, bundle, names, COMMITMENT + destination(self.elsewhere)
        )
        text = configuration.read_text()
        text = text.replace('device = "cpu"', f'device = "cpu"\nlease_s = 10.0\nmax_attempts = {MOST_ATTEMPTS}')
        text = text.replace("[[route]]", confirming_route(bundle, names) + "[[route]]")
        configuration.write_text(text.replace(f"gapped_s = {GAPPED_S}", "gapped_s = 2.0"))
        if page:
            with configuration.open("a") as file:
                file.write(f"[web]\nenabled = true\nport = {page_port}\n")
        self.server = Server(folder / "node", configuration, port, page_port)
        self.acknowledged = Acknowledged()
        self.images: dict[str, list[Path]] = {}
        self.kept_held: set[str] = set()  # series whose job ends HELD
        self.operated: list[str] = []  # series whose job a person must retry
        self.to_confirm: list[str] = []  # series whose job a person must confirm
        self.in_part: list[str] = []  # series that were not sent whole
        self.kills = 0
        self._senders: list[tuple[str, threading.Thread]] = []  # with the series that each sends

    def write(self, empty: bool = False) -> str:
        """Write a new series; returns its UID."""
        name = f"p{len(self.images)}"
        volume = phantom()
        if empty:
            volume = Volume(volume.grid, np.full_like(volume.hu, -1000))
        folder = write_ct_series(volume, self.folder / "ct" / name, SeriesIdentity(name, f"{name}^Test"))
        uid = str(derived_uid(name, "series"))
        self.images[uid] = sorted(folder.iterdir())
        if empty:
            self.kept_held.add(uid)
        return uid

    def send(self, uid: str, part: slice = slice(None), ae_title: str = SCANNER) -> threading.Thread:
        """Send a series in the background until all of it is acknowledged."""
        arguments = (self.images[uid][part], self.server.port, self.acknowledged, ae_title)
        sender = threading.Thread(target=send, args=arguments, daemon=True)
        sender.start()
        self._senders.append((uid, sender))
        return sender

    def send_part(self, uid: str, part: slice) -> None:
        """Send a part of a series and wait for it; what is missing follows in the end."""
        if uid not in self.in_part:
            self.in_part.append(uid)
        sender = self.send(uid, part)
        self._await(lambda: not sender.is_alive(), f"{uid} is not received")

    def _await(self, reached: Callable[[], Any], what: str) -> None:
        def looked() -> bool:
            if self.server.struck:
                raise Struck
            self.release_broken_off()
            return bool(reached())

        wait_until(looked, what)

    def wait_struck(self) -> None:
        """Wait until the fault strikes; what was broken off meanwhile goes on."""

        def struck() -> bool:
            self.release_broken_off()
            return self.server.struck

        try:
            wait_until(struck, "the fault did not strike")
        except Timeout as error:
            raise Timeout(f"{error}:\n{self.server.tail()}") from None

    def arrive(self) -> str:
        uid = self.write()
        self.send(uid)
        return uid

    def arrive_to_be_confirmed(self) -> str:
        uid = self.write()
        self.to_confirm.append(uid)
        self.send(uid, ae_title=CONFIRMED_SCANNER)
        return uid

    def operate(self, command: tuple[str, ...], uid: str) -> None:
        """Run an operator's command about a series' job."""
        assert self.server.operate(command, self.job(uid)) == 0, self.server.tail()

    def sending(self) -> int:
        """How many senders have not sent all."""
        return sum(sender.is_alive() for _, sender in self._senders)

    def open(self) -> int:
        """How many series are not delivered."""
        delivered = self._count("SELECT count(DISTINCT series_id) FROM jobs WHERE state = 'DELIVERED'")
        return len(self.images) - delivered

    def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the database."""
        return self.server.ask(query, *values)

    def file(self, path: str) -> Path:
        """Return where a file of the spool is."""
        return self.server.spool / path

    def series_state(self, uid: str) -> str:
        return self._one("SELECT state FROM series WHERE series_uid = ?", uid)

    def job_state(self, uid: str) -> str:
        return self._one(f"SELECT jobs.state {NEWEST_JOB}", uid)

    def job(self, uid: str) -> int:
        return int(self._one(f"SELECT jobs.id {NEWEST_JOB}", uid))

    def _one(self, query: str, uid: str) -> Any:
        rows = self.server.ask(query, uid)
        return rows[0][0] if rows else ""

    def wait_series(self, uid: str, state: str) -> None:
        self._await(lambda: self.series_state(uid) == state, f"series {uid} does not become {state}")

    def wait_job(self, uid: str, *states: str) -> None:
        self._await(lambda: self.job_state(uid) in states, f"the job of {uid} does not become {states}")

    def wait_working(self, steps: int) -> None:
        """Wait until jobs and deliveries took more than so many steps, or none is left to take one."""
        query = "SELECT count(*) FROM events WHERE subject IN ('job', 'delivery')"
        before = self._count(query)

        def worked() -> bool:
            self.release_broken_off()
            return not self.open() or self._count(query) > before + steps

        wait_until(worked, f"{steps} steps of the work")

    def _count(self, query: str) -> int:
        rows = self.server.ask(query)
        return int(rows[0][0]) if rows else 0

    def wait_sending(self, uid: str) -> None:
        """Wait until a series' structure set is under way to each destination."""
        query = (
            "SELECT count(*) FROM deliveries JOIN jobs ON jobs.id = job_id JOIN series ON series.id = series_id "
            "WHERE series_uid = ? AND deliveries.state = 'SENDING'"
        )
        self._await(lambda: self._one(query, uid) == len(self.destinations), f"{uid} is not sent to all")

    def deliver_all(self) -> None:
        """Let an unharmed node contour what there is, and deliver it."""
        self.contour_all()
        query = f"SELECT count(*) FROM deliveries JOIN jobs ON jobs.id = job_id WHERE {TO_BE_DELIVERED}"
        wait_until(lambda: not self._count(query), "all delivered")

    def contour_all(self) -> None:
        """Let an unharmed node contour what there is."""
        query = (
            "SELECT (SELECT count(*) FROM series WHERE state = 'RECEIVING') + "
            "(SELECT count(*) FROM jobs WHERE state IN ('QUEUED', 'CONTOURING'))"
        )

        def contoured() -> bool:
            self.release_broken_off()
            return not self.sending() and not self.server.ask(BROKEN_OFF) and not self._count(query)

        self.server.start()
        wait_until(contoured, "all contoured")

    def settle(self, timeout_s: float = WAIT_S) -> int:
        """Let an unharmed node end all work, and stop it; returns its exit status."""
        self.server.start()
        for uid in self.in_part:
            self.send(uid)
        for _, sender in self._senders:
            sender.join(timeout_s)
            assert not sender.is_alive(), f"a sender is still waiting:\n{self.server.tail()}"
        try:
            wait_until(self._settled, "all work done", timeout_s)
        except Timeout:
            raise Timeout(f"work is left over: {self._unsettled()}\n{self.server.tail()}") from None
        self.server.wait_listening()
        self.server.terminate()
        return self.server.wait_dead()

    def release_broken_off(self) -> None:
        """Have a person who has looked say that a series which was broken off is all, once its sender has sent it."""
        sending = {uid for uid, sender in self._senders if sender.is_alive()}
        for number, uid in self.server.ask(BROKEN_OFF):
            if uid not in sending and self.server.operate(("release",), number) != 0:
                assert self.series_state(uid) != "HELD", self.server.tail()  # else a slice re-opened it meanwhile

    def _settled(self) -> bool:
        self.release_broken_off()
        for uid in self.to_confirm:
            if self.job_state(uid) == "CONFIRMING":
                self.operate(("confirm",), uid)
        for uid in set(self.operated):
            state = self.job_state(uid)
            by_a_person = state == "HELD" and uid not in self.kept_held
            if by_a_person or state in ("FAILED", "CANCELLED"):
                self.operate(("retry",), uid)
        return not self._unsettled()

    def _unsettled(self) -> list[tuple[Any, ...]]:
        states = [(uid, self.series_state(uid), self.job_state(uid)) for uid in self.images]
        waiting = [
            (uid, series, job)
            for uid, series, job in states
            if (series, job) != ("COMPLETE", "HELD" if uid in self.kept_held else "DELIVERED")
        ]
        return waiting or self.server.ask(f"SELECT job_id, destination, state FROM deliveries WHERE {UNDER_WAY}")

    def close(self) -> None:
        self.server.kill()
        for destination in (*self.destinations, self.elsewhere):
            destination.stop()
        gc.collect()  # pynetdicom leaves the sockets of refused connections to it


BROKEN_OFF = (
    "SELECT id, series_uid FROM series WHERE state = 'HELD' AND reason_code IN ('transfer_aborted', 'node_ended')"
)
UNDER_WAY = "state IN ('PENDING', 'SENDING', 'SENT')"
TO_BE_DELIVERED = "jobs.state = 'DELIVERING' AND deliveries.state IN ('PENDING', 'SENDING', 'SENT')"
NEWEST_JOB = (
    "FROM jobs JOIN series ON series.id = jobs.series_id AND jobs.revision = series.revision "
    "WHERE series_uid = ? ORDER BY jobs.id DESC LIMIT 1"
)


def destination(elsewhere: Destination) -> str:
    """Return the settings of a destination that has a profile of its own."""
    return f"""[[destination]]
name = "{elsewhere.name}"
ae_title = "{elsewhere.ae_title}"
host = "{LOOPBACK}"
port = {elsewhere.port}
profile = "eclipse"
"""


def confirming_route(bundle: Path, destinations: Iterable[str]) -> str:
    """Return the settings of a route whose jobs wait until a person has seen the pictures."""
    return f"""[[route]]
calling_ae = "{CONFIRMED_SCANNER}"
model = "{bundle}"
destinations = {json.dumps(list(destinations))}
confirm = true
"""


@contextmanager
def site(folder: Path, bundle: Path, seed: int = 1, page: bool = False) -> Iterator[Site]:
    made = Site(folder, bundle, seed, page)
    try:
        yield made
    finally:
        made.close()
