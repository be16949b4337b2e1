"""The bytes of a received dataset, hashed as they come: by its last fragment the peer has done the waiting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pynetdicom.dimse_messages import DIMSEMessage


class DatasetBytes(BytesIO):
    """What a message carries, as it was sent; it is written from its beginning to its end, once."""

    def __init__(self) -> None:
        super().__init__()
        self._hash = hashlib.sha256()

    def write(self, content: Any, /) -> int:
        """Add a fragment."""
        self._hash.update(content)
        return super().write(content)

    @property
    def sha256(self) -> str:
        """Of what was written."""
        return self._hash.hexdigest()


def receive(dimse: Any, take: Callable[[Any], None], primitive: Any) -> None:
    """Take a part of a message; the first one begins a message whose dataset is hashed."""
    if dimse.message is None:
        dimse.message = DIMSEMessage()
        dimse.message.data_set = DatasetBytes()
    take(primitive)
