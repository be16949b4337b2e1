"""Whether segmentations can be written here: highdicom is an extra."""

from __future__ import annotations

from importlib.util import find_spec

HOW_TO_INSTALL = "pip install 'contourd[seg]'"


def can_write_segmentations() -> bool:
    """Return whether highdicom is installed; it is not imported, which takes half a second."""
    return find_spec("highdicom") is not None
