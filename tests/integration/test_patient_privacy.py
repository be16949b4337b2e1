"""A patient goes through every fate in the real node; nothing but images and structure sets holds what names him."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE, evt
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from tests.bright import phantom, series_uid
from tests.integration.quick_node import watched
from tests.interop.node import CONTOURD, Node, serve
from tests.paging import get
from tests.peers import LOOPBACK, RUN_S, free_port
from tests.permissions import too_open

ASCII = ("", "Zanzibaar^Quentinus", "Vonquark^Oswaldus")
UTF_8 = ("ISO_IR 192", "Żółćbach^Łukaszqx", "Größwahn^Jürgenqx")
ISO_2022 = (["", "ISO 2022 IR 87"], "Yamadaqx^Tarouqx=山田獏^太郎獏", "Satouqx^Jirouqx=佐藤獏^次郎獏")
PLANTED = {
    "PatientID": "PIDQX4711",
    "PatientBirthDate": "19330303",
    "AccessionNumber": "ACCQX0815",
    "PatientAddress": "Quackstrasse 99",
    "InstitutionAddress": "Hospitalquerweg 7",
    "StudyDescription": "Studyqx of a person",
    "SeriesDescription": "Seriesqx of a person",
    "PatientComments": "Commentqx of a nurse",
}
NAMES = {part for _, *names in (ASCII, UTF_8, ISO_2022) for name in names for part in name.replace("=", "^").split("^")}
Change = Callable[[Dataset], None]


def needles() -> list[bytes]:
    """Every planted text as it could stand in a file: in its encodings, and escaped by JSON or by repr."""
    found = set()
    for text in (*PLANTED.values(), *NAMES):
        found |= {text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode(), ascii(text)[1:-1].encode()}
        for codec in ("iso-8859-1", "iso2022_jp", "shift_jis"):
            found.add(text.encode(codec, "ignore"))
            found.add(repr(text.encode(codec, "ignore"))[2:-1].encode())
        found.add(repr(text.encode())[2:-1].encode())
    return [needle.lower() for needle in found if len(needle) >= 4]


NEEDLES = needles()


def leaks(where: str, content: bytes | str) -> list[str]:
    """Say which planted texts a content has, whatever the case of letters."""
    low = (content.encode() if isinstance(content, str) else content).lower()
    return [f"{where}: {needle!r}" for needle in NEEDLES if needle in low]


@pytest.mark.parametrize(
    "line",
    [
        *("job 3 failed for zanzibaar", 'ERROR "Żółćbach"', json.dumps({"patient": "Łukaszqx"}), ascii("山田獏")),
        *(
            str("山田獏".encode("iso2022_jp")),
            str("Größwahn".encode("iso-8859-1")),
            "file /pidqx4711.dcm",
            "born 19330303",
        ),
    ],
)
def test_a_leak_is_found_in_every_form(line):
    assert leaks("log", line) != []


class Destination:
    """Takes structure sets; of patients who are to be refused it says so with all that it knows of them."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused: list[str] = []
        ae = AE(ae_title="PACS")
        ae.add_supported_context(RTStructureSetStorage, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        self.server = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        self.port = self.server.socket.getsockname()[1]

    def _store(self, event: Any) -> Dataset | int:
        ds = event.dataset
        if ds.get("StudyID") != "REFUSE":
            self.taken.append(str(ds.PatientName))
            return 0x0000
        self.refused.append(str(ds.PatientName))
        answer = Dataset()
        answer.Status = 0xA700 if len(self.refused) == 1 else 0xC000
        answer.ErrorComment = f"{ds.PatientName}, {ds.PatientID}, {ds.AccessionNumber}"[:64]
        return answer


@contextmanager
def destination() -> Iterator[Destination]:
    peer = Destination()
    try:
        yield peer
    finally:
        peer.server.shutdown()


@dataclass
class Site:
    """The node, and everything that its commands said."""

    node: Node
    peer: Destination
    said: dict[str, bytes] = field(default_factory=dict)

    @property
    def spool(self) -> Path:
        return self.node.folder / "spool"

    def run(self, *arguments: str | Path, status: int = 0) -> str:
        named = list(map(str, arguments))
        settings = [] if named[0] == "contour" else ["--config", str(self.node.configuration)]
        ran = subprocess.run(
            [*CONTOURD, *named, *settings], stdin=subprocess.DEVNULL, capture_output=True, timeout=RUN_S, check=False
        )
        assert ran.returncode == status, ran.stderr.decode()
        self.said[" ".join(named)] = ran.stdout + ran.stderr
        return (ran.stdout or ran.stderr).decode()

    def entry(self, folder: Path, *states: str) -> dict[str, Any]:
        """Wait until the series in a folder, or its job, is in one of the states."""
        uid, found = series_uid(folder), list[dict[str, Any]]()

        def reached(status: Any) -> bool:
            entries = (*status["series"], *status["jobs"])
            found[:] = [e for e in entries if e["series"] == uid and e["state"] in states]
            return bool(found)

        self.node.wait_until(reached)
        return found[0]


def make(folder: Path, who: tuple[Any, str, str], change: Change | None = None) -> Path:
    """Write a CT of a patient with everything planted."""
    write_ct_series(phantom(), folder, SeriesIdentity(folder.name, "x"))
    for path in sorted(folder.iterdir()):
        ds = pydicom.dcmread(path)
        ds.SpecificCharacterSet, ds.PatientName, ds.ReferringPhysicianName = who
        if not who[0]:
            del ds.SpecificCharacterSet
        for keyword, value in PLANTED.items():
            setattr(ds, keyword, value)
        if change is not None:
            change(ds)
        ds.save_as(path, enforce_file_format=True)
    return folder


def send(port: int, paths: Sequence[Path], wanted: int = 0x0000) -> None:
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    assert association.is_established
    try:
        for path in paths:
            answer = association.send_c_store(path)
            assert answer.Status == wanted, f"{path}: {answer}"
    finally:
        association.release()


def send_raw(port: int, dataset: bytes, *, whole: bool) -> None:
    """Associate properly, then send bytes that are no message, or a PDU that ends in the middle of a name."""
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    assert association.is_established
    primitive = P_DATA()
    primitive.presentation_data_value_list = [[1, (b"\x03" if whole else b"\x02") + dataset]]
    pdu = P_DATA_TF()
    pdu.from_primitive(primitive)
    encoded = pdu.encode()
    association.dul.socket.send(encoded if whole else encoded[: len(encoded) // 2])
    association.abort()


def unset_pixels(ds: Dataset) -> None:
    if int(ds.InstanceNumber) == 3:
        ds.PixelData = ds.PixelData[:100]


def spoil(ds: Dataset) -> None:
    """Give attributes values that their representations do not allow, so that libraries have something to say."""
    ds.PatientBirthDate = "Zanzibaar"
    ds.StudyDate = "Quackstrasse 99"
    ds.StudyTime = "PIDQX4711"
    ds.PatientAge = "PIDQX4711"
    ds.PatientSex = "Commentqx of a nurse, who wrote more than sixteen characters"
    ds.OtherPatientIDs = "PIDQX4711" * 10
    ds.PatientName = "Zanzibaar^Quentinus" * 8


def raw_value(path: Path, old: bytes, new: bytes) -> None:
    """Change a value where pydicom would refuse to write it."""
    content = path.read_bytes()
    assert old in content
    assert len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))


# pynetdicom leaves the sockets of connections that broke to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")  # what is spoilt on purpose
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.filterwarnings("ignore:The PN component length:UserWarning")
@pytest.mark.timeout(600)
def test_nothing_but_images_and_structure_sets_names_the_patient(tmp_path, bright_bundle):
    with destination() as peer:
        web = f"[web]\nenabled = true\nport = {(page := free_port())}\n"
        with serve(tmp_path / "node", bright_bundle, {"pacs": ("PACS", peer.port)}, more=web) as node:
            site = Site(watched(node), peer)
            live_through(site, tmp_path)
            ask(site, tmp_path)
            browse(site, page)
            assert too_open(site.spool) == {}
            scan(site)  # with the journal of the database
        scan(site)
    for path in (site.spool / "outgoing").glob("*.dcm"):
        if pydicom.dcmread(path).PatientBirthDate == "Zanzibaar":
            path.unlink()  # it repeats what was spoilt, and every structure set of a test is validated at the end
    log = site.node.log
    for told in ("association accepted", "is cut off", "refused: pacs", "[left out]", "the job is held"):
        assert told in log, log


def live_through(site: Site, tmp_path: Path) -> None:
    port = site.node.port
    delivered = [make(tmp_path / f"whole-{n}", who) for n, who in enumerate((ASCII, UTF_8, ISO_2022))]
    gap = make(tmp_path / "gap", UTF_8)
    (gap / "CT_0007.dcm").unlink()
    damaged = make(tmp_path / "damaged", ASCII, unset_pixels)
    refused = make(tmp_path / "refused", ASCII, lambda ds: setattr(ds, "StudyID", "REFUSE"))
    spoilt = make(tmp_path / "spoilt", ASCII, spoil)
    for folder in (*delivered, gap, damaged, refused, spoilt):
        send(port, sorted(folder.iterdir()))
    hostile(port, tmp_path)
    for folder in delivered:
        site.entry(folder, "DELIVERED")
    assert {"Zanzibaar^Quentinus", UTF_8[1], ISO_2022[1]} <= set(site.peer.taken)
    assert "missing slices" in site.entry(gap, "HELD")["reason"]
    assert "is cut off" in site.entry(damaged, "HELD")["reason"]
    told = site.entry(refused, "FAILED")["reason"]
    assert told.endswith("(" + ", ".join(["[left out]"] * 3) + ")")
    assert len(site.peer.refused) == 2
    site.entry(spoilt, "DELIVERED", "HELD", "FAILED")


def hostile(port: int, tmp_path: Path) -> None:
    """Send what cannot be received: numbers that are none, a wrong instance, cut off bytes, no message at all."""
    folder = make(tmp_path / "hostile", ASCII)
    paths = sorted(folder.iterdir())
    first = pydicom.dcmread(paths[0])
    first.RescaleSlope = "1.00000000"
    first.save_as(paths[0], enforce_file_format=True)
    raw_value(paths[0], b"1.00000000", b"Zanzibaar ")
    send(port, paths[:1], 0xC000)
    other = pydicom.dcmread(paths[1])
    meta = other.file_meta.MediaStorageSOPInstanceUID
    other.SOPInstanceUID = f"{meta}.1"
    ae = AE(ae_title="CT1")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate(LOOPBACK, port, ae_title="CONTOURD")
    assert association.send_c_store(other).Status == 0x0000  # a series of one image, never whole
    association.release()
    name = b"".join(part.encode() for part in sorted(NAMES)) * 50
    send_raw(port, name, whole=True)
    send_raw(port, name, whole=False)
    with socket.create_connection((LOOPBACK, port), timeout=10) as connection:
        connection.sendall(b"GET /Zanzibaar?id=PIDQX4711 HTTP/1.0\r\n\r\n")
        connection.settimeout(30)
        assert connection.recv(10)[:1] == b"\x07"  # A-ABORT


def ask(site: Site, tmp_path: Path) -> None:
    """Run every command of the node, as an operator would, and some that are wrong."""
    held = site.entry(tmp_path / "gap", "HELD")
    failed = site.entry(tmp_path / "refused", "FAILED")
    site.run("release", str(held["id"]))
    reason = "Dr. Vonquark says that Quentinus is an adult"
    told = site.run("retry", str(failed["id"]), "--override", reason, status=1)
    assert "the reason holds the patient's name" in told
    site.said["answer"] = site.said.pop(f"retry {failed['id']} --override {reason}")
    site.run("retry", str(failed["id"]), "--override", "an adult by his doctor's word")
    site.entry(tmp_path / "refused", "FAILED")
    site.run("status")
    shown = json.loads(site.run("status", "--json", "--show-patient"))
    del site.said["status --json --show-patient"]  # the one that is to name him
    patients = {line["patient"] for line in (*shown["jobs"], *shown["series"])}
    assert {f"{who[1]} (PIDQX4711)" for who in (ASCII, UTF_8, ISO_2022)} <= patients
    site.run("status", "--json")
    site.run("db", "backup", site.node.folder / "copy.sqlite")
    site.run("contour", tmp_path / "damaged", "--output", tmp_path / "rt.dcm", status=1)
    site.run("audit")
    lines = [json.loads(line) for line in site.run("audit", "--since", "1h", "--json").splitlines()]
    told = {line["action"] for line in lines}
    assert {"start", "configuration", "model", "association accepted", "association aborted", "release"} <= told
    assert {"override", "show patient", "db backup", "series hold", "job contoured", "delivery refuse"} <= told
    assert {line["actor"] for line in lines if line["action"] == "show patient"} != {"contourd"}


def browse(site: Site, port: int) -> None:
    """Look at every page that needs no sign-in, and at the figures."""
    jobs = [job["id"] for job in json.loads(site.run("status", "--json"))["jobs"]]
    paths = [f"/jobs/{job}{part}" for job in jobs for part in ("", "/scene")]
    for path in (*paths, "/", "/metrics", "/models/0", *(f"/series/{n}" for n in jobs)):
        status, answer = get(port, path)
        assert status in (200, 404, 409), f"{path}: {status}"
        site.said[path] = answer.encode()
    assert b"Destinations" in site.said["/"]
    assert b"contourd_up 1.0" in site.said["/metrics"]


def scan(site: Site) -> None:
    """Look into the log, every answer, every file name, every file that is no image, and every column."""
    found = leaks("log", site.node.log)
    for command, answer in site.said.items():
        found += leaks(command, answer)
    images = list[Path]()
    for path in (*site.spool.rglob("*"), *site.node.folder.glob("copy*")):
        found += leaks("file name", str(path.relative_to(site.node.folder)))
        if path.suffix == ".dcm":
            images.append(path)
        elif path.is_file():
            found += leaks(path.name, path.read_bytes())
    assert len(images) > 100
    assert all(leaks("image", path.read_bytes()) for path in images)  # what is searched for is there to be found
    with closing(sqlite3.connect(site.spool / "contourd.sqlite")) as database:
        found += leaks("dump", "\n".join(database.iterdump()))
        assert len(database.execute("SELECT DISTINCT patient FROM series").fetchall()) == 1
    assert found == []
