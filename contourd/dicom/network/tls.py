"""TLS for DICOM (PS3.15 B.12, BCP 195): TLS 1.2 and later, with forward secrecy and authenticated encryption alone."""

from __future__ import annotations

import ssl

from contourd.errors import NodeError
from contourd.settings import DestinationTLS, NodeTLS

# RFC 9325 4.2; the suites of TLS 1.3 are all of this kind.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def listening_context(settings: NodeTLS) -> ssl.SSLContext:
    """Prepare the listening side.

    Raises
    ------
    NodeError
        A file cannot be read or used, with its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, settings, "node.tls")
    if settings.require_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def without_certificate(settings: NodeTLS) -> NodeTLS:
    """Return the same for the node's calls to itself, which show none."""
    return settings.model_copy(update={"require_certificate": False})


def calling_context(settings: DestinationTLS, name: str) -> ssl.SSLContext:
    """Prepare the calling side: the destination's certificate is checked against the authorities, always.

    Raises
    ------
    NodeError
        As for the listening side.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = settings.check_host
    _load(context, settings, f"destination {name}: tls")
    return context


def _load(context: ssl.SSLContext, settings: NodeTLS | DestinationTLS, key: str) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)
    try:
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise NodeError(f"{key}: certificate and key cannot be used: {error}") from error
    try:
        if settings.authorities is not None:
            context.load_verify_locations(settings.authorities)
        elif isinstance(settings, DestinationTLS):
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except (OSError, ValueError) as error:
        raise NodeError(f"{key}: authorities cannot be used: {error}") from error


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase, and nobody is there to type it: give one without")
