"""Settings of the spool: the folder, and what several hosts have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from contourd.settings.values import Seconds, Section


class StoreSettings(Section):
    """An object store that speaks S3; its credentials are in a file or in the environment, never here."""

    endpoint: str = ""
    bucket: str = Field(min_length=3, max_length=63, pattern=r"^[a-z0-9][a-z0-9.-]+$")
    prefix: str = Field(default="contourd", pattern=r"^[A-Za-z0-9._/-]*$")
    region: str = "us-east-1"
    credentials_file: Path | None = None
    timeout_s: Seconds = 10.0

    @field_validator("endpoint")
    @classmethod
    def _is_url(cls, endpoint: str) -> str:
        if endpoint and not endpoint.startswith(("http://", "https://")):
            raise ValueError("an endpoint begins with https://, or with http:// where nobody can listen")
        if "@" in endpoint:
            raise ValueError("credentials do not belong into the endpoint; see credentials_file")
        return endpoint


class SpoolSettings(Section):
    """Where instances and structure sets are kept."""

    root: Path = Path("/var/lib/contourd")
    min_free_gb: float = Field(default=2.0, ge=0)
    shared: bool = False
    durable: Literal["local", "store"] = "local"
    cache_gb: float = Field(default=50.0, gt=0)
    store: StoreSettings | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.shared and self.store is not None:
            raise ValueError("shared: hosts have one folder, or an object store; leave out one of both")
        if self.durable == "store" and self.store is None:
            raise ValueError('durable: "store" needs [spool.store]')
        return self
