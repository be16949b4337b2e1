"""A contourd with one destination, for the tests that look at both ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from tests.bright import referenced_series, series_uid
from tests.interop.node import Node, Status
from tests.peers import StoreSCP


@dataclass(frozen=True)
class Site:
    """A contourd with one destination, DCMTK's storescp."""

    node: Node
    destination: StoreSCP

    def entries(self, status: Status, folder: Path) -> list[dict[str, Any]]:
        """Return what the status says of the series in a folder: as long as it is received or held, and its jobs."""
        return [e for e in (*status["series"], *status["jobs"]) if e["series"] == series_uid(folder)]

    def wait_delivered(self, folder: Path) -> None:
        """Wait until the destination has the newest revision of the series, and nothing else of it is under way."""

        def delivered(status: Status) -> bool:
            states = [entry["state"] for entry in self.entries(status, folder)]
            return "DELIVERED" in states and set(states) <= {"DELIVERED", "SUPERSEDED"}

        self.node.wait_until(delivered)

    def wait_held(self, folder: Path) -> str:
        """Wait until the series or its job is held, and return the reason that is shown."""

        def held(status: Status) -> list[str]:
            return [entry["reason"] for entry in self.entries(status, folder) if entry["state"] == "HELD"]

        return held(self.node.wait_until(lambda status: bool(held(status))))[0]

    def received(self, folder: Path) -> list[pydicom.Dataset]:
        """Return what the destination received for the series in a folder: one data set per C-STORE."""
        series = series_uid(folder)
        return [ds for ds in self.destination.datasets() if referenced_series(ds) == series]
