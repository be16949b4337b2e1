"""Which model it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model's name, version and hash; ``sha256`` of model.json, which holds that of the weights."""

    name: str
    version: str
    sha256: str

    @property
    def stored_name(self) -> str:
        """Its folder in the store."""
        return f"{self.name}-{self.version}-{self.sha256[:12]}"

    def text(self) -> str:
        """Return it in words."""
        return f"{self.name} {self.version} (sha256 {self.sha256[:12]})"
