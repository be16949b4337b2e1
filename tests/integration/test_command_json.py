"""What ``--json`` prints is what docs/commands.md says: every key, with its type, of every command that has it.

A new command gets a row in COMMANDS here, a row in the document's first table, and a section there.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pytest
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from typer.testing import CliRunner

from contourd.cli import COMMANDS, GROUPS, app
from contourd.constancy.requests import ConstancyChecks
from contourd.dicom.network.in_memory_scp import InMemorySCP
from contourd.dicom.reading.dataset_hash import stored_sha256
from contourd.model.model_identity import ModelIdentity
from contourd.model.model_use import ModelUse
from contourd.model.runtime_description import RuntimeDescription
from contourd.models.orders import order_digest
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import load_settings
from contourd.spool.folder import Spool
from contourd.spool.watching import StoreStanding
from contourd.store.archive_tables import SeriesDescriptionRow
from contourd.store.audit import AuditEntry, AuditTrail
from contourd.store.constancy_result import ConstancyResult, ModelConstancy, OrganConstancy
from contourd.store.contourings import Contouring, add_contouring
from contourd.store.database import Database
from contourd.store.processes import Processes, ProcessFigures
from contourd.store.review_tables import ReviewOrganRow, ReviewRow
from contourd.store.states import ConstancyState, JobState, ProcessRole
from contourd.store.tables import InstanceRow, JobRow, NewerImageRow
from tests import showcase
from tests.archives import write_dicom
from tests.bright import phantom
from tests.bundles import brighter_bundle, bundle_of_version, make_bright_bundle
from tests.checking import write_settings
from tests.contoured import close_bench, open_bench
from tests.documented import commands, documented, key_of, scalars
from tests.interop.node import write_configuration
from tests.peers import LOOPBACK, free_port
from tests.phantom import setting, write_series
from tests.shadows import compared_shadow, failed_shadow
from tests.training import BASE, ball, write_dataset
from trainer.case import write_case

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TRIED = ("--reason", "tried", "--without-record", "a test", "--config")


@dataclass(frozen=True)
class Site:
    """A folder with a node's settings and queue, a model that draws, and a node that takes structure sets alone."""

    folder: Path
    drawing: Path
    small: Path
    receiver: str

    def run(self, *arguments: object, status: int = 0) -> list[object]:
        """Run a command with --json; returns its objects."""
        ran = CliRunner().invoke(app, [*map(str, arguments), "--json"])
        assert ran.exit_code == status, (ran.output, ran.exception)
        text = ran.stdout
        return [json.loads(line) for line in text.splitlines()] if arguments[0] == "audit" else [json.loads(text)]

    def operate(self, *arguments: object) -> list[object]:
        """Give a command about the queue."""
        return self.run(*arguments, "--config", self.queue())

    def queue(self) -> Path:
        """Return the settings of a node with a queue."""
        path = self.folder / "contourd.toml"
        if path.exists():
            return path
        root = self.folder / "spool"
        path.write_text(
            f'[spool]\nroot = "{root}"\n[[route]]\nmodel = "hn7"\ndestinations = ["pacs", "tps"]\n'
            + "".join(f'[[destination]]\nname = "{n}"\nae_title = "A"\nhost = "h"\nport = 1\n' for n in ("pacs", "tps"))
        )
        database = Database(f"sqlite:///{root / 'contourd.sqlite'}")
        spool = Spool(root)
        database.upgrade()
        showcase.fill_queue(database, spool)
        AuditTrail(database).record(AuditEntry("alice", "retry", "job 1"))
        database.close()
        return path


def check(site: Site) -> list[object]:
    return site.run("check", "--config", write_settings(site.folder, site.small), status=1)  # its destination is absent


def echo(site: Site) -> list[object]:
    return site.run("echo", f"NOBODY@{LOOPBACK}:{free_port()}", status=1)


def send(site: Site) -> list[object]:
    folder = write_series(site.folder / "ct")
    (folder / "notes.txt").write_text("no DICOM")
    return site.run("send", folder, "--to", site.receiver, status=1)  # it takes no CT


def accept(site: Site) -> list[object]:
    return site.run("accept", site.receiver, "--output", site.folder / "acceptance", status=1)


def contour(site: Site) -> list[object]:
    folder = write_series(site.folder / "ct", phantom())
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset["AccessionNumber"] = DataElement("AccessionNumber", "SH", "1" * 17, validation_mode=IGNORE)
        dataset.save_as(path)
    output = site.folder / "rt.dcm"
    return site.run("contour", folder, "--output", output, "--model", site.drawing, "--device", "cpu")


