"""The patient is found alone, whatever lies beside; and all lattices are cut alike."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.acceptance.reference_patient import load_reference
from contourd.errors import SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.body import find_patient
from contourd.model.couch import remove_couch
from contourd.model.planes import filled, grown, opened
from contourd.model.transforms import ALIGNED, Preprocess, PreprocessConfig
from tests.couches import OBJECTS, with_object

HN7 = PreprocessConfig(spacing_mm=(2.75, 3.9, 3.9))
# A rest of sheets and shells may stay where they lie on the skin: this part of the voxels at most.
SKIN = {"mask with frame": 0.02, "arm beside": 0.01, "arm against": 0.015, "solid head rest": 0.015}
# Where the back is pressed into a board by 6 mm, nobody can tell them apart.
PRESSED = {"pressed board": 0.01}


def padded(volume: Volume, rows: int, columns: int) -> Volume:
    """Put air around a canonical volume."""
    hu = np.pad(volume.hu, ((0, 0), (rows, rows), (columns, columns)), constant_values=AIR_HU)
    return Volume(Grid.regular(hu.shape, volume.grid.spacing_mm), hu)


@pytest.fixture(scope="module")
def clean() -> Volume:
    """Every second slice, row and column of the reference patient in a field of view of 500 mm."""
    volume = load_reference().volume
    hu = np.ascontiguousarray(volume.hu[::2, ::2, ::2])
    return padded(Volume(Grid.regular(hu.shape, (5.0, 5.0, 5.0)), hu), 25, 8)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_patient_is_the_same_with_and_without(clean, name):
    scanned = with_object(clean, name)
    assert (scanned.hu != clean.hu).mean() > 1e-4
    alone, found = (find_patient(volume.hu, volume.grid).body for volume in (clean, scanned))
    assert (alone & ~found).sum() <= PRESSED.get(name, 0.002) * alone.sum()  # nothing is cut from the patient
    assert (found & ~alone).sum() <= SKIN.get(name, 0.005) * alone.sum()


@pytest.mark.parametrize("name", OBJECTS)
def test_the_network_sees_the_same_with_and_without(clean, name):
    preprocess = Preprocess(HN7)
    for alone, beside in zip(preprocess.lattices(clean), preprocess.lattices(with_object(clean, name)), strict=True):
        for one, other in zip(alone.axes_mm, beside.axes_mm, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (np.abs(alone.image - beside.image) > 0.1).mean() <= SKIN.get(name, 0.005)
        assert alone.beyond == beside.beyond == 0


@pytest.mark.parametrize(("axes", "flips"), [((0, 1, 2), (1, 2)), ((0, 2, 1), ()), ((0, 2, 1), (2,))])
def test_a_couch_is_found_on_any_side(clean, axes, flips):
    def turned(volume: Volume) -> np.ndarray:
        return np.ascontiguousarray(np.flip(volume.hu.transpose(axes), flips))

    alone, scanned = turned(clean), turned(with_object(clean, "solid board"))
    grid = Grid.regular(alone.shape, (5.0, 5.0, 5.0))
    bodies = [find_patient(hu, grid).body for hu in (alone, scanned)]
    assert (bodies[0] != bodies[1]).sum() <= 0.005 * bodies[0].sum()


def test_a_chest_with_lungs_is_no_couch():
    """Lungs leave of a chest a wide back wall; it has bone, and beside it there is no air of the room."""
    y, x = (np.indices((60, 80)) - [[[30]], [[40]]]) * 5.0
    chest = (x / 180) ** 2 + (y / 110) ** 2 <= 1
    lungs = ((np.abs(x) - 75) / 60) ** 2 + (y / 80) ** 2 <= 1
    tissue = np.repeat((chest & ~lungs)[None], 40, axis=0)
    tissue[:, :25] = False  # the front wall is cut off by the field of view
    before = tissue.copy()
    bone = np.zeros_like(tissue)
    bone[:, 45:50, 37:44] = True
    remove_couch(tissue, bone, (5.0, 5.0, 5.0))
    np.testing.assert_array_equal(tissue, before)


def test_a_body_cut_off_by_the_field_of_view_stays(clean):
    narrow = np.ascontiguousarray(clean.hu[:, :, 28:-28])
    assert (narrow[:, :, [0, -1]] > -350).any()
    found = find_patient(narrow, Grid.regular(narrow.shape, (5.0, 5.0, 5.0))).body
    whole = find_patient(clean.hu, clean.grid).body[:, :, 28:-28]
    assert (whole & ~found).sum() <= 0.005 * whole.sum()


def test_the_patient_is_what_has_bone():
    grid = Grid.regular((60, 100, 100), (4.0, 4.0, 4.0))
    y, x = np.indices((100, 100))
    hu = np.full(grid.shape, -1000, dtype=np.int16)
    hu[:, np.hypot(y - 50, x - 30) <= 20] = 0  # a phantom of water, larger than the head
    hu[:, np.hypot(y - 50, x - 75) <= 16] = 40
    hu[:, np.hypot(y - 50, x - 75) <= 5] = 800
    body = find_patient(hu, grid).body
    assert body[30, 50, 75]
    assert not body[30, 50, 30]


def test_padding_alone_is_no_patient():
    grid = Grid.regular((30, 60, 60), (4.0, 4.0, 4.0))
    hu = np.full(grid.shape, 0, dtype=np.int16)
    y, x = np.indices((60, 60))
    hu[:, np.hypot(y - 30, x - 30) < 29] = -1000
    with pytest.raises(SeriesUnusable, match="no patient"):
        find_patient(hu, grid)


def test_the_other_lattice_begins_half_a_voxel_before(clean):
    one, other = Preprocess(HN7).lattices(clean)
    for a, b, step in zip(one.axes_mm, other.axes_mm, HN7.spacing_mm, strict=True):
        np.testing.assert_allclose(b[: len(a)], a - step / 2)
        assert len(b) - len(a) in (0, 1)  # one more where the CT ends


def test_the_box_is_of_whole_blocks(clean):
    """With 5 mm air in front of it, the patient stays where it was for the network, and so do the places it pools."""
    first, _ = Preprocess(HN7).lattices(clean)
    assert len(first.axes_mm[1]) % ALIGNED == len(first.axes_mm[2]) % ALIGNED == 0
    moved = Volume(clean.grid, np.roll(clean.hu, 1, axis=2))  # by 5 mm to the left: the block is the same
    second, _ = Preprocess(HN7).lattices(moved)
    shift = (second.axes_mm[2][0] - first.axes_mm[2][0]) / 3.9
    assert shift == pytest.approx(round(shift / ALIGNED) * ALIGNED)


def test_of_what_is_taken_for_the_head_a_part_lies_beside_the_box():
    grid = Grid.regular((60, 60, 160), (4.0, 4.0, 4.0))
    hu = np.full(grid.shape, -1000, dtype=np.int16)
    hu[:, 20:40, 20:140] = 40  # 480 mm from side to side, of which the box holds 240 to 240 + 2 x 28
    volume = Volume(grid, hu)
    assert 1 - 296 / 480 <= Preprocess(PreprocessConfig()).prepare(volume).beyond <= 1 - 240 / 480
    assert Preprocess(PreprocessConfig(half_width_mm=250)).prepare(volume).beyond == 0


def test_masks_on_planes_by_hand():
    dot = np.zeros((1, 7, 7), dtype=bool)
    dot[0, 3, 3] = True
    assert grown(dot, 0).sum() == 1
    assert grown(dot, 1).sum() == 5  # with its four neighbours
    assert grown(dot, 2).sum() == 21  # a square of five without its corners
    bar = np.zeros((1, 12, 12), dtype=bool)
    bar[0, 2:10, 2:10] = True  # 8 x 8
    bar[0, 5, 10:] = True  # and a wire
    assert not opened(bar, 1)[0, 5, 11]
    assert opened(bar, 1)[0, 4:8, 2:10].all()
    ring = np.zeros((1, 7, 7), dtype=bool)
    ring[0, 1:6, 1:6] = True
    ring[0, 2:5, 2:5] = False
    assert filled(ring).sum() == 25
