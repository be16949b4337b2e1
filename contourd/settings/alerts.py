"""Settings of the alerts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from contourd.settings.values import Port, Seconds, Section

Rule = Literal[
    "held", "failed", "destination", "age", "disk", "device", "constancy", "host", "worker", "store", "database"
]
RULES: tuple[Rule, ...] = get_args(Rule)


def _address(text: str) -> str:
    if text.count("@") != 1 or not text.isascii() or any(c.isspace() or c in ',;<>"' for c in text):
        raise ValueError("not an e-mail address")
    return text


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("a webhook begins with http:// or https://")
    try:
        parts = urlsplit(text)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without its other, a port that is none
        whole = False
    if not whole or "@" in parts.netloc or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("not the address of a webhook: http://HOST[:PORT]/PATH, without a user")
    return text


Address = Annotated[str, AfterValidator(_address)]
WebhookURL = Annotated[str, AfterValidator(_url)]


class MailSettings(Section):
    """The server that takes alerts as e-mail."""

    host: str = ""
    port: Port = 25
    security: Literal["none", "starttls", "tls"] = "none"
    user: str = ""
    password_file: Path | None = None
    sender: Address = "contourd@localhost"
    recipients: tuple[Address, ...] = ()
    timeout_s: Seconds = 20.0

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.host) != bool(self.recipients):
            raise ValueError("host and recipients go together")
        if bool(self.user) != bool(self.password_file):
            raise ValueError("user and password_file go together")
        return self


class AlertSettings(Section):
    """What is told, and to whom."""

    rules: tuple[Rule, ...] = RULES
    webhook: WebhookURL | None = None
    webhook_timeout_s: Seconds = 20.0
    destination_down_s: Seconds = 900.0
    oldest_job_s: Seconds = 3600.0
    disk_free_gb: float = Field(default=10.0, ge=0)
    mail: MailSettings = MailSettings()

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.mail.host or self.webhook)