def curate(site: Site) -> list[object]:
    write_dicom(site.folder / "clinic" / "one", "one", 1)
    return site.run("curate", site.folder / "clinic", "--output", site.folder / "out")


def evaluate(site: Site) -> list[object]:
    """Words go where no program reads them: ``run`` reads standard output, and finds the object alone."""
    cases = site.folder / "cases" / "validation"
    cases.mkdir(parents=True)
    write_case(ball("a"), cases / "a.npz")
    return site.run("evaluate", site.drawing, cases.parent, "--device", "cpu")


def ablate(site: Site) -> list[object]:
    grid = site.folder / "grid.toml"
    values = "\n".join(f'"{key}" = {json.dumps(value)}' for key, value in {**BASE, "schedule.length": 1}.items())
    variants = '[{ name = "one", set = { "model.pools" = 1 } }, { name = "nowhere", sources = ["Atlantis"] }]'
    grid.write_text(
        f'title = "T"\nrecipe = "quick"\n[set]\n{values}\n[[table]]\ntitle = "Pools"\nvariant = {variants}\n'
    )
    dataset = write_dataset(site.folder / "dataset")
    return site.run("ablate", grid, dataset, "--output", site.folder / "table", "--device", "cpu")


def alert(site: Site) -> list[object]:
    """Nobody is told by these settings; that somebody was is a list of names."""
    assert site.operate("alert") == [{"reached": []}]
    return [{"reached": ["mail", "webhook"]}]


def replace(site: Site) -> list[object]:
    """An image of a held series came again with other content."""
    database, spool = Database(load_settings(site.queue()).database_url), Spool(site.folder / "spool")
    path = min(write_series(site.folder / "ct").iterdir())
    first = spool.store_instance([path.read_bytes()])
    image = pydicom.dcmread(path)
    image.PixelData = image.PixelData[::-1]
    image.save_as(path)
    newer = spool.store_instance([path.read_bytes()])
    known = {"series_id": 2, "sop_instance_uid": "1.2.3", "received_at": datetime.now(UTC)}
    sha256 = stored_sha256(spool.root / newer)
    with database.transaction() as session:
        session.add(InstanceRow(**known, path=first, sha256=stored_sha256(spool.root / first)))
        session.add(NewerImageRow(**known, path=newer, sha256=sha256, patient="p", differs=(), to_remove=False))
    database.close()
    return site.operate("replace", 2, "--reason", "sent again by the scanner")


def recontour(site: Site) -> list[object]:
    (site.folder / "model.json").write_text("{}")
    return site.operate("recontour", 4, "--model", site.folder)


def route(site: Site) -> list[object]:
    """A series that would be contoured, two that would not, a file that cannot be read; and one by one of two."""
    write_series(site.folder / "in" / "gap", phantom())
    sorted((site.folder / "in" / "gap").iterdir())[9].unlink()
    write_series(site.folder / "in" / "magnet", phantom(), setting(Modality="MR"))
    whole = write_series(site.folder / "in" / "whole", phantom())
    (site.folder / "in" / "cut.dcm").write_bytes(min(whole.iterdir()).read_bytes()[:900])
    configuration = routed_to(site, site.drawing)
    first = site.run("route", site.folder / "in", "--config", configuration, status=1)
    text, asked = configuration.read_text(encoding="utf-8"), f'model = "{site.drawing}"'
    assert asked in text
    several = f'model = ["{site.drawing}", "unheard_of"]\npartial = "send"'
    configuration.write_text(text.replace(asked, several), encoding="utf-8")
    return [*first, *site.run("route", whole, "--config", configuration)]


def routed_to(site: Site, model: Path) -> Path:
    """Return settings of a node whose route has two conditions that a phantom does not fit, and one that has none."""
    configuration = write_configuration(site.folder / "node", free_port(), model, {"pacs": ("PACS", 104)})
    first = '[[route]]\nprotocol = "abdomen"\nmodel = "hn7"\ndestinations = ["pacs"]\n'
    text = configuration.read_text(encoding="utf-8")
    configuration.write_text(text.replace("[[route]]", first + "[[route]]"), encoding="utf-8")
    return configuration


