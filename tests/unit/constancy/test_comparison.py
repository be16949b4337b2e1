"""Dice, centroid and time against the baseline, by hand; and a baseline that nobody can change unnoticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contourd.constancy.baseline import Baseline, read_baseline, write_baseline
from contourd.constancy.check import run
from contourd.constancy.comparison import ModelContours, centroid_mm, compare, compare_organ
from contourd.constancy.requests import ConstancyChecks
from contourd.errors import BaselineInvalid
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.models.activations import Activations
from contourd.settings import ConstancySettings, Settings
from contourd.spool.folder import Spool
from contourd.store.database import Database
from contourd.store.states import ConstancyState
from tests.peers import LOOPBACK, free_port

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

# 2 mm between slices, 1.5 mm between rows, 1 mm between columns.
GRID = Grid.regular((20, 30, 40), (2.0, 1.5, 1.0), (-20.0, -10.0, 100.0))
LIMITS = ConstancySettings(least_dice=0.9, largest_shift_mm=1.0, time_factor=2.0)
NOTHING = MaskInBox((slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=bool))


def block(z: int = 5, y: int = 10, x: int = 10, size: tuple[int, int, int] = (2, 5, 10)) -> MaskInBox:
    """Make a solid box that begins at an index; 100 voxels by default."""
    a, b, c = size
    return MaskInBox((slice(z, z + a), slice(y, y + b), slice(x, x + c)), np.ones(size, dtype=bool))


def contoured(seconds: float = 10.0, sha256: str = "a" * 64, **organs: MaskInBox) -> ModelContours:
    return ModelContours("hn7", "hn7", "1", sha256, seconds, organs)


def test_the_same_mask_has_dice_1_and_has_not_moved():
    assert compare_organ(block(), block(), GRID).model_dump() == {"dice": 1.0, "shift_mm": 0.0}


@pytest.mark.parametrize(("moved", "dice", "shift_mm"), [
    ({"x": 13}, 0.7, 3.0),  # 7 of 10 columns are left in common
    ({"y": 11}, 0.8, 1.5),  # 4 of 5 rows
    ({"z": 6}, 0.5, 2.0),  # 1 of 2 slices
    ({"x": 12, "y": 12}, 0.48, np.hypot(2.0, 3.0)),  # 8 of 10 columns in 3 of 5 rows
    ({"x": 25}, 0.0, 15.0),
])  # fmt: skip
def test_a_mask_that_moved(moved, dice, shift_mm):
    found = compare_organ(block(**moved), block(), GRID)
    assert found.dice == pytest.approx(dice)
    assert found.shift_mm == pytest.approx(shift_mm)


def test_a_centroid_is_in_patient_coordinates():
    # Slices 5 and 6, rows 10 to 14, columns 10 to 19: the means are 5.5, 12 and 14.5.
    assert centroid_mm(block(), GRID) == pytest.approx([-20 + 14.5, -10 + 12 * 1.5, 100 + 5.5 * 2])


def test_empty_masks():
    assert compare_organ(NOTHING, NOTHING, GRID).model_dump() == {"dice": 1.0, "shift_mm": None}
    assert compare_organ(NOTHING, block(), GRID).model_dump() == {"dice": 0.0, "shift_mm": None}


def reasons(now: ModelContours, then: ModelContours) -> tuple[str, ...]:
    return compare(now, then, GRID, LIMITS)[1]


def test_what_is_within_the_limits_is_green():
    result, found = compare(contoured(20.0, Larynx=block()), contoured(10.0, Larynx=block()), GRID, LIMITS)
    assert found == ()
    assert (result.least_dice, result.largest_shift_mm, result.seconds, result.baseline_seconds) == (1, 0, 20, 10)


def test_each_limit_by_itself_is_red():
    then = contoured(Larynx=block(size=(2, 5, 20)))
    # 19 of 20 columns: Dice 0.95 is enough, and the centroid moved by 1 mm, which is allowed; by 2 mm it is not.
    assert reasons(contoured(Larynx=block(x=11, size=(2, 5, 20))), then) == ()
    (moved,) = reasons(contoured(Larynx=block(x=12, size=(2, 5, 20))), then)
    assert moved == "hn7: the centroid of Larynx moved by 2.00 mm, at most 1 mm are allowed"
    smaller = MaskInBox(block(size=(2, 5, 20)).box, block(size=(2, 5, 20)).mask.copy())
    smaller.mask[:, 1:4, :] = False  # the middle rows of 5: 2 x 80 / (80 + 200) = 0.5714
    (dice,) = reasons(contoured(Larynx=smaller), then)
    assert dice == "hn7: Larynx has Dice 0.5714, at least 0.9 is allowed"
    (slow,) = reasons(replace(then, seconds=20.1), then)
    assert slow == "hn7: it took 20.1 s, and the baseline 10.0 s; at most 2 times as long is allowed"


def test_another_model_and_other_organs_are_red():
    then = contoured(Larynx=block(), Esophagus=block())
    (other,) = reasons(replace(then, sha256="b" * 64), then)
    assert other.startswith("hn7 is another model than the baseline's (sha256 bbbbbbbbbbbb, not aaaaaaaaaaaa)")
    gone, new = reasons(contoured(Larynx=block(), Brainstem=block()), then)
    assert gone == "hn7: Esophagus not found, and in the baseline it was"
    assert new == "hn7: Brainstem found, and in the baseline it was not"


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool")


@pytest.fixture
def baseline() -> Baseline:
    ragged = np.random.default_rng(3).random((3, 5, 7)) > 0.4
    organs = {"Larynx": MaskInBox((slice(1, 4), slice(2, 7), slice(3, 10)), ragged), "Esophagus": NOTHING}
    at = datetime(2026, 11, 24, 17, 9, tzinfo=UTC)
    return Baseline("physicist", at, "0.1.0", "cpu", (contoured(6.32, **organs),))


def test_a_baseline_reads_back_as_it_was_made(spool, baseline):
    write_baseline(spool, baseline)
    read = read_baseline(spool)
    assert (read.by, read.at, read.version, read.device) == ("physicist", baseline.at, "0.1.0", "cpu")
    (then,) = read.models
    assert (then.model, then.sha256, then.seconds) == ("hn7", "a" * 64, 6.32)
    assert then.organs["Larynx"].box == baseline.models[0].organs["Larynx"].box
    assert np.array_equal(then.organs["Larynx"].mask, baseline.models[0].organs["Larynx"].mask)
    assert then.organs["Esophagus"].mask.size == 0
    assert (read.of("hn7"), read.of("other")) == (then, None)


def put(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda signed: signed["baseline"].update({key: value})


@pytest.mark.parametrize("change", [
    put("by", "somebody else"),
    put("device", "cuda:0"),
    put("models", []),
    lambda signed: signed["baseline"]["models"][0].update(sha256="b" * 64),
    lambda signed: signed["baseline"]["models"][0]["organs"]["Larynx"].update(first=[1, 2, 4]),
    lambda signed: signed["baseline"]["models"][0].update(seconds=1000.0),
    lambda signed: signed.update(signature="0" * 64),
    lambda signed: signed.update(signature=None),
    lambda signed: signed.update(signature="é"),
])  # fmt: skip
def test_a_baseline_that_was_changed_is_refused(spool, baseline, change):
    write_baseline(spool, baseline)
    path = spool.root / "constancy-baseline.json"
    signed = json.loads(path.read_text())
    path.write_text(json.dumps(signed))
    read_baseline(spool)  # how it is laid out does not count
    change(signed)
    path.write_text(json.dumps(signed))
    with pytest.raises(BaselineInvalid, match="was changed, or signed with another key"):
        read_baseline(spool)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"baseline": {}}', '"text"', "[" * 100_000])
def test_what_is_no_baseline_is_refused(spool, content):
    (spool.root / "constancy-baseline.json").write_text(content)
    with pytest.raises(BaselineInvalid, match="is no baseline, or not signed"):
        read_baseline(spool)


def test_a_baseline_of_another_site_is_refused(spool, baseline, tmp_path):
    elsewhere = Spool(tmp_path / "elsewhere")
    write_baseline(elsewhere, baseline)
    (spool.root / "constancy-baseline.json").write_bytes((elsewhere.root / "constancy-baseline.json").read_bytes())
    with pytest.raises(BaselineInvalid, match="another key than this site's"):
        read_baseline(spool)


@pytest.fixture
def node(tmp_path: Path, spool: Spool) -> Iterator[tuple[Settings, ConstancyChecks, Activations]]:
    """Settings whose destinations nobody listens for, and an empty queue."""
    peer = {"name": "pacs", "ae_title": "PACS", "host": LOOPBACK, "port": free_port()}
    settings = Settings.model_validate(
        {
            "spool": {"root": spool.root},
            "worker": {"device": "cpu"},
            "destination": [peer],
            "route": [{"model": "hn7", "destinations": ["pacs"]}],
        }
    )
    database = Database(f"sqlite:///{tmp_path / 'queue.sqlite'}")
    database.upgrade()
    yield settings, ConstancyChecks(database), Activations(database, spool.root)
    database.close()


@pytest.mark.parametrize(("make", "reason"), [
    (lambda path: None, "hn7 is another model than the baseline's (sha256 fc692969f0b6, not aaaaaaaaaaaa)"),
    (lambda path: path.write_text(path.read_text().replace("6.32", "63.2")), "was changed, or signed with another key"),
    (lambda path: path.unlink(), "there is no baseline"),
])  # fmt: skip
def test_a_check_that_is_red_before_anything_is_sent(spool, baseline, node, make, reason):
    settings, checks, activations = node
    write_baseline(spool, baseline)
    make(spool.root / "constancy-baseline.json")
    number = checks.request("contourd")
    checks.begin(number)
    run(settings, checks, activations, number)
    check = checks.get(number)
    assert check.state == ConstancyState.RED
    assert reason in check.reason
    told = [remark.split(": ")[0] for remark in check.result.remarks]
    assert told == (["C-ECHO failed"] if "another model" in reason else [])


def test_there_is_none_yet(spool):
    with pytest.raises(BaselineInvalid, match="contourd constancy baseline makes one"):
        read_baseline(spool)
