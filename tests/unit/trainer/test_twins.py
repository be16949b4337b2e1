"""Twins: the same scan cropped, resampled, placed or masked otherwise is known again, and another person's is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from trainer.case import Annotation, Case, write_case
from trainer.curation.splits import Member, Shares, split_together, together
from trainer.curation.twin_registration import make_tissue, similarity
from trainer.curation.twin_signatures import make_signature, match, read_signature, write_signature
from trainer.curation.twin_splits import describe_twins, fixed_splits, joined_patients, outnumbered
from trainer.curation.twins import LEAST_LIKENESS, LEAST_SIMILARITY, Scan, Twin, Twins, find_twins

LENGTH_MM, HALF_MM = 240.0, (75.0, 60.0)


def person(
    seed: int,
    low=(0.0, -100.0, -100.0),
    high=(240.0, 100.0, 100.0),
    spacing=(3.0, 4.0, 4.0),
    turned_deg=(0.0, 0.0, 0.0),
    noise_hu: float = 0.0,
) -> Volume:
    """Sample a person of balls of bone, fat and muscle in an oval body, between two corners (z, y, x) in mm."""
    rng = np.random.default_rng(seed)
    count = np.array([int((b - a) // s) + 1 for a, b, s in zip(low, high, spacing, strict=True)])
    points = np.indices(tuple(count)).reshape(3, -1).T * np.array(spacing) + np.array(low)
    middle = np.array([LENGTH_MM / 2, 0, 0])
    points = (points - middle) @ Rotation.from_rotvec(turned_deg, degrees=True).as_matrix().T + middle
    z, y, x = points.T
    body = (x / HALF_MM[0]) ** 2 + (y / HALF_MM[1]) ** 2 <= 1
    body &= (z >= 0) & (z <= LENGTH_MM)
    hu = np.where(body, 20.0, -1024.0)
    for number in range(90):
        centre = rng.uniform((0, -50, -60), (LENGTH_MM, 50, 60))
        radius, value = rng.uniform(8, 16), rng.uniform(400, 1000) if number % 3 == 0 else rng.uniform(-120, 120)
        near = np.abs(z - centre[0]) < radius
        ball = np.flatnonzero(near)[((points[near] - centre) ** 2).sum(axis=1) < radius**2]
        hu[ball[body[ball]]] = value
    hu[body] += np.random.default_rng(7).normal(0, noise_hu, int(body.sum()))
    shape = (int(count[0]), int(count[1]), int(count[2]))
    return Volume(Grid.regular(shape, spacing), np.rint(hu).reshape(shape).astype(np.int16))


def alike(a: Volume, b: Volume) -> tuple[float, float]:
    """Likeness of the bones and similarity of the tissue."""
    one, other = make_signature(a), make_signature(b)
    assert one is not None
    assert other is not None
    found = match(one, other)
    if found is None:
        return -1.0, 0.0
    tissues = make_tissue(a), make_tissue(b)
    assert tissues[0] is not None
    assert tissues[1] is not None
    return found.likeness, similarity(tissues[0], tissues[1], found.offset_mm)


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param({"spacing": (2.0, 2.7, 2.7)}, id="finer"),
        pytest.param({"spacing": (5.0, 5.4, 5.4), "noise_hu": 30.0}, id="coarser, with noise"),
        pytest.param({"low": (1.3, -97.9, -85.2), "high": (241.3, 90.0, 130.0)}, id="placed elsewhere"),
        pytest.param({"low": (0.0, -45.0, -50.0), "high": (240.0, 50.0, 45.0)}, id="cropped on all sides"),
        pytest.param({"low": (110.0, -100.0, -100.0)}, id="the upper half"),
        pytest.param({"high": (130.0, 100.0, 100.0)}, id="the lower half"),
        pytest.param({"turned_deg": (3.0, -2.0, 3.0)}, id="turned"),
    ],
)
def test_a_twin_is_known_again(twin):
    likeness, value = alike(person(1), person(1, **twin))
    assert likeness > LEAST_LIKENESS
    assert value > LEAST_SIMILARITY + 0.05


def test_two_parts_that_overlap_by_a_third_are_known_again():
    likeness, value = alike(person(1, high=(160.0, 100.0, 100.0)), person(1, low=(80.0, -100.0, -100.0)))
    assert likeness > LEAST_LIKENESS
    assert value > LEAST_SIMILARITY + 0.05


def test_a_mask_around_some_organs_hides_no_twin():
    whole = person(1)
    index = np.argwhere(np.ones(whole.hu.shape, dtype=bool)) * np.array([3.0, 4.0, 4.0]) - np.array([0, 100, 100])
    kept = np.zeros(len(index), dtype=bool)
    for centre in ((60, 0, -30), (100, 10, 30), (140, -10, 0), (180, 10, 10)):
        kept |= ((index - np.array(centre)) ** 2).sum(axis=1) < 50**2
    masked = Volume(whole.grid, np.where(kept.reshape(whole.hu.shape), whole.hu, -1024).astype(np.int16))
    likeness, value = alike(whole, masked)
    assert likeness > LEAST_LIKENESS
    assert value > LEAST_SIMILARITY + 0.05


@pytest.mark.parametrize("other", [2, 3, 4, 5])
def test_another_person_is_no_twin(other):
    likeness, value = alike(person(1), person(other, spacing=(2.0, 3.0, 3.0)))
    assert likeness < LEAST_LIKENESS
    assert value < LEAST_SIMILARITY - 0.1


def test_the_offset_is_where_one_lies_in_the_other():
    """The second scan begins 24 mm higher, 20 mm further back and 12 mm further left than the first."""
    a, b = make_signature(person(1)), make_signature(person(1, low=(24.0, -80.0, -88.0)))
    found = match(a, b)
    assert np.abs(np.array(found.offset_mm) - (24, 20, 12)).max() <= 4


def test_a_scan_without_bones_has_no_signature(tmp_path):
    water = Volume(Grid.regular((20, 20, 20), (4.0, 4.0, 4.0)), np.zeros((20, 20, 20), dtype=np.int16))
    assert make_signature(water) is None
    write_signature(None, tmp_path / "none.npz")
    assert read_signature(tmp_path / "none.npz") is None


def test_a_signature_is_kept_as_it_is(tmp_path):
    made = make_signature(person(1))
    write_signature(made, tmp_path / "one.npz")
    kept = read_signature(tmp_path / "one.npz")
    assert np.array_equal(kept.bones, made.bones)
    assert np.array_equal(kept.box, made.box)
    assert match(kept, made).likeness == pytest.approx(1, abs=1e-5)
    (tmp_path / "one.npz").write_bytes((tmp_path / "one.npz").read_bytes()[:2000])
    with pytest.raises(OSError, match="damaged"):
        read_signature(tmp_path / "one.npz")


def scan(folder: Path, name: str, volume: Volume) -> Scan:
    mask = volume.hu > 0
    write_case(Case(name, volume, {"Brainstem": mask}, {"Brainstem": Annotation.PRESENT}), folder / f"{name}.npz")
    return Scan(name, folder / f"{name}.npz", f"content of {name}")


def test_a_second_run_compares_only_what_is_new(tmp_path):
    people = [scan(tmp_path, f"p{i}", person(i)) for i in range(3)]
    twin = scan(tmp_path, "twin", person(1, low=(30.0, -90.0, -90.0), spacing=(2.5, 3.0, 3.0)))
    cache = tmp_path / "cache"
    first = find_twins([*people, twin], cache)
    assert [(t.first, t.second) for t in first.pairs] == [("p1", "twin")]
    assert first.blind == ()
    for one in (*people, twin):  # nothing is read again, and what was found is known
        one.path.rename(one.path.with_suffix(".away"))
    assert find_twins([*people, twin], cache) == first
    for one in (people[0], twin):
        one.path.with_suffix(".away").rename(one.path)
    again = scan(tmp_path, "again", person(0, low=(0.0, -80.0, -70.0)))  # p1, p2 stay away: they are not read
    second = find_twins([*people, twin, again], cache)
    assert {(t.first, t.second) for t in second.pairs} == {("p1", "twin"), ("again", "p0")}
    assert [(t.first, t.second) for t in find_twins([*people, again], cache).pairs] == [("again", "p0")]
    assert len(list(cache.glob("*.bones"))) == 4  # the twin's signature went with it


def test_the_order_of_the_cases_does_not_matter(tmp_path):
    people = [scan(tmp_path, f"p{i}", person(i // 2, low=(10.0 * (i % 2), -100.0, -100.0))) for i in range(4)]
    found = find_twins(people, tmp_path / "a")
    assert {(t.first, t.second) for t in found.pairs} == {("p0", "p1"), ("p2", "p3")}
    assert find_twins(people[::-1], tmp_path / "b") == found


def test_a_damaged_signature_is_made_again(tmp_path):
    people = [scan(tmp_path, f"p{i}", person(1, low=(10.0 * i, -100.0, -100.0))) for i in range(2)]
    found = find_twins(people, tmp_path / "cache")
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(b"damaged")
    assert find_twins(people, tmp_path / "cache") == found
    assert len(found.pairs) == 1


def member(case: str, patient: str = "") -> Member:
    return Member(case, "a", patient or case, case, frozenset({"A"}))


def test_pairs_join_over_others():
    assert together([("c", "d"), ("a", "b"), ("b", "d"), ("x", "y")]) == {
        **dict.fromkeys("abcd", "a"),
        "x": "x",
        "y": "x",
    }


@pytest.mark.parametrize("seed", range(6))
def test_twins_are_in_one_split(seed):
    members = [member(f"c{i}") for i in range(20)]
    found = split_together(members, Shares(), seed, {}, [("c0", "c19"), ("c19", "c7")])
    assert len({found["c0"], found["c19"], found["c7"]}) == 1
    assert found.keys() == {m.patient for m in members}


def test_twins_of_an_earlier_run_go_where_nothing_is_trained_on():
    members = [member("c0"), member("c1"), member("c2")]
    settled = {"c0": "train", "c1": "test", "c2": "train"}
    assert split_together(members, Shares(), 0, settled, [("c0", "c1")]) == {"c0": "test", "c1": "test", "c2": "train"}


def test_between_folders_the_guarded_split_keeps_its_case():
    """Both cases of the patient in train go, since one of them is the twin; a twin without a folder joins."""
    members = [member("a1", "a"), member("a2", "a"), member("b"), member("c"), member("d")]
    twins = Twins((Twin("a1", "b", 0.97), Twin("b", "c", 0.95)))
    by_folder = {"a": "train", "b": "test", "d": "train"}
    left = outnumbered(members, twins, by_folder)
    assert left == dict.fromkeys(("a1", "a2"), "is the same person as b in test, and this split is train")
    pairs = joined_patients(members, twins)
    kept = [m for m in members if m.case not in left]
    settled = fixed_splits({"c": "train"}, by_folder, pairs)
    assert split_together(kept, Shares(), 0, settled, pairs) == {"b": "test", "c": "test", "d": "train"}


def test_an_earlier_test_split_does_not_overrule_the_folders():
    pairs = [("a", "b")]
    settled = fixed_splits({"b": "test", "c": "test"}, {"a": "train"}, pairs)
    assert settled == {"a": "train", "c": "test"}


def test_what_was_done_is_told():
    twins = Twins((Twin("a", "b", 0.97), Twin("c", "d", 0.91)))
    one, other = describe_twins(twins, {"d": "why"}, {"a": "test", "b": "test", "c": "test"}, {"a": "train"})
    assert (one.first, one.second, one.done) == ("a", "b", "both in test; a was in train before")
    assert other.done == "d left out"
