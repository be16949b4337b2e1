"""JSON that is signed with the site's key: who changed it, or wrote it elsewhere, is found out."""

from __future__ import annotations

import hmac
import json

from contourd.spool.folder import Spool


def canonical(content: object) -> bytes:
    """Write JSON in the one way that is signed."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def sign(spool: Spool, purpose: str, content: object) -> str:
    """Return the signature of a content for one purpose; raises SpoolError where the site's key cannot be read."""
    return spool.signature(purpose, canonical(content))


def is_signed(spool: Spool, purpose: str, content: object, signature: str) -> bool:
    """Return whether a signature is this site's of that content; raises SpoolError as ``sign`` does."""
    return hmac.compare_digest(signature.encode(), sign(spool, purpose, content).encode())
