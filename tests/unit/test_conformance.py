"""The conformance statement against the code: what stands in a table there is what is negotiated and answered here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from contourd.dicom.network import commitment_messages, malformed, refusal_status, scu
from contourd.dicom.network.commitment_scp import PUSH_MODEL
from contourd.dicom.network.scu import StorageSCU
from contourd.dicom.reading import admission, series
from contourd.dicom.reading.decoders import DECODERS, UNCOMPRESSED
from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME, PRODUCTS
from contourd.profiles import PROFILES
from contourd.settings import Destination, NodeSettings
from tests.peers import LOOPBACK
from tests.phantom import read_series, structure_set, write_series

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "conformance.md").read_text(encoding="utf-8")
PDU_BYTES = 16382
STATUS = r"\b[0-9A-F]{4}\b"
# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def section(heading: str) -> str:
    """Return what stands under a heading, down to the next."""
    return TEXT.split(f"{heading}\n")[1].split("\n#")[0]


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the tables."""
    return [row.split("|")[1].strip() for row in text.splitlines() if row.startswith("| ")]


def test_sections_are_numbered_once():
    numbers = re.findall(r"^#{2,3} ([\d.]+) ", TEXT, re.M)
    assert len(numbers) == len(set(numbers))
    assert numbers == sorted(numbers)


def test_the_transfer_syntaxes_are_those_that_are_read_in_the_order_of_preference():
    listed = re.findall(
        r"^\| .* \| (1\.2\.840[\d.]+) \| ([\w-]+)", section("### 2.1 As provider: receiving CT images"), re.M
    )
    assert [uid for uid, _ in listed] == [*UNCOMPRESSED, *DECODERS]
    needed = {uid: needs.lower() for uid, needs in listed if needs != "nothing"}
    assert needed == {uid: plugin for uid, plugin in DECODERS.items() if plugin != "pydicom"}


def test_the_profiles_are_those_of_the_code():
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \| (\d+) \| (\d+) \| .+ \|$", section("### 3.1 Destination profiles"), re.M
    )
    assert rows == [(p.name, p.holes, str(p.decimals), str(p.name_length)) for p in PROFILES.values()]
    offered = re.search(r'^profile = "strict" +# (.+);', (ROOT / "etc" / "contourd.toml").read_text(), re.M)
    assert offered
    assert offered[1].split(" | ") == list(PROFILES)


def test_the_sop_classes_are_those_of_the_code():
    for uid in (CTImageStorage, *PRODUCTS.values(), Verification, PUSH_MODEL):
        assert f"| {UID(uid).name.removesuffix(' SOP Class')} {uid} |" in TEXT


def test_statuses_of_c_store():
    body = section("### 2.1 As provider: receiving CT images").split("| status |")[1]
    codes = {int(cell, 16) for cell in first_cells(body) if re.fullmatch(STATUS, cell)}
    of_images = {refusal_status.SUCCESS, refusal_status.PROCESSING_FAILURE, *refusal_status.STATUS.values()}
    of_requests = {
        malformed.CLASS_NOT_SUPPORTED,
        malformed.NO_SUCH_INSTANCE,
        malformed.MISTYPED,
        malformed.UNRECOGNIZED_OPERATION,
    }
    assert codes == of_images | of_requests


def test_statuses_that_count_as_delivered():
    (row,) = [
        r
        for r in section("### 2.3 As user: sending RT Structure Sets and Segmentations").splitlines()
        if "| delivered" in r
    ]
    told = {int(code, 16) for code in re.findall(STATUS, row.split("|")[1])}
    assert told == {0x0000, scu.DUPLICATE, *scu.WARNINGS}


