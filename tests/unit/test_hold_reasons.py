"""The catalogue of reasons: every code is told, raised somewhere, and raised with what its sentence needs."""

from __future__ import annotations

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from string import Formatter

import numpy as np
import pytest

from contourd import errors
from contourd.errors import CodedError, DeviceUnavailable, OrgansRejected, SeriesUnusable, SpoolFull
from contourd.reasons.catalogue import CATALOGUE, HoldClass, HoldReason, Reason, command_for_job, command_for_series
from contourd.reasons.codes import HOLDING

ROOT = Path(__file__).parents[2]
CODED = {
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, CodedError) and kind is not CodedError
}
TREES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for folder in ("contourd", "trainer")
    for path in sorted((ROOT / folder).rglob("*.py"))
}
# Detail that is told beside the sentence: to other parts.
BESIDE = {HoldReason.CONTOUR_TOO_LONG: {"organs"}, HoldReason.SECOND_READER_FINDS_NOTHING: {"organs"}}


def name_of(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def code_in(node: ast.Call) -> HoldReason | None:
    first = node.args[0] if node.args else None
    if isinstance(first, ast.Attribute) and name_of(first.value) == "HoldReason":
        return HoldReason[first.attr]
    return None


def test_every_code_is_told() -> None:
    assert set(CATALOGUE) == set(HoldReason)
    for code, entry in CATALOGUE.items():
        assert entry.means, code
        assert entry.remedy, code


def test_every_error_that_holds_is_raised_with_a_code() -> None:
    """What is a variable was chosen from codes, or is another error's."""
    bare = [
        where
        for where, call in calls()
        if name_of(call.func) in CODED
        and code_in(call) is None
        and not (call.args and ast.unparse(call.args[0]) in ("code", "error.reason.code"))
    ]
    assert not bare


def test_every_site_gives_what_its_sentence_needs() -> None:
    wrong = []
    for where, call in calls():
        code = code_in(call)
        if code is None or any(keyword.arg is None for keyword in call.keywords):
            continue
        sentence, given = CATALOGUE[code].sentence, {str(keyword.arg) for keyword in call.keywords}
        if not isinstance(sentence, str):
            continue
        wanted = {field.split("[")[0] for _, field, _, _ in Formatter().parse(sentence) if field}
        if given != wanted | BESIDE.get(code, set()):
            wrong.append(f"{where}: {code} is given {sorted(given)}, and wants {sorted(wanted)}")
    assert not wrong


@pytest.mark.parametrize(
    ("code", "detail", "held_as", "told"),
    [
        (
            HoldReason.DEVICE_OUT_OF_MEMORY,
            {"device": "cuda:0", "said": "CUDA out of memory"},
            HoldClass.DEVICE,
            "cuda:0 ran out of memory: CUDA out of memory",
        ),
        (
            HoldReason.DEVICE_MEMORY_TAKEN,
            {"needed_gib": 3.0, "device": "cuda:0", "free_gib": 1.0, "total_gib": 8.0},
            HoldClass.DEVICE,
            "the volume needs about 3.0 GiB on cuda:0, 1.0 of its 8.0 GiB are free",
        ),
        (
            HoldReason.OTHER_FRAME_OF_REFERENCE,
            {},
            HoldClass.READ_BACK,
            "the frame of reference is not the CT's",
        ),
        (
            HoldReason.VALUE_TOO_LONG,
            {"keyword": "ROIName", "length": 70, "vr": "LO", "longest": 64},
            HoldClass.READ_BACK,
            "ROIName: 70 characters, LO takes 64",
        ),
        (
            HoldReason.ROI_NUMBERS_DIFFER,
            {},
            HoldClass.READ_BACK,
            "the three ROI sequences do not name the same ROIs",
        ),
        (
            HoldReason.CONTOUR_OFF_ITS_SLICE,
            {"roi": "Brainstem", "z_mm": 1.25, "slice_mm": 1.0},
            HoldClass.READ_BACK,
            "Brainstem: a contour at z = 1.250 is not on its slice 1.000",
        ),
        (
            HoldReason.ALL_REJECTED,
            {"organs": {"Brainstem": "reads back with Dice 0.5"}},
            HoldClass.READ_BACK,
            "every organ that was found is withheld (Brainstem: reads back with Dice 0.5); look at the series",
        ),
        (
            HoldReason.MODEL_FILE_IS_LINK,
            {"path": "/m/weights.safetensors"},
            HoldClass.MODEL,
            "/m/weights.safetensors is a link out of the bundle; put the file itself there",
        ),
        (
            HoldReason.DEVICE_FAILED,
            {"device": "cuda:0", "said": "CUDA error"},
            HoldClass.DEVICE,
            "cuda:0 failed: CUDA error",
        ),
        (
            HoldReason.PROCESSOR_WITHOUT_BF16,
            {"processor": "Xeon"},
            HoldClass.DEVICE,
            "this processor has no bf16 (Xeon); set worker.precision to auto or fp32",
        ),
    ],
)
def test_what_was_classed_wrongly_by_its_words_is_classed_by_its_code(code, detail, held_as, told) -> None:
    reason = Reason.of(code, **detail)
    assert (reason.held_as, str(reason)) == (held_as, told)
    assert reason.held_as in HOLDING


def test_a_reason_comes_back_from_a_row_as_it_was() -> None:
    inner = Reason.of(HoldReason.DEVICE_ABSENT, name="cuda:0", found=np.int64(0))
    outer = Reason.of(HoldReason.WAITS_FOR_DEVICE, why=inner, seconds=np.float32(1.5), tried=(1, None, True))
    json.loads(outer.dump())
    assert Reason.read(outer.code, outer.dump()) == outer
    assert (
        str(outer)
        == "waits for the device: worker.device 'cuda:0' is not there (0 CUDA devices found); use auto or cpu"
    )
    assert Reason.read("", "") is None


def test_a_detail_of_another_version_is_shown_all_the_same() -> None:
    assert str(Reason(HoldReason.TILTED, {"tilt": 3})).endswith('({"tilt": 3})')
    unknown = Reason.read("of_a_newer_version", '{"a": 1}')
    assert unknown is not None
    assert (unknown.code, str(unknown)) == (HoldReason.OTHER, 'of_a_newer_version {"a": 1}')
    assert str(Reason.of(HoldReason.TILTED, verbatim="what an older version said")) == "what an older version said"


def test_an_error_carries_its_reason_to_another_process() -> None:
    error = SeriesUnusable(HoldReason.TILTED, degrees=12.34)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.reason, str(again)) == (SeriesUnusable, error.reason, str(error))
    organs = pickle.loads(pickle.dumps(OrgansRejected(HoldReason.ORGANS_DIFFER, organs={"Eye_L": "moved"})))
    assert (organs.organs, str(organs)) == ({"Eye_L": "moved"}, "Eye_L moved")


