"""A node that serves: a planning system sends structure sets back by DCMTK, and strangers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RTStructureSetStorage
from pynetdicom import AE

from contourd.store.database import Database
from contourd.store.review_tables import ReviewOrganRow, ReviewRow
from contourd.store.tables import AuditRow, SeriesRow
from tests.integration.receiving import Start
from tests.integration.serving import wait
from tests.interop.node import Node, serve
from tests.peers import LOOPBACK, storescp, storescu
from tests.reviewing import Change, approved, edited, moved

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
REVIEWER = '[[reviewer]]\nae_title = "ECLIPSE"\ntps = "Eclipse 18"\n'


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, bright_bundle: Path) -> Iterator[tuple[Node, pydicom.Dataset]]:
    """Contour and deliver a CT; gives the node, and the draft as the destination got it."""
    from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
    from tests.bright import phantom

    folder = tmp_path_factory.mktemp("served")
    ct = write_ct_series(phantom(), folder / "ct", SeriesIdentity("p1", "p1^Test"))
    with (
        storescp(folder) as pacs,
        serve(folder / "node", bright_bundle, {"pacs": ("STORESCP", pacs.port)}, more=REVIEWER) as node,
    ):
        assert storescu(node.port, ct).status == 0
        wait(lambda: bool(pacs.datasets()), node)
        (draft,) = pacs.datasets()
        yield node, draft


@pytest.fixture
def send(served: tuple[Node, pydicom.Dataset], tmp_path: Path) -> Callable[..., Any]:
    """Return what edits the draft, sends it as a planning system, and returns its row when it has got anywhere."""
    node, draft = served

    def sent(*changes: Change, unchanged: bool = False) -> Any:
        made = draft if unchanged else edited(draft, *changes)
        path = tmp_path / "back.dcm"
        made.save_as(path, enforce_file_format=True)
        ran = storescu(node.port, path, calling="ECLIPSE")
        assert ran.status == 0, ran.output
        with node_database(node) as database:
            wait(lambda: state(database, made) not in ("", "RECEIVED", "PAIRED"), node)
            with database.reading() as session:
                return session.query(ReviewRow).filter_by(sop_instance_uid=str(made.SOPInstanceUID)).one()

    return sent


class node_database:  # noqa: N801
    """The queue of a node that serves."""

    def __init__(self, node: Node) -> None:
        self._database = Database(f"sqlite:///{node.folder / 'spool' / 'contourd.sqlite'}")

    def __enter__(self) -> Database:
        return self._database

    def __exit__(self, *raised: object) -> None:
        self._database.close()


def state(database: Database, dataset: pydicom.Dataset) -> str:
    with database.reading() as session:
        row = session.query(ReviewRow).filter_by(sop_instance_uid=str(dataset.SOPInstanceUID)).first()
        return row.state if row is not None else ""


@pytest.mark.peers
def test_an_edited_an_unchanged_and_anothers_come_back(
    served: tuple[Node, pydicom.Dataset], send: Callable[..., Any]
) -> None:
    node, _ = served
    unchanged = send(unchanged=True)
    assert (unchanged.state, unchanged.unchanged, unchanged.job_id) == ("COMPARED", True, 1)
    moved_row = send(moved("Brainstem", (4.0, 0.0, 0.0)), lambda ds: approved(ds, unchanged.received_at))
    assert (moved_row.state, moved_row.unchanged, moved_row.approval) == ("COMPARED", False, "APPROVED")
    assert (moved_row.tps, moved_row.destination, moved_row.model_name) == ("Eclipse 18", "pacs", "bright")
    another = send(lambda ds: setattr(ds, "PatientID", "p2"))
    assert (another.state, another.reason_code, another.job_id) == ("UNPAIRED", "review_other_patient", None)
    with node_database(node) as database, database.reading() as session:
        (organ,) = session.query(ReviewOrganRow).filter_by(review_id=moved_row.id)
        assert (organ.organ, organ.fate) == ("Brainstem", "touched")
        assert 0.8 < organ.dice < 0.95
        assert session.query(SeriesRow).count() == 1  # they are no series
    assert "Curie" not in node.log
    assert "p1" not in json.dumps([moved_row.reviewer, moved_row.patient])


@pytest.mark.peers
def test_whom_the_settings_do_not_name_gets_the_context_rejected_and_is_audited(
    served: tuple[Node, pydicom.Dataset], tmp_path: Path
) -> None:
    node, draft = served
    path = tmp_path / "draft.dcm"
    draft.save_as(path, enforce_file_format=True)
    ran = storescu(node.port, path, calling="STRANGER")
    assert ran.status != 0
    assert "RT Structure Set Storage is rejected: no [[reviewer]]" in node.log
    with node_database(node) as database:

        def audited() -> bool:
            with database.reading() as session:
                return session.query(AuditRow).filter_by(actor="STRANGER", action="structure sets rejected").count() > 0

        wait(audited, node)


def test_only_a_reviewer_is_offered_structure_sets_and_never_deflated_ones(
    served: tuple[Node, pydicom.Dataset],
) -> None:
    node, _ = served

    def accepted(title: str, syntax: str) -> set[str]:
        ae = AE(title)
        ae.add_requested_context(RTStructureSetStorage, syntax)
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = ae.associate(LOOPBACK, node.port, ae_title="CONTOURD")
        found = {str(context.abstract_syntax) for context in association.accepted_contexts}
        association.release()
        return found

    assert accepted("ECLIPSE", ExplicitVRLittleEndian) == {RTStructureSetStorage, CTImageStorage}
    assert accepted("ECLIPSE", DeflatedExplicitVRLittleEndian) == {CTImageStorage}
    assert accepted("STRANGER", ExplicitVRLittleEndian) == {CTImageStorage}


def test_without_a_reviewer_nobody_is(start: Start) -> None:
    receiver = start()
    ae = AE("ECLIPSE")
    ae.add_requested_context(RTStructureSetStorage)
    ae.add_requested_context(CTImageStorage)
    association = ae.associate(LOOPBACK, receiver.port, ae_title="CONTOURD")
    assert [c.abstract_syntax for c in association.accepted_contexts] == [CTImageStorage]
    association.release()