def replay(site: Site) -> list[object]:
    """A job is contoured, and again after the bundle in its folder has become another."""
    folder = site.folder / "bright"
    shutil.copytree(site.drawing, folder)
    configuration = write_configuration(site.folder / "node", free_port(), folder, {"pacs": ("PACS", 104)})
    bench = open_bench(load_settings(configuration))
    job = bench.add(write_series(site.folder / "ct", phantom()))
    bench.work()
    close_bench(bench)
    same = site.run("replay", job, "--config", configuration)
    brighter_bundle(site.drawing, folder)
    return [*same, *site.run("replay", job, "--config", configuration, status=1)]


def models_show(site: Site) -> list[object]:
    site.queue()
    ran = CliRunner().invoke(app, ["models", "activate", str(activated(site)), *TRIED, str(site.queue())])
    assert ran.exit_code == 0, ran.output
    return [*site.operate("models", "show", "bright"), *site.operate("models", "show", "hn7")]


def models_list(site: Site) -> list[object]:
    models_show(site)
    return site.operate("models", "list")


def activated(site: Site) -> Path:
    """Return a bundle that an activation takes: the reference patient knows no such organs."""
    first = make_bright_bundle(site.folder / "first", ("Brain", "SpinalCanal"))
    return bundle_of_version(first, site.folder / "second", "2")


def constancy(site: Site) -> list[object]:
    settings = load_settings(site.queue())
    database = Database(settings.database_url)
    checks = ConstancyChecks(database)
    number = checks.request("alice")
    checks.begin(number)
    organs = {"Mandible": OrganConstancy(dice=1.0, shift_mm=0.0), "Larynx": OrganConstancy(dice=0.0, shift_mm=None)}
    figures = ModelConstancy(
        model="hn7", name="hn7", version="1", sha256="0" * 64, seconds=5.5, baseline_seconds=5.0, organs=organs
    )
    result = ConstancyResult(version="1", device="cpu", models=(figures,), remarks=("pacs does not answer",))
    checks.end(number, ConstancyState.RED, "Larynx: Dice 0.0", result)
    database.close()
    return site.operate("constancy", "show")


def status(site: Site) -> list[object]:
    models_show(site)
    constancy(site)
    database = Database(load_settings(site.queue()).database_url)
    with database.transaction() as session:
        model = ModelIdentity("hn7", "1", "0" * 64)
        runtime = RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2)
        damaged = Reason.of(HoldReason.MODEL_OF_JOB_GONE, model="glands 1")
        uses = (
            ModelUse("hn7", model, runtime, ("Brainstem",)),
            ModelUse("glands", None, None, ("Glnd_Submand_L",), damaged),
        )
        contouring = Contouring(model, "1", runtime, {"torch": "2"}, "{}", 20, "0" * 64, (), several=uses)
        add_contouring(session, 1, "w", contouring, datetime.now(UTC))
        waiting = session.get_one(JobRow, 1)
        waiting.state, waiting.contouring_order = JobState.QUEUED, "an order"
    processes, now = Processes(database), datetime.now(UTC)
    for name in ("w1", "w2"):
        processes.begin(name, ProcessRole.WORKER, "cpu")
    processes.beat("w1", ProcessFigures(1, 2, StoreStanding(False, now, "it refuses"), 3))
    unfit = Reason.of(HoldReason.ORDER_OF_OTHER_VERSION, wanted="2", own="1")
    processes.decline("w1", {order_digest("an order"): unfit})
    with database.transaction() as session:  # that it contours
        taken = session.get_one(JobRow, 2)
        taken.state, taken.worker = JobState.CONTOURING, "w2"
    database.close()
    return site.operate("status")


def export(site: Site) -> list[object]:
    Spool(load_settings(site.queue()).spool.root).store_output(4, 1, b"as it was made")
    return site.operate("export", 4, "--output", site.folder / "out")


def jobs(site: Site) -> list[object]:
    status(site)
    database = Database(load_settings(site.queue()).database_url)
    with database.transaction() as session:
        session.add(
            SeriesDescriptionRow(
                series_id=1, study_date="20261130", description="Neck", body_part="NECK", protocol="HN", station="SIM"
            )
        )
    database.close()
    path = site.queue()
    path.write_text(f"[series]\ndescriptions = true\n{path.read_text()}")
    return site.operate("jobs", "--since", "1d", "--show-patient")


def shadows(site: Site) -> list[object]:
    path = site.queue()
    database = Database(load_settings(path).database_url)
    compared_shadow(database, 1)
    failed_shadow(database, 2)
    database.close()
    return site.run("shadows", "--config", path)


