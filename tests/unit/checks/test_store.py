"""``contourd check`` tries the object store before the first patient does."""

from __future__ import annotations

from pathlib import Path

import pytest

from contourd.checks import host
from contourd.checks.finding import CheckStatus
from contourd.errors import SettingsError, StoreUnavailable
from contourd.settings import SpoolSettings
from contourd.spool.s3 import S3Store
from tests.s3 import Bucket


def settings(bucket: Bucket, tmp_path: Path) -> SpoolSettings:
    return SpoolSettings(root=tmp_path, store=bucket.settings())


def test_a_store_that_does_what_it_must_is_well_and_left_as_it_was(bucket: Bucket, tmp_path: Path) -> None:
    found = host.spool_store(settings(bucket, tmp_path))
    assert found.state is CheckStatus.OK
    assert found.text.startswith("0.1 MB put in ")
    assert list(bucket.open().list("check")) == []


def test_a_store_that_overwrites_is_told(bucket: Bucket, tmp_path: Path) -> None:
    """It takes no notice of the condition, as older stores do."""
    bucket.unconditional = True
    found = host.spool_store(settings(bucket, tmp_path))
    assert found.state is CheckStatus.FAILED
    assert "overwrites an object where it was told not to" in found.text
    assert list(bucket.open().list("check")) == []


@pytest.mark.parametrize(("fault", "said"), [("refuse", "cannot be used"), ("denied", "refuses these credentials")])
def test_a_store_that_cannot_be_used_is_told_with_its_reason(
    bucket: Bucket, tmp_path: Path, fault: str, said: str
) -> None:
    bucket.fault = lambda method, path: fault
    with pytest.raises(StoreUnavailable, match=said) as caught:
        host.spool_store(settings(bucket, tmp_path))
    assert "secret-of-the-test" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[default]\naws_access_key_id = secret-of-the-test\n", "secret-of-the-test"])
def test_a_file_of_credentials_that_is_none_is_told_without_what_is_in_it(
    bucket: Bucket, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "credentials"
    path.write_text(content)
    with pytest.raises(SettingsError, match=r"needs a section \[default\]") as caught:
        S3Store(bucket.settings().model_copy(update={"credentials_file": path}))
    assert "secret-of-the-test" not in str(caught.value)


def test_a_put_whose_answer_was_lost_is_no_second_writer(bucket: Bucket) -> None:
    lost = iter(["lost"])
    bucket.fault = lambda method, path: next(lost, "") if method == "PUT" else ""
    store = bucket.open()
    store.put("series/1.tar", [b"content"])
    assert store.get("series/1.tar") == b"content"


def test_a_slow_store_is_waited_for_no_longer_than_the_settings_say(bucket: Bucket) -> None:
    bucket.fault = lambda method, path: "slow"
    store = S3Store(bucket.settings(timeout_s=0.3))
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        store.get("series/1.tar", 0, 10)
