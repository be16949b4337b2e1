"""By which way a destination is reached; a further one is its module and a line in ``SENDERS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from contourd.dicom.network.outcomes import Outcome
from contourd.dicom.network.scu import DeliveryClient, StorageSCU
from contourd.dicom.web.stow import StowSender
from contourd.settings import Destination

# Kind of a destination -> what sends there, made for the AE title by which contourd calls.
SENDERS: Mapping[str, Callable[[str], DeliveryClient]] = MappingProxyType(
    {"dicom": StorageSCU, "stow": lambda calling_ae: StowSender()}
)


class Senders:
    """Sends to each destination by its own way: C-STORE, STOW-RS."""

    def __init__(self, calling_ae: str) -> None:
        self._senders = {kind: make(calling_ae) for kind, make in SENDERS.items()}

    def deliver(self, path: Path, destination: Destination) -> Outcome:
        """Send one file; whatever goes wrong is an outcome, never an exception."""
        return self._senders[destination.kind].deliver(path, destination)

    def echo(self, destination: Destination) -> Outcome:
        """Ask whether the destination answers: accepted or refused, it does."""
        return self._senders[destination.kind].echo(destination)

    def hang_up(self) -> None:
        """Break off what is under way; it ends as what is tried again."""
        for sender in self._senders.values():
            sender.hang_up()
