"""Settings of the listening side."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, IPvAnyNetwork, model_validator

from contourd.settings.values import AETitle, Port, Seconds, Section


class NodeTLS(Section):
    """The listening side's certificate and key (PEM), and who must have signed those of the senders."""

    certificate: Path
    key: Path
    authorities: Path | None = None
    require_certificate: bool = True

    @model_validator(mode="after")
    def _authorities_are_there(self) -> Self:
        if self.require_certificate and self.authorities is None:
            raise ValueError("require_certificate needs authorities: the certificates that sign those of the senders")
        return self


class NodeSettings(Section):
    """The listening side."""

    ae_title: AETitle = "CONTOURD"
    host: str = "0.0.0.0"
    port: Port = 11112
    allowed_callers: tuple[AETitle, ...] = ()
    allowed_peers: tuple[IPvAnyNetwork, ...] = ()
    max_associations: int = Field(default=20, ge=1)
    associations_per_peer: int = Field(default=10, ge=1)
    receivers: int = Field(default=2, ge=0, le=64)
    network_timeout_s: Seconds = 60.0
    request_timeout_s: Seconds = 10.0
    association_limit_s: Seconds = 7200.0
    max_pdu_kb: int = Field(default=1024, ge=256)
    max_instance_mb: int = Field(default=64, ge=1)
    commitment: bool = False
    tls: NodeTLS | None = None