def reviews(site: Site) -> list[object]:
    """One that was compared, and one that is of nobody's job."""
    database = Database(load_settings(site.queue()).database_url)
    now = datetime.now(UTC)
    sent = {"sha256": "0" * 64, "calling_ae": "ECLIPSE", "tps": "Eclipse 18", "patient": "p", "received_at": now}
    sent |= {"updated_at": now, "tried_at": now}
    with database.transaction() as session:
        of_job = {"job_id": 1, "reviewed_at": now, "delivered_at": now - timedelta(hours=2), "unchanged": False}
        session.add(
            ReviewRow(sop_instance_uid="1.2", path="a", state="COMPARED", approval="APPROVED", **of_job, **sent)
        )
        other = ReviewRow(sop_instance_uid="1.3", path="b", state="UNPAIRED", **sent)
        other.reason = Reason.of(HoldReason.REVIEW_FITS_SEVERAL, jobs=[1, 2])
        another = ReviewRow(sop_instance_uid="1.4", path="c", state="UNPAIRED", **sent)
        another.reason = Reason.of(HoldReason.REVIEW_OTHER_PATIENT, job=1)
        session.add_all((other, another))
        session.flush()
        numbers = dict.fromkeys(("dice", "surface_dice", "hausdorff_95_mm", "added_path_mm"), 0.5)
        volumes = dict.fromkeys(("draft_cc", "reviewed_cc"), 1.5)
        session.add(ReviewOrganRow(review_id=1, organ="Brainstem", roi="Stamm", fate="touched", **numbers, **volumes))
        session.add(ReviewOrganRow(review_id=1, organ="", roi="Klumpen", fate="unsure"))
    database.close()
    return site.operate("reviews")


RUNS: Mapping[str, Callable[[Site], list[object]]] = {
    "check": check,
    "echo": echo,
    "send": send,
    "accept": accept,
    "status": status,
    "shadows": shadows,
    "route": route,
    "replay": replay,
    "models list": models_list,
    "models show": models_show,
    "models verify": lambda site: site.operate("models", "verify"),
    "constancy show": constancy,
    "audit": lambda site: site.operate("audit"),
    "alert": alert,
    "export": export,
    "jobs": jobs,
    "retry": lambda site: site.operate("retry", 5),
    "release": lambda site: site.operate("release", 2),
    "replace": replace,
    "hold": lambda site: site.operate("hold", 3, "--reason", "wait for the physicist"),
    "confirm": lambda site: site.operate("confirm", 1),
    "cancel": lambda site: site.operate("cancel", 2, "--reason", "sent by mistake"),
    "resend": lambda site: site.operate("resend", 4, "--to", "tps"),
    "recontour": recontour,
    "reviews": reviews,
    "contour": contour,
    "curate": curate,
    "evaluate": evaluate,
    "ablate": ablate,
    "db backup": lambda site: site.run("db", "backup", site.folder / "copy.sqlite", "--config", site.queue()),
    "db move": lambda site: site.run("db", "move", f"sqlite:///{site.folder / 'moved'}", "--config", site.queue()),
}


@pytest.fixture
def site(tmp_path, bright_bundle, small_bundle, monkeypatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)  # no settings are found by chance
    with InMemorySCP("RECEIVER") as receiver:
        yield Site(tmp_path, bright_bundle, small_bundle, f"RECEIVER@{LOOPBACK}:{receiver.port}")
    gc.collect()


def names() -> set[str]:
    return {command.__name__ for panel in COMMANDS.values() for command in panel} | {
        f"{name} {verb}" for name, group in GROUPS.items() for verb in group.commands
    }


def with_json() -> set[str]:
    """Ask the commands themselves."""
    found = set()
    for name in names():
        shown = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        found |= {name} if "--json" in shown.split("Example:")[0] else set()
    return found


def test_every_command_is_documented_with_and_without_json():
    told = commands()
    assert set(told) == names()
    assert {name for name, has in told.items() if has} == with_json() == set(RUNS) == set(documented())


@pytest.mark.parametrize("name", RUNS)
def test_the_keys_and_types_are_those_of_the_document(name, site):
    keys = documented()[name]
    found: dict[str, set[str]] = {}
    for content in RUNS[name](site):
        for path, kind in scalars(content):
            found.setdefault(key_of(path, keys), set()).add(kind)
    assert sorted(found) == sorted(keys)
    for key, kinds in found.items():
        allowed = keys[key] | ({"integer"} if "number" in keys[key] else set())
        assert kinds <= allowed, key