def test_an_error_without_a_code_of_its_own_has_that_of_its_class() -> None:
    assert SpoolFull("no space is left").reason == Reason.of(HoldReason.SPOOL_FULL, said="no space is left")
    assert DeviceUnavailable(HoldReason.DEVICE_FAILED, device="cuda:0", said="").lost
    assert not DeviceUnavailable(HoldReason.DEVICE_ABSENT, name="cuda:0", found=0).lost


def test_the_command_fits_the_reason() -> None:
    def job(code: HoldReason) -> str:
        return command_for_job(3, Reason(code))

    def series(code: HoldReason) -> str:
        return command_for_series(3, Reason(code))

    assert job(HoldReason.WAITS_FOR_CONFIRMATION) == "contourd confirm 3"
    assert job(HoldReason.NO_PATIENT) == job(HoldReason.OUTSIDE_LIMITS) == "contourd retry 3 --override REASON"
    assert job(HoldReason.IMAGES_DAMAGED) == "contourd retry 3"
    assert series(HoldReason.SENDER_UNKNOWN) == series(HoldReason.SAME_UID_ON_SLICES) == ""
    assert series(HoldReason.SENT_TWICE) == "contourd replace 3 --reason REASON"
    assert series(HoldReason.IMAGES_REFUSED) == "contourd release 3 --reason REASON"
    assert series(HoldReason.TILTED) == "contourd release 3"


def test_every_code_is_given_somewhere() -> None:
    given = {
        HoldReason[node.attr]
        for path, tree in TREES.items()
        if path.parent.name != "reasons"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and name_of(node.value) == "HoldReason"
    }
    assert not sorted(set(HoldReason) - given)
