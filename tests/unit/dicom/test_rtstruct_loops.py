"""What several loops of one ROI on one plane mean together; squares whose voxels are counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from contourd.dicom.rtstruct.loops import combined, planes
from contourd.dicom.rtstruct.reader import rasterise
from contourd.imaging.grid import Grid

GRID = Grid.regular((3, 40, 40), (2.0, 1.0, 1.0))
Loop = NDArray[np.float64]


def box(x: tuple[float, float], y: tuple[float, float], z: float = 2.0) -> Loop:
    """A box around the pixel centres from the first to the last of x and y, which are whole."""
    (a, b), (c, d) = (x[0] - 0.5, x[1] + 0.5), (y[0] - 0.5, y[1] + 0.5)
    return np.array([(a, c, z), (b, c, z), (b, d, z), (a, d, z)])


def square(first: float, last: float, z: float = 2.0) -> Loop:
    return box((first, last), (first, last), z)


def circle(x: float, y: float, radius: float, z: float = 2.0, points: int = 48) -> Loop:
    angle = 2 * np.pi * np.arange(points) / points
    return np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(points, z)])


def voxels(*loops: Loop, xor: bool | tuple[bool, ...] = False) -> tuple[int, tuple[str, ...]]:
    exclusive = [xor] * len(loops) if isinstance(xor, bool) else list(xor)
    found = combined(loops, exclusive)
    return int(rasterise(found.loops, GRID).sum()), found.remarks


def test_loops_that_overlap_are_united_and_told() -> None:
    """Two boxes of 10 x 10 that share 4 x 4: 100 + 100 - 16, where exclusive or has 168."""
    first, second = square(2, 11), square(8, 17)
    assert voxels(first, second) == (184, ("loops that overlap on 1 plane were united",))
    assert voxels(second[::-1], first) == (184, ("loops that overlap on 1 plane were united",))
    assert voxels(first, second, xor=True) == (168, ())


def test_a_stroke_over_the_border_that_lies_within_but_for_its_end() -> None:
    """100, and of the stroke of 12 x 2 the 5 columns beyond the border."""
    assert voxels(square(2, 11), box((5, 16), (6, 7)))[0] == 100 + 5 * 2


def test_an_island_in_a_hole_in_an_organ_in_a_hole() -> None:
    """Boxes of 30, 26, 20, 14 and 4 pixels: 900 - 676 + 400 - 196 + 16; any order, either way around."""
    nested = [square(2, 31), square(4, 29), square(7, 26), square(10, 23), square(15, 18)]
    assert voxels(*nested) == (444, ())
    assert voxels(*(loop[::-1] if k % 2 else loop for k, loop in enumerate(nested[::-1]))) == (444, ())
    assert combined(nested, [False] * 5).loops == tuple(nested)


def test_a_hole_that_touches_its_outline_is_a_hole() -> None:
    """With a side in common, a corner in common, and 0.05 mm beyond it, as digits are cut: 100 less 4 x 4."""
    beyond = square(2, 5)
    beyond[:, 0] -= 0.05
    for hole in (square(2, 5), beyond, box((4, 7), (2, 5))):
        assert voxels(square(2, 11), hole) == (84, ())


def test_parts_that_touch_are_no_holes() -> None:
    assert voxels(square(2, 5), box((6, 9), (2, 5)), square(20, 21)) == (16 + 16 + 4, ())


def test_strokes_that_close_a_ring_leave_its_middle_out() -> None:
    """A frame of 12 x 12 around 6 x 6 by four strokes of 12 x 3, each over the corners of two others."""
    strokes = [box((2, 13), (2, 4)), box((2, 13), (11, 13)), box((2, 4), (2, 13)), box((11, 13), (2, 13))]
    assert voxels(*strokes)[0] == 144 - 36


def test_a_hole_in_the_seam_of_two_strokes_stays_a_hole() -> None:
    """12 x 10 and 12 x 10 that share 4 x 10 are 20 x 10; the hole of 6 x 4 lies across the seam."""
    assert voxels(box((2, 13), (2, 11)), box((10, 21), (2, 11)), box((9, 14), (5, 8)))[0] == 200 - 24


def test_two_strokes_of_the_rubber_are_one_hole() -> None:
    """Holes of 4 x 4 and 4 x 4 that share 2 x 4 take 24 from 400."""
    assert voxels(square(2, 21), box((6, 9), (6, 9)), box((8, 11), (6, 9)))[0] == 400 - 24


@pytest.mark.parametrize("xor", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda loop: loop,
        lambda loop: np.roll(loop, 2, axis=0),
        lambda loop: loop[::-1],
        lambda loop: np.round(loop + 0.004, 2),
        lambda loop: np.concatenate([loop, loop[:1]]),
        lambda loop: np.insert(loop, 1, loop[:2].mean(axis=0), axis=0),
    ],
)
def test_an_outline_that_stands_twice_counts_once(change, xor) -> None:
    outline, hole = circle(15.3, 15.3, 9.2), circle(15.3, 15.3, 3.2)
    once = voxels(outline, hole, xor=xor)[0]
    assert once == rasterise([outline], GRID).sum() - rasterise([hole], GRID).sum() > 200
    told = ("an outline that stands twice on 1 plane counts once",)
    assert voxels(outline, change(outline), hole, xor=xor) == (once, told)
    assert voxels(outline, hole, change(hole), change(outline), outline, xor=xor) == (once, told)


def test_an_outline_drawn_again_a_hair_within_is_no_wall() -> None:
    """Circles of 9.2 and 8.9 mm are one organ; a wall of 2 mm is one."""
    outer = rasterise([circle(15.3, 15.3, 9.2)], GRID).sum()
    assert voxels(circle(15.3, 15.3, 9.2), circle(15.3, 15.3, 8.9))[0] == outer
    inner = rasterise([circle(15.3, 15.3, 7.2)], GRID).sum()
    assert voxels(circle(15.3, 15.3, 9.2), circle(15.3, 15.3, 7.2)) == (outer - inner, ())


def test_one_loop_of_type_xor_makes_its_plane_xor_and_no_other() -> None:
    above = [square(2, 11, z=4.0), square(8, 17, z=4.0)]
    assert voxels(square(2, 11), square(8, 17), *above, xor=(False, True, False, False))[0] == 168 + 184


def keyhole(outer: Loop, hole: Loop) -> Loop:
    return np.concatenate([outer, outer[:1], hole, hole[:1]])


@pytest.mark.parametrize("way", [1, -1])
def test_a_keyhole_is_a_hole_whichever_way_it_runs_and_may_hold_an_island(way) -> None:
    """400 less 10 x 10; an island of 4 x 4 in it is a part; a stroke over its border fills the half of it."""
    key = keyhole(square(2, 21), square(7, 16)[::way])
    assert voxels(key) == (300, ())
    assert voxels(key, square(10, 13)) == (316, ())
    assert voxels(key, box((7, 23), (7, 11)))[0] == 300 + 5 * 10 + 2 * 5
    assert voxels(key, np.roll(key, 3, axis=0))[0] == 300


def test_a_loop_that_runs_around_twice_or_over_itself_is_filled() -> None:
    """Twice around 10 x 10; and a star of five points in one stroke, whose middle the stroke encloses twice."""
    told = ("a loop that runs over itself on 1 plane was filled",)
    assert voxels(np.concatenate([square(2, 11), square(2, 11)])) == (100, told)
    points, notches = circle(20.2, 20.2, 15, points=5), circle(20.2, 20.2, 15 * 0.381966, points=10)[1::2]
    stroke, outline = points[[0, 2, 4, 1, 3]], np.stack([points, notches], axis=1).reshape(-1, 3)
    middle = rasterise([np.roll(notches, 1, axis=0)], GRID).sum()
    assert middle > 50
    assert rasterise([stroke], GRID).sum() == rasterise([outline], GRID).sum() - middle
    assert voxels(stroke) == (rasterise([outline], GRID).sum(), told)
    assert voxels(stroke, xor=True)[0] == rasterise([stroke], GRID).sum()


def test_each_loop_says_where_it_came_from() -> None:
    """A union is put in the place of its first loop; what is as it was keeps its very points."""
    loops = [square(30, 33), square(2, 11), square(20, 25), square(8, 17)]
    found = combined(loops, [False] * 4)
    assert found.sources == (0, 1, 2)
    assert found.loops[0] is loops[0]
    assert found.loops[2] is loops[2]
    assert set(found.loops[1][:, 2]) == {2.0}


def test_planes_of_the_same_height_in_other_digits_are_one() -> None:
    assert planes([5.0, 2.5, 2.52, 0.0, 5.001]).tolist() == [2, 1, 1, 0, 2]
    assert voxels(square(2, 11, z=2.0), square(4, 7, z=2.01)) == (84, ())


def test_nothing_of_nothing() -> None:
    found = combined([], [])
    assert (found.loops, found.sources, found.remarks) == ((), (), ())
    flat = np.array([(1.0, 1, 2), (2, 1, 2), (3, 1, 2)])
    assert voxels(flat, flat) == (0, ())


def test_a_tangle_is_told_in_no_time_and_filled_as_it_stands() -> None:
    """Three hundred points anywhere, as of a contour that was damaged, cross some ten thousand times."""
    points = np.random.default_rng(1).uniform(2, 30, (300, 2))
    tangle = np.column_stack([points, np.full(300, 2.0)])
    told = ("a loop that crosses itself hundreds of times on 1 plane is hardly an outline",)
    assert voxels(tangle) == (rasterise([tangle], GRID).sum(), told)


def test_several_hundred_loops_on_a_plane_take_no_time() -> None:
    """An organ of 30 x 30 with 14 x 14 holes of a pixel each, all of them on one plane."""
    holes = [box((3 + 2 * x,) * 2, (3 + 2 * y,) * 2) for x in range(14) for y in range(14)]
    assert voxels(square(2, 31), *holes) == (900 - 196, ())
