"""A message to people or programs elsewhere: by e-mail, or to a webhook. No message holds anything of a patient."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Protocol
from urllib.parse import urlsplit

from contourd.commands import command
from contourd.errors import NoticeNotSent
from contourd.observe.concerns import Concern
from contourd.settings import AlertSettings, MailSettings
from contourd.system.bounded_exchange import OK, Budget, BudgetedSMTP, BudgetedSMTPS, post
from contourd.system.logs import one_line
from contourd.system.regular_files import read_regular

# RFC 5321, 4.2.3.
SMTP_OK, SMTP_FORWARDED = 250, 251


@dataclass(frozen=True, slots=True)
class Notice:
    """What began and what ended since the last one."""

    node: str
    began: Sequence[Concern]
    ended: Sequence[str]

    def subject(self) -> str:
        """Sum it up in a line."""
        counts: dict[str, int] = {}
        for concern in self.began:
            counts[concern.rule] = counts.get(concern.rule, 0) + 1
        parts = [f"{number} {rule}" if number > 1 else rule for rule, number in counts.items()]
        parts += [f"{len(self.ended)} over"] if self.ended else []
        return f"[contourd {self.node}] {', '.join(parts)}"

    def text(self) -> str:
        """Return it as lines of text."""
        lines = [concern.text for concern in self.began] + [f"over: {subject}" for subject in self.ended]
        return "\n".join([*lines, "", f"Look with `{command('status')}`, or on the node's page.", ""])

    def content(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {
            "node": self.node,
            "began": [{"rule": c.rule, "subject": c.subject, "text": c.text} for c in self.began],
            "ended": list(self.ended),
        }


def notice_of_test(node: str) -> Notice:
    """Return a notice that says that it is a test."""
    return Notice(node, [Concern("test", "test", "this is a test: alerts of this node reach you")], [])


class NotificationChannel(Protocol):
    """A way out for notices."""

    name: str

    def send(self, notice: Notice) -> None:
        """Send one, or raise NoticeNotSent."""


class MailChannel:
    """E-mail by SMTP."""

    name = "mail"

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    def send(self, notice: Notice) -> None:
        """Hand the message to the server."""
        mail = self._settings
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = notice.subject(), mail.sender, ", ".join(mail.recipients)
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(notice.text())
        with self._session() as server:
            server.send_message(message)

    def rehearse(self) -> None:
        """Do everything up to the message itself: connect, encrypt, log in, name the sender and the recipients.

        Raises
        ------
        NoticeNotSent
            The server does not take one of these.
        """
        mail = self._settings
        with self._session() as server:
            code, answer = server.mail(mail.sender)
            if code != SMTP_OK:
                raise smtplib.SMTPSenderRefused(code, answer, mail.sender)
            answers = {recipient: server.rcpt(recipient) for recipient in mail.recipients}
            server.rset()
            if refused := {r: answer for r, answer in answers.items() if answer[0] not in (SMTP_OK, SMTP_FORWARDED)}:
                raise smtplib.SMTPRecipientsRefused(refused)

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        mail = self._settings
        try:
            with self._connected() as server:
                server.ehlo_or_helo_if_needed()
                if mail.password_file is not None:
                    server.login(mail.user, read_regular(mail.password_file).decode().strip())
                yield server
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise NoticeNotSent(
                one_line(f"{mail.host}:{mail.port} took no mail: {type(error).__name__}: {error}")
            ) from error

    def _connected(self) -> smtplib.SMTP:
        mail = self._settings
        budget, context = Budget(mail.timeout_s), ssl.create_default_context()
        if mail.security == "tls":
            return BudgetedSMTPS(budget, mail.host, mail.port, timeout=mail.timeout_s, context=context)
        server = BudgetedSMTP(budget, mail.host, mail.port, timeout=mail.timeout_s)
        if mail.security == "starttls":
            try:
                server.starttls(context=context)
            except (OSError, smtplib.SMTPException, ValueError):
                server.close()
                raise
        return server


class WebhookChannel:
    """JSON by POST; redirections are not followed."""

    name = "webhook"

    def __init__(self, url: str, timeout_s: float) -> None:
        self._parts = urlsplit(url)
        self._timeout_s = timeout_s

    def send(self, notice: Notice) -> None:
        """Post the message."""
        parts = self._parts
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            status = post(self._connection, path, json.dumps(notice.content()).encode(), Budget(self._timeout_s))
        except (OSError, HTTPException, ValueError) as error:
            raise NoticeNotSent(one_line(f"the webhook took nothing: {type(error).__name__}: {error}")) from error
        if status not in OK:
            known = status in list(HTTPStatus)
            text = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
            raise NoticeNotSent(f"the webhook took nothing: it answered {text}")

    def _connection(self, timeout_s: float) -> HTTPConnection:
        parts = self._parts
        if parts.scheme == "https":
            return HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout_s, context=ssl.create_default_context()
            )
        return HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)


def channels_of(settings: AlertSettings) -> tuple[NotificationChannel, ...]:
    """Build those that the settings name."""
    channels: list[NotificationChannel] = []
    if settings.mail.host:
        channels.append(MailChannel(settings.mail))
    if settings.webhook:
        channels.append(WebhookChannel(settings.webhook, settings.webhook_timeout_s))
    return tuple(channels)
