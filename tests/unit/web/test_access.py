"""The token, sessions, and the brake on guessing."""

from __future__ import annotations

import pytest

from contourd.errors import SettingsError
from contourd.settings import WebSettings
from contourd.web.access import (
    MOST_SESSIONS,
    SESSION_S,
    TRIES,
    TRIES_OF_ALL,
    TRIES_S,
    Access,
    SignInRefused,
    read_token,
)

TOKEN = "a token of 24 characters"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(clock) -> Access:
    return Access(TOKEN, clock)


def test_the_token_opens_a_session_for_twelve_hours(access, clock):
    number = access.sign_in("here", "  Marie   Curie ", TOKEN + "\n")
    person = access.signed_in(number)
    assert person.actor == "Marie Curie"
    assert len(person.csrf) >= 32
    clock.now += SESSION_S - 1
    assert access.signed_in(number) is not None
    clock.now += 2
    assert access.signed_in(number) is None


def test_signing_out_ends_it(access):
    number = access.sign_in("here", "Marie", TOKEN)
    access.sign_out(number)
    assert access.signed_in(number) is None


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", "ö"])
def test_another_token_opens_nothing(access, token):
    with pytest.raises(SignInRefused, match="not the token"):
        access.sign_in("here", "Marie", token)


@pytest.mark.parametrize("name", ["", "   ", "x" * 49, "a\u0007b"])
def test_the_audit_trail_needs_a_name(access, name):
    with pytest.raises(SignInRefused, match="your name"):
        access.sign_in("here", name, TOKEN)


def test_nobody_signs_in_without_a_token(clock):
    access = Access(None, clock)
    assert not access.can_sign_in
    with pytest.raises(SignInRefused):
        access.sign_in("here", "Marie", "")


def test_guessing_is_braked_for_the_one_who_guesses(access, clock):
    for _ in range(TRIES):
        with pytest.raises(SignInRefused, match="not the token"):
            access.sign_in("there", "Mallory", "guess")
        clock.now += 1
    with pytest.raises(SignInRefused, match="wait") as refused:
        access.sign_in("there", "Mallory", TOKEN)
    assert refused.value.wait_s == TRIES_S - TRIES + 1
    assert access.sign_in("here", "Marie", TOKEN)
    clock.now += refused.value.wait_s
    assert access.sign_in("there", "Mallory", TOKEN)


def test_guessing_from_many_addresses_is_braked_for_all(access):
    for i in range(TRIES_OF_ALL):
        with pytest.raises(SignInRefused):
            access.sign_in(f"10.0.0.{i}", "Mallory", "guess")
    with pytest.raises(SignInRefused, match="wait"):
        access.sign_in("10.0.1.1", "Mallory", TOKEN)


def test_sessions_are_bounded(access):
    first = access.sign_in("here", "Marie", TOKEN)
    for _ in range(MOST_SESSIONS):
        last = access.sign_in("here", "Marie", TOKEN)
    assert access.signed_in(first) is None
    assert access.signed_in(last) is not None


def test_the_token_is_read_from_a_file_of_its_owner(tmp_path):
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    assert read_token(None) is None
    file.chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        read_token(file)


def test_a_short_or_missing_token_is_refused_with_the_remedy(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(SettingsError, match="openssl rand"):
        read_token(file)
    file.write_text("short")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="16 characters"):
        read_token(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "node.hospital.example"])
def test_other_machines_need_a_token(host, tmp_path):
    with pytest.raises(ValueError, match="token_file"):
        WebSettings(enabled=True, host=host)
    assert not WebSettings(enabled=True, host=host, token_file=tmp_path / "token").on_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_this_machine_needs_none(host):
    assert WebSettings(enabled=True, host=host).on_loopback
