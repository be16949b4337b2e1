"""Whether DICOMweb can be spoken here: httpx is an extra."""

from __future__ import annotations

from importlib.util import find_spec

HOW_TO_INSTALL = "pip install 'contourd[stow]'"


def can_speak_dicomweb() -> bool:
    """Return whether httpx is installed; it is not imported."""
    return find_spec("httpx") is not None
