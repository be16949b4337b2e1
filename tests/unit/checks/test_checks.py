"""`contourd check` on the machine's side, and the list itself: states, stable names, exit status, and no early end."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from contourd.checks import constancy, host, models
from contourd.checks.finding import CheckStatus
from contourd.checks.listing import checks_of
from contourd.cli import app
from contourd.errors import ModelError, SettingsError
from contourd.model.bundle import load_bundle
from contourd.model.transforms import Preprocess
from contourd.settings import SpoolSettings, load_settings
from contourd.spool.folder import Spool
from contourd.store.database import Database, revisions
from contourd.store.tables import SCHEMA_REVISION
from tests.checking import write_settings
from tests.peers import LOOPBACK, free_port

INSTALL = Path(__file__).resolve().parents[3] / "docs" / "install.md"
# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def run(path: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["check", "--config", str(path), *more])


def test_the_spool_takes_a_file_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    finding = host.spool_write(SpoolSettings(root=tmp_path))
    assert finding.state is CheckStatus.OK
    assert list(tmp_path.iterdir()) == []


def test_a_spool_that_is_not_there_or_is_a_file(tmp_path: Path) -> None:
    absent = SpoolSettings(root=tmp_path / "a" / "spool")
    assert host.spool_write(absent).state is CheckStatus.UNKNOWN
    assert host.spool_modes(absent).state is CheckStatus.UNKNOWN
    assert host.spool_space(absent).state is CheckStatus.OK
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.touch()
    for root in (file, file / "spool"):
        finding = host.spool_write(SpoolSettings(root=root))
        assert finding.state is CheckStatus.FAILED
        assert f"install -d -m 0750 {root}" in finding.remedy


def test_free_space_is_compared_with_the_watermark(tmp_path: Path) -> None:
    assert host.spool_space(SpoolSettings(root=tmp_path, min_free_gb=0)).state is CheckStatus.OK
    finding = host.spool_space(SpoolSettings(root=tmp_path, min_free_gb=1e9))
    assert finding.state is CheckStatus.FAILED
    assert "spool.min_free_gb" in finding.remedy


@pytest.mark.parametrize(
    ("mode", "state"), [(0o755, CheckStatus.FAILED), (0o751, CheckStatus.FAILED), (0o750, CheckStatus.OK)]
)
def test_others_may_not_enter_the_spool(tmp_path: Path, mode: int, state: CheckStatus) -> None:
    tmp_path.chmod(mode)
    assert host.spool_modes(SpoolSettings(root=tmp_path)).state is state


def test_a_spool_that_contourd_makes_keeps_others_out(tmp_path: Path) -> None:
    root = tmp_path / "srv" / "spool"
    Spool(root)
    assert host.spool_modes(SpoolSettings(root=root)).state is CheckStatus.OK


def test_settings_that_anybody_may_change(tmp_path: Path) -> None:
    path = tmp_path / "contourd.toml"
    path.touch()
    path.chmod(0o640)
    assert host.settings_file(path).state is CheckStatus.OK
    path.chmod(0o666)
    assert host.settings_file(path).remedy == f"chmod o-w {path}"


def test_the_database_is_looked_at_and_not_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'queue.sqlite'}"
    assert host.database(url).state is CheckStatus.OK
    assert list(tmp_path.iterdir()) == []
    database = Database(url)
    database.upgrade()
    assert f"revision {SCHEMA_REVISION}, as" in host.database(url).text
    older = revisions()[0]
    for revision, state in ((older, CheckStatus.FAILED), ("9999", CheckStatus.FAILED)):
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :r"), {"r": revision})
        finding = host.database(url)
        assert (finding.state, revision in finding.text, bool(finding.remedy)) == (state, True, True)
    database.close()


def test_a_damaged_model_and_one_that_is_whole(small_bundle: Path, tmp_path: Path) -> None:
    assert (
        models.model(str(small_bundle), load_settings(write_settings(tmp_path, small_bundle))).state is CheckStatus.OK
    )
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in small_bundle.iterdir():
        (damaged / file.name).write_bytes(file.read_bytes())
    weights = damaged / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    red = {c["name"]: c for c in json.loads(run(write_settings(tmp_path, damaged), "--json").output)["checks"]}
    assert red[f"model:{damaged}"]["state"] == "failed"
    assert "is damaged" in red[f"model:{damaged}"]["told"]
    assert "install the model again" in red[f"model:{damaged}"]["remedy"]


def test_a_network_that_takes_over_half_of_a_job_s_time(small_bundle: Path, tmp_path: Path) -> None:
    settings = load_settings(write_settings(tmp_path, small_bundle))
    short = settings.model_copy(update={"worker": settings.worker.model_copy(update={"time_limit_s": 1e-6})})
    slow = models.device(str(small_bundle), short)
    assert (slow.state, "worker.time_limit_s" in slow.remedy) == (CheckStatus.FAILED, True)
    assert "250 slices of 512 x 512" in slow.text
    assert "GiB" in slow.text


def test_the_largest_volume_fills_what_the_shipped_model_cuts_out() -> None:
    """A wider or longer body gives the network no more: 240 mm across and 420 mm along, at 4 mm."""
    config = load_bundle("hn7").config.preprocess
    prepared = Preprocess(config).prepare(models.largest_volume())
    dz, _, dx = config.spacing_mm
    assert prepared.image.shape[0] >= int(config.length_mm / dz)
    assert prepared.image.shape[2] >= int(2 * config.half_width_mm / dx)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("echo yes", CheckStatus.OK),
        ("echo no", CheckStatus.FAILED),
        ("exit 1", CheckStatus.UNKNOWN),
        (None, CheckStatus.UNKNOWN),
    ],
)
def test_the_time_service(
    answer: str | None, state: CheckStatus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if answer is not None:
        program = tmp_path / "timedatectl"
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
    assert host.time_service().state is state


def test_the_clock_of_this_machine() -> None:
    assert host.clock().state is CheckStatus.OK


def test_a_missing_baseline_is_a_remark_and_not_red(tmp_path: Path, small_bundle: Path) -> None:
    path = write_settings(tmp_path, small_bundle)
    settings = load_settings(path)
    found = constancy.baseline(settings)
    assert (found.state, "contourd constancy baseline" in found.remedy) == (CheckStatus.OK, True)
    settings.spool.root.mkdir(parents=True, exist_ok=True)
    (settings.spool.root / "constancy-baseline.json").touch()
    assert (constancy.baseline(settings).state, constancy.baseline(settings).remedy) == (CheckStatus.OK, "")


def test_the_names_are_stable(tmp_path: Path, small_bundle: Path) -> None:
    path = write_settings(tmp_path, small_bundle)
    names = [check.name for check in checks_of(load_settings(path), path)]
    assert names == [
        *("settings", "spool.write", "spool.space", "spool.modes", "database", "hosts", "decoders"),
        *("clock", "ntp", "constancy", "reviews", "port"),
        *("echo:pacs", "echo-back:pacs", f"model:{small_bundle}", f"device:{small_bundle}"),
    ]
    more = "[check]\nrt_utils = true\n[node.tls]\ncertificate = 'c'\nkey = 'k'\nrequire_certificate = false\n"
    path = write_settings(tmp_path, small_bundle, more + "[delivery]")
    asked = {check.name for check in checks_of(load_settings(path), path)}
    assert asked - set(names) == {"second-reader", "tls:node"}
    path = write_settings(
        tmp_path,
        small_bundle,
        "[[destination]]\nproducts = ['seg']\nname = 'v'\nae_title = 'V'\nhost = 'h'\nport = 1\n[delivery]",
    )
    assert "segmentation" in {check.name for check in checks_of(load_settings(path), path)}


def test_a_shadow_that_cannot_be_loaded_is_told(tmp_path: Path, small_bundle: Path) -> None:
    path = write_settings(tmp_path, small_bundle)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[[route]]", '[[route]]\nshadow = "nosuch"'), encoding="utf-8")
    (found,) = [check for check in checks_of(load_settings(path), path) if check.name == "shadow:nosuch"]
    assert "patients are contoured without it" in found.remedy
    with pytest.raises(ModelError, match="nosuch"):
        found.run()
    path.write_text(text.replace("[[route]]", '[[route]]\nshadow = "hn7"'), encoding="utf-8")
    (found,) = [check for check in checks_of(load_settings(path), path) if check.name == "shadow:hn7"]
    assert found.run().state is CheckStatus.OK


def test_the_document_has_a_row_for_each_check(tmp_path: Path, small_bundle: Path) -> None:
    everything = (
        "[check]\nrt_utils = true\n[web]\nenabled = true\n[alerts]\nwebhook = 'https://ops.example.org/'\n"
        "[alerts.mail]\nhost = 'mail.example.org'\nsender = 'a@example.org'\nrecipients = ['b@example.org']\n"
        "[node.tls]\ncertificate = 'c'\nkey = 'k'\nrequire_certificate = false\n"
        "[spool.store]\nbucket = 'contourd'\n"
        "[[destination]]\nname = 'viewer'\nae_title = 'V'\nhost = 'viewer'\nport = 104\nproducts = ['seg']\n[delivery]"
    )
    path = write_settings(tmp_path, small_bundle, everything)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[[route]]", '[[route]]\nshadow = "hn7"'), encoding="utf-8")
    names = {check.name.partition(":")[0] for check in checks_of(load_settings(path), path)}
    section = INSTALL.read_text(encoding="utf-8").split("\n## 3. Check\n")[1].split("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name for cell in cells for name in re.findall(r"`([\w.-]+)(?::\w+)?`", cell)} == names


def test_a_check_that_breaks_does_not_end_the_list(tmp_path: Path, small_bundle: Path) -> None:
    """No such kind of database: SQLAlchemy's own error, which is none of ours."""
    path = write_settings(tmp_path, small_bundle, '[database]\nurl = "nosuch://queue"')
    ran = run(path, "--json")
    assert ran.exit_code == 1
    answer = json.loads(ran.output)
    assert answer["well"] is False
    assert answer["settings"] == str(path)
    by_name = {check["name"]: check for check in answer["checks"]}
    assert "NoSuchModuleError" in by_name["database"]["told"]
    assert "database.url" in by_name["database"]["remedy"]
    assert by_name["echo:pacs"]["state"] == "failed"
    assert by_name[f"device:{small_bundle}"]["state"] == "ok"
    assert list(answer["checks"][0]) == ["name", "state", "told", "remedy"]


