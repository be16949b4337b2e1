"""The report that people and programs read, and the command line around it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from contourd.observe.report import ReportFilter, read_report
from contourd.observe.status import to_json
from contourd.observe.status_tables import age, job_in_full, series_in_full, to_table
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings, load_settings
from contourd.spool.watching import StoreStanding
from contourd.store.database import Database
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.states import DeliveryState, JobState, ProcessRole, SeriesState
from contourd.store.tables import DeliveryRow, JobRow, SeriesRow
from contourd.system.identity import host_name
from tests.databases import queue_url
from tests.reasons import because

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
pytestmark = pytest.mark.both_databases

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def configuration(tmp_path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_text("{}")
    path = tmp_path / "contourd.toml"
    path.write_text(
        f'[spool]\nroot = "{tmp_path}"\n[database]\nurl = "{queue_url(tmp_path)}"\n'
        '[[destination]]\nname = "pacs"\nae_title = "A"\nhost = "h"\nport = 1\n'
        f'[[route]]\nmodel = "{model}"\ndestinations = ["pacs"]\n'
    )
    return path


@pytest.fixture
def settings(configuration) -> Settings:
    return load_settings(configuration)


@pytest.fixture
def database(settings):
    database = Database(settings.database_url)
    database.upgrade()
    yield database
    database.close()


MISSING = because("missing slices at z = 6.00 mm", HoldReason.SLICES_MISSING)


def fill(database) -> None:
    """A series that is held, a job that is held, a job whose delivery waits, a job that is delivered."""
    times = {"created_at": NOW - timedelta(minutes=17), "updated_at": NOW}
    with database.transaction() as session:
        for n, (state, reason) in enumerate([(SeriesState.HELD, MISSING), *[(SeriesState.COMPLETE, None)] * 3], 1):
            session.add(
                SeriesRow(
                    id=n,
                    series_uid=f"1.2.{n}",
                    state=state,
                    reason=reason,
                    patient=f"pseudo{n}",
                    created_at=NOW - timedelta(hours=5),
                    last_instance_at=NOW,
                )
            )
        session.flush()
        for n, (state, reason) in enumerate(
            [(JobState.HELD, Reason(HoldReason.NO_PATIENT)), (JobState.DELIVERING, None), (JobState.DELIVERED, None)], 2
        ):
            session.add(
                JobRow(
                    id=n,
                    series_id=n,
                    revision=1,
                    model="hn7",
                    destinations=["pacs"],
                    state=state,
                    reason=reason,
                    **times,
                )
            )
        session.flush()
        for n, state, attempts in ((3, DeliveryState.PENDING, 4), (4, DeliveryState.DELIVERED, 1)):
            session.add(
                DeliveryRow(
                    job_id=n,
                    destination="pacs",
                    state=state,
                    attempts=attempts,
                    reason=because("cannot be reached") if attempts > 1 else None,
                    not_before=NOW + timedelta(seconds=240),
                    **times,
                )
            )


def test_json(database, settings):
    fill(database)
    report = json.loads(to_json(read_report(database), settings))
    assert {state: n for state, n in report["counts"].items() if n} == {"HELD": 2, "DELIVERING": 1, "DELIVERED": 1}
    jobs = {job["id"]: job for job in report["jobs"]}
    assert jobs[2]["reason"].startswith("no patient found")
    assert (jobs[2]["reason_code"], jobs[2]["reason_detail"]) == ("no_patient", {})
    assert jobs[3]["deliveries"] == [
        {
            "destination": "pacs",
            "product": "rtstruct",
            "state": "PENDING",
            "attempts": 4,
            "reason": "cannot be reached",
            "reason_code": "other",
            "reason_detail": {"verbatim": "cannot be reached"},
            "next_try": (NOW + timedelta(seconds=240)).isoformat(),
        }
    ]
    assert jobs[4]["series"] == "1.2.4"
    (series,) = report["series"]
    assert (series["id"], series["state"], series["instances"]) == (1, "HELD", 0)


def printed(shown, width: int = 80) -> str:
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123
        console = Console(width=width, record=True, file=nowhere)
        console.print(shown)
    return console.export_text()


def test_each_job_and_series_is_one_line_of_80_columns(database, settings):
    fill(database)
    with database.transaction() as session:
        session.get_one(JobRow, 2).reason = because(
            "the series does not look like a head and neck: " + "of the organs " * 20, HoldReason.NO_HEAD_AND_NECK
        )
    lines = printed(to_table(read_report(database), settings, NOW)).splitlines()
    assert max(map(len, lines)) <= 80
    by_number = {line.split()[0]: line for line in lines if line.split() and line.split()[0].isdecimal()}
    assert set(by_number) == {"1", "2", "3", "4"}
    assert len([line for line in lines if "pseudo" in line]) == 4
    came = f"{NOW - timedelta(minutes=17):%m-%d} "
    assert all(came in by_number[number] and " 17 min " in by_number[number] for number in "234")
    assert by_number["1"].split()[1] == "HELD"
    assert " 5 h " in by_number["1"]
    assert "the series does not" in by_number["2"]
    assert by_number["2"].endswith("\N{HORIZONTAL ELLIPSIS}")
    assert "pacs PENDING" in by_number["3"]
    assert "pacs DELIVERED" in by_number["4"]
    assert "A job in full, with what to do: contourd status JOB" in map(str.strip, lines)


def test_a_job_in_full_says_what_to_do(database):
    fill(database)
    jobs = {job.id: printed(job_in_full(job, NOW)) for job in read_report(database).jobs}
    for told in ("Job 2", "no patient found", "Look at what was scanned.", "contourd retry 2 --override REASON"):
        assert told in jobs[2]
    for told in ("pacs PENDING, 4 tries, next in 4 min: cannot be reached", "contourd retry 3", "17 min ago"):
        assert told in jobs[3]
    assert f"{(NOW - timedelta(minutes=17)).astimezone():%Y-%m-%d %H:%M:%S%z}" in jobs[3]
    assert "contourd retry" not in jobs[4]


def test_a_series_in_full_says_what_to_do(database):
    fill(database)
    (series,) = read_report(database).series
    text = printed(series_in_full(series, NOW))
    for told in ("missing slices at z = 6.00 mm", "Send the whole series again", "contourd release 1", "5 h ago"):
        assert told in text


@pytest.mark.parametrize(
    ("chosen", "jobs", "series"),
    [
        (ReportFilter(), [3, 2, 4], [1]),
        (ReportFilter(states=("HELD",)), [2], [1]),
        (ReportFilter(states=("DELIVERED", "DELIVERING")), [3, 4], []),
        (ReportFilter(since=NOW), [3, 2, 4], [1]),
        (ReportFilter(since=NOW + timedelta(seconds=1)), [], []),
        (ReportFilter(destination="pacs"), [3, 2, 4], []),
        (ReportFilter(destination="pac_"), [], []),
        (ReportFilter(job=3), [3], []),
        (ReportFilter(series=1), [], [1]),
        (ReportFilter(series=2), [], []),
    ],
)
def test_what_is_chosen_is_read(database, chosen, jobs, series):
    fill(database)
    report = read_report(database, chosen=chosen)
    assert [job.id for job in report.jobs] == jobs
    assert [s.id for s in report.series] == series
    assert report.counts["HELD"] == 2  # the counts are of all


def test_the_limit_keeps_the_open_jobs(database):
    fill(database)
    assert [job.id for job in read_report(database, 2).jobs] == [3, 2]


def test_the_command_line_chooses(database, configuration):
    fill(database)

    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("status", *arguments, "--config", configuration)

    assert [job["id"] for job in json.loads(asked("--state", "held", "--json").stdout)["jobs"]] == [2]
    assert [
        job["id"] for job in json.loads(asked("--destination", "pacs", "--limit", "1", "--json").stdout)["jobs"]
    ] == [3]
    assert json.loads(asked("--since", "1h", "--json").stdout)["jobs"] == []
    assert f"contourd retry 2 --override REASON --config {configuration}" in asked("2").stdout
    assert f"contourd release 1 --config {configuration}" in asked("--series", "1").stdout
    for wrong, told in (
        (("9",), "there is no job 9"),
        (("--series", "2"), "no series 2 is"),
        (("--state", "X"), "there are"),
    ):
        done = asked(*wrong)
        assert done.returncode == 2
        assert told in done.stderr


@pytest.mark.sqlite_alone
def test_the_table_shows_what_a_peer_sent_as_text_and_nothing_else(database, settings):
    """Neither the terminal's escapes nor rich's markup; the advice of the reason about [[route]] stays whole."""
    fill(database)
    hostile = "[bold red]X[/bold red][/]\x1b[2J"
    with database.transaction() as session:
        series = session.get_one(SeriesRow, 1)
        series.calling_ae, series.reason = hostile, because(f"no route fits (from {hostile}); add a [[route]]")
        session.get_one(JobRow, 2).reason = because(f"{hostile}\nsecond")
    with open("/dev/null", "w") as nowhere:  # noqa: PTH123
        console = Console(width=250, record=True, file=nowhere, force_terminal=True)
        console.print(to_table(read_report(database), settings, NOW))
    text = console.export_text()
    assert "\x1b[2J" not in text
    assert text.count("[bold red]X[/bold red][/]\\x1b[2J") == 3
    (series,) = read_report(database).series
    assert "add a [[route]]" in printed(series_in_full(series, NOW), 250)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7199, "119 min"),
        (7200, "2 h"),
        (172799, "47 h"),
        (172800, "2 d"),
        (-5, "0 s"),
    ],
)
def test_age(seconds, told):
    assert age(timedelta(seconds=seconds)) == told


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "contourd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.sqlite_alone
def test_status_without_a_queue(configuration):
    done = run("status", "--config", configuration)
    assert done.returncode == 2
    assert "contourd serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_is_one_message(tmp_path):
    (tmp_path / "wrong.toml").write_text("[nodes]\n")
    done = run("status", "--config", tmp_path / "wrong.toml")
    assert done.returncode == 2
    assert "nodes: Extra inputs are not permitted" in done.stderr
    assert "Traceback" not in done.stderr


def test_retry_and_release_from_the_command_line(database, configuration):
    fill(database)
    assert run("retry", "2", "--config", configuration).returncode == 0
    assert run("release", "1", "--config", configuration).returncode == 0
    report = read_report(database)
    assert {job.id: job.state for job in report.jobs}[2] == JobState.QUEUED
    assert report.series[0].state == SeriesState.RECEIVING
    for arguments in (("retry", "4"), ("retry", "99"), ("release", "1"), ("release", "99")):
        done = run(*arguments, "--config", configuration)
        assert done.returncode == 1
        assert done.stderr.startswith("contourd: ")


def test_status_never_imports_torch():
    script = (
        "import sys, contourd.cli, contourd.observe.status, contourd.settings, contourd.observe.report\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'pynetdicom', 'pydicom', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_help_names_the_commands():
    done = run("--help")
    for command in ("serve", "contour", "status", "retry", "release", "train", "evaluate", "demo"):
        assert command in done.stdout


def test_hosts_have_their_disk_and_the_object_store_its_state_and_last_error(database, settings):
    processes, since = Processes(database), NOW - timedelta(minutes=4)
    processes.begin("node", ProcessRole.SERVE)
    processes.beat("node", ProcessFigures(7 * 10**9, 9 * 10**9, StoreStanding(False, since, "it refuses"), 1240))
    report = read_report(database)
    console = Console(width=160)
    with console.capture() as capture:
        console.print(to_table(report, settings, NOW))
    lines = capture.get().splitlines()
    host = host_name()
    told = f"object store on {host} DOWN for 4 min   images that wait for it: 1240"
    assert lines[lines.index(told) + 1] == "  it refuses"
    assert "GB free" in next(line for line in lines if line.startswith("host "))
    assert re.search(rf"^{host} +serve +.* 7 *$", capture.get(), re.MULTILINE)
    (line,) = json.loads(to_json(report, settings))["processes"]
    assert line["store"] == {
        "reachable": False,
        "since": since.isoformat(),
        "last_error": "it refuses",
        "waiting": 1240,
    }
    processes.beat("node", ProcessFigures(7 * 10**9, 9 * 10**9, StoreStanding(True, since, "it refused once"), 0))
    with console.capture() as capture:
        console.print(to_table(read_report(database), settings, NOW))
    assert f"object store on {host} UP for 4 min   images that wait for it: 0" in capture.get()
    assert "it refused once" not in capture.get()
