"""Settings of the web page."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, IPvAnyNetwork, model_validator

from contourd.settings.values import Port, Section


class WebSettings(Section):
    """The page that shows the queue and the pictures; without a token it is read-only."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Port = 11180
    token_file: Path | None = None
    hosts: tuple[str, ...] = ()
    proxies: tuple[IPvAnyNetwork, ...] = ()
    cache_mb: int = Field(default=768, ge=64)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches the page."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        if self.enabled and not self.on_loopback and self.token_file is None:
            raise ValueError(
                f"host {self.host} is reached from other machines, so token_file is needed; "
                "or leave host at 127.0.0.1 and put a reverse proxy in front"
            )
        return self
