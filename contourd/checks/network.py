"""Checks of the network: our port, each destination by C-ECHO and back, the certificates."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from contourd.checks.finding import CheckFinding, failed, ok, unknown
from contourd.delivery.senders import Senders
from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.network.tls import calling_context, listening_context
from contourd.settings import Destination, DestinationTLS, NodeSettings, Settings
from contourd.spool.access import is_served
from contourd.store.callers import last_call
from contourd.store.database import Database, has_queue
from contourd.store.tables import SCHEMA_REVISION
from contourd.web.access import read_token

LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
FEWEST_DAYS = 30
SHAKE_ROUNDS = 8


def own_address(settings: Settings) -> tuple[Destination, str]:
    """Return this node as a destination, and the AE title by which this machine calls it: its own."""
    node = settings.node
    tls = None
    if node.tls is not None:
        tls = DestinationTLS(
            authorities=node.tls.authorities or node.tls.certificate,
            certificate=node.tls.certificate,
            key=node.tls.key,
            check_host=False,
        )
    host = LOOPBACK.get(node.host, node.host)
    own = Destination(name="self", ae_title=node.ae_title, host=host, port=node.port, connect_timeout_s=5.0, tls=tls)
    return own, node.ae_title


def port(settings: Settings) -> CheckFinding:
    """See that the port is free, or that it is this very node that listens on it."""
    node = settings.node
    where = f"{node.host}:{node.port}"
    reason = _why_taken(node.host, node.port)
    if not reason:
        return ok(f"{where} is free for {node.ae_title}")
    if not is_served(settings.spool.root):
        return failed(
            f"cannot listen on {where}: {reason}", "stop what listens there, or change node.host or node.port"
        )
    own, caller = own_address(settings)
    outcome = StorageSCU(caller).echo(own)
    if outcome.kind is OutcomeKind.ACCEPTED:
        return ok(f"this contourd serves on {where} and answers C-ECHO")
    return unknown(
        f"this contourd serves the spool; {outcome.reason}",
        "where the settings keep this machine itself out, echo it from a machine that may send",
    )


def page(settings: Settings) -> CheckFinding:
    """See that the page's token is a secret, and its port free or this very node's."""
    web = settings.web
    where, acts = f"http://{web.host}:{web.port}", "with a token" if read_token(web.token_file) else "read-only"
    reason = _why_taken(web.host, web.port)
    if not reason:
        return ok(f"{where} is free for the page, {acts}")
    if is_served(settings.spool.root):
        return ok(f"this contourd serves; {where} is in use, {acts}")
    return failed(f"cannot listen on {where}: {reason}", "stop what listens there, or change web.host or web.port")


def _why_taken(host: str, port_number: int) -> str:
    """Return why an address cannot be listened on; empty where it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port_number))
            listener.listen()
        except OSError as error:
            return error.strerror or str(error)
    return ""


def echo(destination: Destination, calling: str) -> CheckFinding:
    """Ask a destination by C-ECHO."""
    outcome = Senders(calling).echo(destination)
    where = destination.url or f"{destination.ae_title} at {destination.host}:{destination.port}"
    if outcome.kind is OutcomeKind.ACCEPTED:
        return ok(f"{where} answers {calling}")
    if outcome.kind is OutcomeKind.REFUSED:
        return failed(outcome.reason, f"make {calling} known there, and check destination.ae_title")
    return failed(outcome.reason, "check host, port, firewall and that it runs; contourd goes on trying by itself")


def echo_back(destination: Destination, settings: Settings) -> CheckFinding:
    """Return whether a destination has called this node before; DICOM has no way to ask it to."""
    called = None
    url = settings.database_url
    if has_queue(url):
        database = Database(url)
        try:
            if database.revision() == SCHEMA_REVISION:
                called = last_call(database, destination.ae_title)
        finally:
            database.close()
    if called is not None:
        return ok(f"{destination.ae_title} sent images here, last at {called:%Y-%m-%d %H:%M} UTC")
    node = settings.node
    return unknown(
        f"whether {destination.ae_title} can reach contourd was not tested: DICOM has no way to ask it",
        f"where it is to send CTs or to answer, have it echo {node.ae_title} at this machine, port {node.port}",
    )


def node_certificate(node: NodeSettings) -> CheckFinding:
    """See that our certificate can be used to listen with, lasts, and names this machine."""
    assert node.tls is not None
    listening_context(node.tls)
    own = _presented(node.tls.certificate, node.tls.key, to_listen=True)
    finding = _lasts(own, "node.tls.certificate")
    pairs = own.get("subjectAltName")
    names = {str(name).lower() for _, name in pairs} if isinstance(pairs, tuple) else set()
    ours = {socket.gethostname().lower(), socket.getfqdn().lower(), LOOPBACK.get(node.host, node.host)}
    if finding.remedy or names & ours:
        return finding
    return unknown(
        f"{finding.text}; it is for {', '.join(sorted(names)) or 'no name'}, this machine is called {min(ours)}",
        "senders that check names must call this machine by one of the certificate's",
    )


def destination_certificate(destination: Destination) -> CheckFinding:
    """See that ours can be used to call with, and that the destination's is trusted, for its host, and lasts."""
    tls = destination.tls
    assert tls is not None
    context = calling_context(tls, destination.name)
    if tls.certificate is not None:
        own = _presented(tls.certificate, tls.key, to_listen=False)
        if (finding := _lasts(own, f"destination {destination.name}: tls.certificate")).remedy:
            return finding
    address = (destination.host, destination.port)
    with (
        socket.create_connection(address, timeout=destination.connect_timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=destination.host) as shaken,
    ):
        theirs, version = shaken.getpeercert() or {}, shaken.version()
    finding = _lasts(theirs, f"the certificate of {destination.host}")
    return finding if finding.remedy else ok(f"{version}; {finding.text}")


def _lasts(certificate: Mapping[str, object], what: str) -> CheckFinding:
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    days = (ends - datetime.now(UTC)).days
    text = f"{what} is valid until {ends:%Y-%m-%d}, {days} more days"
    return ok(text) if days > FEWEST_DAYS else failed(text, "renew it, and restart contourd")


def _presented(certificate: Path, key: Path | None, to_listen: bool) -> dict[str, object]:
    """Shake hands in memory and return what the other end reads of a certificate: it is in use here, key and all.

    Raises
    ------
    ssl.SSLError
        The certificate has expired, is not valid yet, or is for another purpose.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    server.load_cert_chain(certificate, key)
    client.load_cert_chain(certificate, key)
    judge = client if to_listen else server
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    judge.load_verify_locations(certificate)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True))
    for _ in range(SHAKE_ROUNDS):
        for end in ends:
            _advance(end.do_handshake)
    shown: dict[str, object] = dict((ends[0] if to_listen else ends[1]).getpeercert() or {})
    return shown


def _advance(shake: Callable[[], None]) -> None:
    with suppress(ssl.SSLWantReadError):
        shake()