def test_statuses_of_storage_commitment():
    body = section("### 2.4 Storage commitment (PS3.4 annex J)")
    reported, asked, failed = (body.split(f"| {head} |")[1].split("\n\n")[0] for head in (
        "status of the N-EVENT-REPORT", "status of the N-ACTION", "Failure Reason"))  # fmt: skip
    c = commitment_messages
    both = {0, c.NO_SUCH_INSTANCE, c.INVALID_ARGUMENT, c.NOT_AUTHORISED, c.RESOURCE_LIMITATION}
    for text, codes in (
        (reported, both | {c.NO_SUCH_EVENT}),
        (asked, both | {c.NO_SUCH_CLASS, c.NO_SUCH_ACTION}),
        (failed, {c.PROCESSING_FAILURE, c.NO_SUCH_INSTANCE, c.CLASS_CONFLICT, c.CLASS_NOT_SUPPORTED}),
    ):
        told = {int(code, 16) for cell in first_cells(text) for code in re.findall(STATUS, cell)}
        assert told == codes


def test_the_limits_of_a_series():
    body = section("### 2.2 What is contoured")
    assert (
        f"- {series.FEWEST_SLICES} to {series.MOST_SLICES} slices, at most {series.WIDEST_SPACING_MM:g} mm apart"
        in body
    )
    assert f"at most {admission.LARGEST_MATRIX} x {admission.LARGEST_MATRIX} pixels" in body
    assert f"axial slices, up to {admission.LARGEST_TILT:g} degree" in body


def test_defaults_that_the_statement_names():
    node, there = NodeSettings(), Destination(name="d", ae_title="D", host="h", port=1)
    for told in (
        f"`node.max_associations` ({node.max_associations})",
        f"`node.request_timeout_s` ({node.request_timeout_s:g})",
        f"`node.network_timeout_s` ({node.network_timeout_s:g})",
        f"`node.association_limit_s` ({node.association_limit_s:g})",
        f"`destination.connect_timeout_s` ({there.connect_timeout_s:g})",
        f"`destination.response_timeout_s` ({there.response_timeout_s:g})",
    ):
        assert told in TEXT


@contextmanager
def listening(asked: list[Any]) -> Iterator[Destination]:
    ae = AE("PEER")
    for syntax in (Verification, RTStructureSetStorage):
        ae.add_supported_context(syntax)
    handlers: list[Any] = [
        (evt.EVT_REQUESTED, lambda event: asked.append(event.assoc.requestor)),
        (evt.EVT_C_STORE, lambda _: 0x0000),
    ]
    server = ae.start_server((LOOPBACK, 0), block=False, evt_handlers=handlers)
    try:
        yield Destination(name="peer", ae_title="PEER", host=LOOPBACK, port=server.socket.getsockname()[1])
    finally:
        server.shutdown()


def test_what_is_proposed_as_user(tmp_path):
    """The implementation is named on the wire as the statement says; one context for each transfer syntax."""
    written = tmp_path / "rt.dcm"
    structure_set(read_series(write_series(tmp_path / "ct"))).save_as(written, enforce_file_format=True)
    asked: list[Any] = []
    with listening(asked) as peer:
        StorageSCU("CONTOURD").echo(peer)
        StorageSCU("CONTOURD").deliver(written, peer)
    echo, store = asked
    assert (echo.implementation_class_uid, echo.implementation_version_name) == (IMPLEMENTATION, IMPLEMENTATION_NAME)
    assert f"| Implementation class UID | {IMPLEMENTATION} |" in TEXT
    assert f"| Implementation version name | {IMPLEMENTATION_NAME} |" in TEXT
    assert [(c.abstract_syntax, list(c.transfer_syntax)) for c in store.requested_contexts] == [
        (RTStructureSetStorage, [ImplicitVRLittleEndian]),
        (RTStructureSetStorage, [ExplicitVRLittleEndian]),
    ]
    assert [list(c.transfer_syntax) for c in echo.requested_contexts] == [[ImplicitVRLittleEndian]]
    assert (echo.maximum_length, echo.role_selection, echo.user_identity) == (PDU_BYTES, {}, None)
    assert f"| Maximum PDU size offered, as SCU | {PDU_BYTES} bytes" in TEXT
