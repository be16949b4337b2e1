"""`contourd db` against the real node: saved at work, put back, taken to another version and back, and on it goes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.errors import ContourdError
from contourd.store.tables import SCHEMA_REVISION
from tests.bright import phantom, series_uid
from tests.integration.destination import receiver
from tests.integration.quick_node import watched
from tests.interop.node import CONTOURD, serve, write_configuration
from tests.peers import RUN_S, free_port, storescu

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def umask():
    """The commands set it for their own process, which here is the test's."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def run(folder: Path, *arguments: str | Path, fails: bool = False) -> str:
    """Run a command in this process; starting one takes longer than what it does."""
    ran = CliRunner().invoke(app, [*map(str, arguments), "--config", str(folder / "contourd.toml")])
    if ran.exception is not None and not isinstance(ran.exception, ContourdError):
        raise ran.exception
    assert (ran.exception is not None) == fails, ran.output
    return str(ran.exception) if fails else ran.output


def refused_to_serve(folder: Path) -> str:
    command = [*CONTOURD, "serve", "--config", str(folder / "contourd.toml")]
    ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False)
    assert ran.returncode == 1
    return ran.stderr.decode()


def actions(folder: Path) -> list[tuple[str, str]]:
    lines = [json.loads(line) for line in run(folder, "audit", "--json", "--action", "db").splitlines()]
    return [(line["action"], line["detail"]) for line in lines]


@pytest.mark.peers
def test_a_node_is_saved_at_work_and_goes_on_from_the_backup(tmp_path, bright_bundle):
    folder, copy, port = tmp_path / "node", tmp_path / "copy.sqlite", free_port()
    before, after, gap = (
        write_ct_series(phantom(), tmp_path / name, SeriesIdentity(name, f"{name}^Test"))
        for name in ("before", "after", "gap")
    )
    (gap / "CT_0007.dcm").unlink()
    absent = {"pacs": ("RECEIVER", free_port())}
    with serve(folder, bright_bundle, absent, port) as node:
        for ct in (before, gap):
            assert storescu(port, ct, calling="CT1").status == 0
        watched(node).wait_until(lambda s: s["counts"]["DELIVERING"] == 1 and s["counts"]["HELD"] == 1)
        told = run(folder, "db", "backup", copy)
        assert f"{copy} is whole" in told
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert "is not overwritten" in run(folder, "db", "backup", copy, fails=True)
        for command in (("restore", copy), ("upgrade",), ("downgrade", "0002")):
            assert "another contourd already serves the spool" in run(folder, "db", *command, fails=True)
        assert storescu(port, after, calling="CT1").status == 0
        watched(node).wait_until(lambda s: s["counts"]["DELIVERING"] == 2)
    (folder / "spool" / "contourd.sqlite").write_bytes(b"a disk that failed" * 1000)
    told = run(folder, "db", "restore", copy)
    assert "is kept as" in told
    assert "it records the images of the spool that the backup does not know" in told
    assert [action for action, _ in actions(folder)] == ["db restore"]
    with receiver() as peer:
        write_configuration(folder, port, bright_bundle, {"pacs": ("RECEIVER", peer.port)})
        with serve(folder, bright_bundle, {"pacs": ("RECEIVER", peer.port)}, port) as node:
            status = watched(node).wait_until(lambda s: s["counts"]["DELIVERED"] == 2)
    assert status["counts"]["HELD"] == 1
    assert sorted(series for _, series in peer.received) == sorted(map(series_uid, (before, after)))
    assert {entry["patient"] for entry in status["series"]}.isdisjoint(j["patient"] for j in status["jobs"])


@pytest.mark.peers
def test_old_and_new_refuse_each_other_and_are_mended_by_what_they_say(tmp_path, bright_bundle):
    folder, port = tmp_path / "node", free_port()
    destinations = {"pacs": ("RECEIVER", free_port())}
    write_configuration(folder, port, bright_bundle, destinations)
    assert "there is no queue" in run(folder, "db", "upgrade", fails=True)
    ct = write_ct_series(phantom(), tmp_path / "ct", SeriesIdentity("p", "p^Test"))
    with serve(folder, bright_bundle, destinations, port) as node:
        assert storescu(port, ct).status == 0
        watched(node).wait_until(lambda s: s["counts"]["DELIVERING"] == 1)
    assert "nothing to do" in run(folder, "db", "upgrade")
    assert "is not older" in run(folder, "db", "downgrade", SCHEMA_REVISION, fails=True)
    told = run(folder, "db", "downgrade", "0002")
    assert f"went from revision {SCHEMA_REVISION} to 0002" in told
    saved = Path(told.split("backup: ")[1].splitlines()[0])
    assert saved.parent == folder / "spool"
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    for refusal in (refused_to_serve(folder), run(folder, "status", fails=True), run(folder, "audit", fails=True)):
        assert f"is at revision 0002, this version needs {SCHEMA_REVISION}" in refusal
        assert f"`contourd db upgrade --config {folder / 'contourd.toml'}`" in refusal
    assert f"went from revision 0002 to {SCHEMA_REVISION}" in run(folder, "db", "upgrade")
    assert actions(folder) == [
        ("db upgrade", f"0002 to {SCHEMA_REVISION}")
    ]  # the older schema has no trail; the backup has it
    with closing(sqlite3.connect(saved)) as backup:
        assert ("db downgrade", f"{SCHEMA_REVISION} to 0002") in backup.execute(
            "SELECT action, detail FROM audit"
        ).fetchall()
    with serve(folder, bright_bundle, destinations, port) as node:
        assert watched(node).status()["counts"]["DELIVERING"] == 1
    lines = [json.loads(line) for line in run(folder, "audit", "--json").splitlines()]
    told = [line["action"] for line in lines if line["actor"] == "contourd" and not line["state"]]
    # Since the trail began anew; the worker may have been stopped before it had read its model.
    assert [action for action in told if action != "model"] == ["start", "configuration", "stop"]
    with closing(sqlite3.connect(folder / "spool" / "contourd.sqlite")) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.commit()
    for refusal in (refused_to_serve(folder), run(folder, "db", "upgrade", fails=True)):
        assert "install the newer contourd" in refusal
        assert f"`contourd db downgrade {SCHEMA_REVISION} --config {folder / 'contourd.toml'}`" in refusal