def test_each_red_line_is_followed_by_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir(mode=0o755)
    (tmp_path / "spool").chmod(0o755)
    ran = run(write_settings(tmp_path, "nosuch"))
    assert ran.exit_code == 1
    lines = ran.output.splitlines()
    (place,) = (i for i, line in enumerate(lines) if line.startswith("RED spool.modes"))
    assert lines[place + 1].strip() == f"-> chmod o-rwx {tmp_path / 'spool'}"
    assert any(line.startswith("ok  settings") for line in lines)
    assert " red, " in lines[-1]


def test_settings_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "contourd.toml"
    path.write_text("[node]\nprot = 104\n")
    ran = run(path, "--json")
    assert ran.exit_code == 2
    (only,) = json.loads(ran.output)["checks"]
    assert (only["name"], only["state"]) == ("settings", "failed")
    assert "node.prot" in only["told"]


def test_the_page_needs_its_port_and_a_token_that_others_cannot_read(tmp_path: Path, small_bundle: Path) -> None:
    token, port = tmp_path / "web.token", free_port()
    token.write_text("x" * 32)
    token.chmod(0o600)
    more = f'[web]\nenabled = true\nport = {port}\ntoken_file = "{token}"\n'
    checks = checks_of(load_settings(write_settings(tmp_path, small_bundle, more)), tmp_path / "contourd.toml")
    page = next(check for check in checks if check.name == "web")
    assert page.run().state is CheckStatus.OK
    with socket.create_server((LOOPBACK, port)):
        assert page.run().remedy == "stop what listens there, or change web.host or web.port"
    token.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        page.run()
