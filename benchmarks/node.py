"""A node for benchmarks: its settings in one folder, its process, and whether an application entity answers a call."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pynetdicom import AE
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.sop_class import Verification
from pynetdicom.transport import AddressInformation

from contourd.system.loopback import LOOPBACK, free_port, stop

A_ASSOCIATE_AC, A_RELEASE_RQ = 0x02, bytes.fromhex("05000000000400000000")
STOP_S, ANSWER_S = 60.0, 5.0


def configure(
    folder: Path, port: int, model: str, destinations: Mapping[str, int], sections: Mapping[str, str] | None = None
) -> Path:
    """Write the settings of a node on loopback.

    Parameters
    ----------
    destinations
        Name, which is the AE title too, -> port on loopback.
    sections
        Section -> its lines, in TOML.
    """
    lines = {"node": f'host = "{LOOPBACK}"\nport = {port}', "spool": f'root = "{folder / "spool"}"'}
    lines["web"] = f"port = {free_port()}"
    text = "".join(f"[{name}]\n{values}\n" for name, values in (lines | dict(sections or {})).items())
    for name, at in destinations.items():
        text += f'[[destination]]\nname = "{name}"\nae_title = "{name}"\nhost = "{LOOPBACK}"\nport = {at}\n'
    text += f'[[route]]\nmodel = "{model}"\ndestinations = {json.dumps(list(destinations))}\n'
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "contourd.toml"
    file.write_text(text, encoding="utf-8")
    return file


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends; then SIGTERM to its own pid, and SIGKILL if that does not help."""
    environment = {**os.environ, "TCP_NODELAY": "1"}  # else Debian's DCMTK and Orthanc wait 40 ms for each instance
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment
        )
    try:
        yield server
    finally:
        stop(server, STOP_S)


def association_request(ae_title: str) -> bytes:
    """Return the PDU that asks for an association for C-ECHO (PS3.8 9.3.2)."""
    ae = AE("BENCHMARK")
    ae.add_requested_context(Verification)
    asked = A_ASSOCIATE()
    asked.application_context_name = "1.2.840.10008.3.1.1.1"
    asked.calling_ae_title, asked.called_ae_title = "BENCHMARK", ae_title
    asked.calling_presentation_address = asked.called_presentation_address = AddressInformation(LOOPBACK, 104)
    longest, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    longest.maximum_length_received, implementation.implementation_class_uid = 16382, ae.implementation_class_uid
    asked.user_information = [longest, implementation]
    context = ae.requested_contexts[0]
    context.context_id = 1
    asked.presentation_context_definition_list = [context]
    return A_ASSOCIATE_RQ(asked).encode()


def associates(port: int, request: bytes) -> bool:
    """Say whether an association is accepted now; it is released again."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=ANSWER_S) as connection:
            connection.sendall(request)
            if connection.recv(1)[:1] != bytes([A_ASSOCIATE_AC]):
                return False
            connection.sendall(A_RELEASE_RQ)  # who asks for the release closes the connection, too
    except OSError:
        return False
    return True
