"""`contourd check` of how alerts go out: nothing is sent unless asked, and each red says how to mend it."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from contourd.checks import alerts
from contourd.checks.finding import CheckStatus
from contourd.cli import app
from contourd.settings import MailSettings
from tests.certificates import Authority
from tests.checking import write_settings
from tests.peers import LOOPBACK, free_port
from tests.sinks import smtp_sink, webhook_sink

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def to(port: int, **more: object) -> MailSettings:
    return MailSettings.model_validate({"host": LOOPBACK, "port": port, "recipients": ["p@hospital.example"], **more})


def check(path: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["check", "--config", str(path), *more], env={"COLUMNS": "200"})


def test_everything_but_the_message_is_tried(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("tr0ub4dor")
    with smtp_sink() as box:
        found = alerts.mail(to(box.port, user="node", password_file=secret), "CONTOURD", send=False)
        assert found.state is CheckStatus.OK
        assert "takes the log-in of node, and takes the addresses" in found.text
        assert [line.split()[0].upper() for line in box.commands] == ["EHLO", "AUTH", "MAIL", "RCPT", "RSET", "QUIT"]
        assert box.messages == []


def test_a_test_mail_is_sent_on_request(tmp_path, small_bundle):
    with smtp_sink() as box, webhook_sink() as hook:
        more = (
            f'[alerts]\nwebhook = "{hook.url}"\n[alerts.mail]\nhost = "{LOOPBACK}"\nport = {box.port}\n'
            'recipients = ["p@hospital.example"]\n'
        )
        path = write_settings(tmp_path, small_bundle, more)
        ran = check(path)
        assert "nothing was posted" in ran.output
        assert "--mail sends a test" in ran.output
        assert box.messages == hook.posts == []
        assert "took a test mail for p@hospital.example" in check(path, "--mail").output
        (message,) = box.messages
        assert "this is a test" in message.get_content()
        assert hook.posts == []


def test_a_red_says_what_to_look_at(tmp_path):
    nobody = alerts.mail(to(free_port()), "CONTOURD", send=False)
    assert (nobody.state, nobody.remedy.split(",")[0]) == (CheckStatus.FAILED, "check alerts.mail.host")
    with smtp_sink() as box:
        plain = alerts.mail(to(box.port, security="starttls"), "CONTOURD", send=False)
        assert "check alerts.mail.security" in plain.remedy
        gone = alerts.mail(to(box.port, user="node", password_file=tmp_path / "gone"), "CONTOURD", send=False)
        assert "check alerts.mail.password_file" in gone.remedy
        box.strangers = True
        refused = alerts.mail(to(box.port), "CONTOURD", send=False)
        assert refused.state is CheckStatus.FAILED
        assert "check alerts.mail.sender and recipients" in refused.remedy
    assert alerts.webhook(f"http://{LOOPBACK}:{free_port()}/x", 5).state is CheckStatus.FAILED


def test_a_webhook_whose_certificate_nobody_knows_is_red(tmp_path):
    signed = Authority(tmp_path).sign("hook")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(signed.certificate, signed.key)
    with socket.create_server((LOOPBACK, 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, pytest.raises(ssl.SSLError):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=answer)
        thread.start()
        found = alerts.webhook(f"https://{LOOPBACK}:{listener.getsockname()[1]}/x", 10)
        thread.join()
    assert found.state is CheckStatus.FAILED
    assert "certificate" in found.text + found.remedy
