"""Checks of the ways by which alerts go out: the mail server and the webhook. Neither gets a message unless asked."""

from __future__ import annotations

import smtplib
import socket
import ssl
from urllib.parse import urlsplit

from contourd.checks.finding import CheckFinding, failed, ok
from contourd.commands import command
from contourd.errors import NoticeNotSent
from contourd.observe.notices import MailChannel, Notice, notice_of_test
from contourd.settings import MailSettings

HTTPS, HTTP = 443, 80


def mail(settings: MailSettings, node: str, send: bool) -> CheckFinding:
    """Connect to the mail server, encrypt, log in and name sender and recipients; ``send``: and send a test.

    Parameters
    ----------
    node
        AE title of this node, for the test's subject.
    """
    where = f"{settings.host}:{settings.port}"
    channel = MailChannel(settings)
    notice: Notice = notice_of_test(node)
    try:
        if send:
            channel.send(notice)
            return ok(f"{where} took a test mail for {', '.join(settings.recipients)}: see whether it arrived")
        channel.rehearse()
    except NoticeNotSent as error:
        return failed(str(error), _remedy(error.__cause__))
    how = {"none": "without encryption", "starttls": "by STARTTLS", "tls": "by TLS"}[settings.security]
    login = f", takes the log-in of {settings.user}" if settings.user else ""
    return ok(f"{where} answers {how}{login}, and takes the addresses; --mail sends a test")


def _remedy(cause: BaseException | None) -> str:
    if isinstance(cause, smtplib.SMTPAuthenticationError):
        return "check alerts.mail.user and what alerts.mail.password_file holds"
    if isinstance(cause, smtplib.SMTPSenderRefused | smtplib.SMTPRecipientsRefused):
        return "check alerts.mail.sender and recipients, and have the server take mail of this machine"
    if isinstance(cause, ssl.SSLError | smtplib.SMTPNotSupportedError):
        return "check alerts.mail.security and port, and that the server's certificate is trusted here"
    if isinstance(cause, FileNotFoundError | PermissionError):
        return "check alerts.mail.password_file: it must be there, and readable by this user"
    return "check alerts.mail.host, port and security, the name server and the firewall"


def webhook(url: str, timeout_s: float) -> CheckFinding:
    """Connect to the webhook's server, and shake hands where it is https; nothing is posted."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    address = (host, parts.port or (HTTPS if secure else HTTP))
    where = f"{host}:{address[1]}"
    try:
        with socket.create_connection(address, timeout=timeout_s) as plain:
            if secure:
                with ssl.create_default_context().wrap_socket(plain, server_hostname=host):
                    pass
    except ssl.SSLError as error:
        return failed(
            f"{where}: {error.reason or error}",
            "check alerts.webhook, and that its certificate is trusted by this machine",
        )
    except OSError as error:
        return failed(
            f"{where} cannot be reached: {error.strerror or error}",
            "check alerts.webhook, the name server and the firewall; contourd uses no proxy",
        )
    return ok(f"{where} answers{' by TLS' if secure else ''}; nothing was posted, `{command('alert')}` posts a test")
