"""Which area the closed loops of one ROI on one plane enclose together (DICOM PS3.3 C.8.8.6.1 and C.8.8.6.3).

The Standard gives an inner exclusion as a keyhole, or as CLOSEDPLANAR_XOR; of several CLOSED_PLANAR loops on a plane it
says nothing. Here one that lies within another is a hole of it, one within a hole an island, and so on; loops that
overlap otherwise are strokes of one brush and are united; an outline that stands twice counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from contourd.imaging.grid import FloatArray

# Planes nearer to each other than this are one, written with other digits: no CT has such slices.
SAME_PLANE_MM = 0.3
# What coordinates lose when they are written: a loop this far beyond another's border still lies within it.
BORDER_MM = 0.1
# No wall thinner than this was drawn: two outlines nowhere farther apart are one outline, drawn twice.
SAME_OUTLINE_MM = 0.5
# Less than this of a loop that runs over itself is the end of a hand's stroke.
LEAST_DOUBLED_MM2 = 0.5
SLIT_MM = 0.05
MOST_CROSSINGS = 1000

UNITED = "loops that overlap on {planes} were united"
TWICE = "an outline that stands twice on {planes} counts once"
WOUND = "a loop that runs over itself on {planes} was filled"
TANGLED = "a loop that crosses itself hundreds of times on {planes} is hardly an outline"


@dataclass(frozen=True, slots=True, eq=False)
class Combined:
    """Loops whose exclusive or, plane by plane, is the area that the loops of an ROI mean.

    Attributes
    ----------
    loops
        Each float64 (n, 3), patient mm.
    sources
        For each the index of the loop that it comes from, one of several where they were united.
    remarks
        What was done, in words; nothing where the loops are as they were.
    """

    loops: tuple[FloatArray, ...]
    sources: tuple[int, ...]
    remarks: tuple[str, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A region with the regions that lie within it, which are its holes; those within them are islands."""

    region: BaseGeometry
    loops: list[int]
    inside: list[_Node] = field(default_factory=list)
    as_drawn: bool = True

    def area(self) -> BaseGeometry:
        """Return the region without its holes."""
        return self.region.difference(shapely.union_all([node.area() for node in self.inside]))

    def all_as_drawn(self) -> bool:
        """Return whether the exclusive or of the very loops is the area."""
        return self.as_drawn and all(node.all_as_drawn() for node in self.inside)

    def all_loops(self) -> list[int]:
        """Return the loops of this region and of those inside."""
        return [*self.loops, *(loop for node in self.inside for loop in node.all_loops())]


def combined(loops: Sequence[FloatArray], exclusive: Sequence[bool]) -> Combined:
    """Combine the closed loops of one ROI.

    Parameters
    ----------
    loops
        Each float64 (n, 3), three points or more, patient mm (x, y, z).
    exclusive
        For each whether its type is CLOSEDPLANAR_XOR. Where one on a plane is, exclusive or holds for all of that
        plane, and nothing but an outline that stands twice is changed.
    """
    if not loops:
        return Combined((), (), ())
    done: Counter[str] = Counter()
    regions, odd = _regions(loops)
    found: dict[int, tuple[FloatArray, ...]] = {k: (loop,) for k, loop in enumerate(loops)}
    plane_of = planes([float(loop[:, 2].mean()) for loop in loops])
    flat = np.array([np.ptp(loop[:, 2]) <= SAME_PLANE_MM for loop in loops])
    for plane in range(plane_of.max() + 1):
        members = [int(k) for k in np.flatnonzero((plane_of == plane) & flat)]
        lines: set[str] = set()
        if any(exclusive[k] for k in members):
            doubled = _doubled(members, regions)
            found.update(dict.fromkeys(doubled, ()))
            lines.update([TWICE] if doubled else [])
        else:
            for k in members:
                if k in odd:
                    lines.add(odd[k])
                if odd.get(k) == WOUND:
                    found[k] = tuple(_rings(regions[k], float(loops[k][0, 2])))
            for group in _touching(members, regions):
                resolved, done_to_it = _resolve(group, loops, regions)
                found.update(resolved)
                lines.update(done_to_it)
        done.update(lines)
    sources = [k for k in found for _ in found[k]]
    remarks = [
        text.format(planes=f"{done[text]} plane{'s' if done[text] > 1 else ''}")
        for text in (UNITED, TWICE, WOUND, TANGLED)
        if done[text]
    ]
    return Combined(tuple(loop for k in found for loop in found[k]), tuple(sources), tuple(remarks))


def planes(z_mm: Sequence[float]) -> NDArray[np.intp]:
    """Return for each position the number of its plane, from the lowest; nearer than SAME_PLANE_MM they share one."""
    z = np.asarray(z_mm, dtype=np.float64)
    order = np.argsort(z, kind="stable")
    numbers = np.empty(len(z), dtype=np.intp)
    numbers[order] = np.cumsum(np.diff(z[order], prepend=z[order[:1]]) > SAME_PLANE_MM)
    return numbers


def _regions(loops: Sequence[FloatArray]) -> tuple[NDArray[np.object_], dict[int, str]]:
    """Return the area of each loop by itself, and of the odd ones what is odd."""
    closed = [np.concatenate([loop, loop[:1]])[:, :2] for loop in loops]
    which = np.repeat(np.arange(len(closed)), [len(loop) for loop in closed])
    regions = shapely.polygons(shapely.linearrings(np.concatenate(closed), indices=which))
    odd = {}
    for k in np.flatnonzero(~shapely.is_valid(regions)).tolist():
        regions[k], oddity = _crossed(closed[k])
        if oddity:
            odd[k] = oddity
    return regions, odd


def _crossed(closed: FloatArray) -> tuple[BaseGeometry, str]:
    """Fill a loop (n, 2) that touches or crosses itself, by the even-odd rule as a keyhole wants it.

    What it encloses twice is filled too, unless it has a slit, since a keyhole's inner ring may run either way. Of what
    crosses itself more often than any outline does no area is told: it takes seconds, and memory.
    """
    edges = shapely.linestrings(np.stack([closed[:-1], closed[1:]], axis=1))
    if shapely.STRtree(edges).query(edges, predicate="crosses").shape[1] / 2 > MOST_CROSSINGS:
        return shapely.Polygon(), TANGLED
    faces = shapely.get_parts(shapely.polygonize([shapely.node(shapely.LineString(closed))]))
    if not len(faces):
        return shapely.Polygon(), ""
    turns = _windings(closed, shapely.get_coordinates(shapely.point_on_surface(faces)))
    once = shapely.union_all(faces[turns % 2 != 0])
    doubled = faces[(turns % 2 == 0) & (turns != 0)]
    if shapely.area(doubled).sum() < LEAST_DOUBLED_MM2 or _has_slit(closed):
        return once, ""
    return shapely.union_all([once, *doubled]), WOUND


def _windings(closed: FloatArray, points: FloatArray) -> NDArray[np.int_]:
    """Count how often a loop runs around each of some points (m, 2)."""
    start, end = closed[:-1], closed[1:]
    x, y = points[:, :1], points[:, 1:]
    upwards = (start[:, 1] <= y) & (end[:, 1] > y)
    downwards = (start[:, 1] > y) & (end[:, 1] <= y)
    left_of = (end[:, 0] - start[:, 0]) * (y - start[:, 1]) - (x - start[:, 0]) * (end[:, 1] - start[:, 1])
    return np.asarray((upwards & (left_of > 0)).sum(axis=1) - (downwards & (left_of < 0)).sum(axis=1))


def _has_slit(closed: FloatArray) -> bool:
    """Return whether the loop runs along one of its edges there and back."""
    places = [tuple(point) for point in np.rint(closed / SLIT_MM).astype(np.int64).tolist()]
    edges = {edge for edge in pairwise(places) if edge[0] != edge[1]}
    return any((end, start) in edges for start, end in edges)


def _touching(members: Sequence[int], regions: NDArray[np.object_]) -> Iterator[list[int]]:
    """Give the groups of two loops and more whose bounding boxes overlap, directly or by way of others."""
    if len(members) < 2:
        return
    chosen = regions[list(members)]
    first = list(range(len(members)))  # of each group, by its members; a chain of them ends at the first of all

    def of(k: int) -> int:
        while first[k] != k:
            first[k] = k = first[first[k]]
        return k

    for a, b in shapely.STRtree(chosen).query(chosen).T.tolist():
        low, high = sorted((of(a), of(b)))
        first[high] = low
    groups: dict[int, list[int]] = {}
    for k, member in enumerate(members):
        groups.setdefault(of(k), []).append(member)
    yield from (group for group in groups.values() if len(group) > 1)


def _doubled(members: Sequence[int], regions: NDArray[np.object_]) -> list[int]:
    """Return the loops of an exclusive or that stand there already, to the digits of their coordinates."""
    doubled: list[int] = []
    for group in _touching(members, regions):
        kept: list[int] = []
        for k in group:
            stands_there = any(_alike(regions[k], regions[other], BORDER_MM / 2) for other in kept)
            (doubled if stands_there else kept).append(k)
    return doubled


def _resolve(
    group: Sequence[int], loops: Sequence[FloatArray], regions: NDArray[np.object_]
) -> tuple[dict[int, tuple[FloatArray, ...]], set[str]]:
    """Return what the loops of one group mean where that is not what is drawn, and what was done to them."""
    resolved: dict[int, tuple[FloatArray, ...]] = {}
    lines: set[str] = set()
    roots: list[_Node] = []
    # A loop without an area of its own holds a voxel or none, and makes no hole.
    areas = shapely.area(regions)
    for k in sorted((k for k in group if areas[k] > 0), key=lambda k: (-areas[k], k)):
        lines |= _insert(_Node(regions[k], [k]), roots)
    for root in roots:
        if root.all_as_drawn():
            continue
        first, *others = sorted(root.all_loops())
        resolved[first] = tuple(_rings(root.area(), float(loops[first][0, 2])))
        resolved.update(dict.fromkeys(others, ()))
    return resolved, lines


def _insert(new: _Node, siblings: list[_Node]) -> set[str]:
    """Put a region, no larger than those before it, into the tree where it belongs; return what was done to it."""
    meets = shapely.intersects(np.array([node.region for node in siblings], dtype=object), new.region)
    near = [node for node, meeting in zip(siblings, meets, strict=True) if meeting]
    for node in near:
        if _alike(node.region, new.region, SAME_OUTLINE_MM):
            node.loops += new.loops
            node.as_drawn = False
            return {TWICE}
    for node in near:
        covers = node.region.covers(new.region)
        if covers or node.region.buffer(BORDER_MM).covers(new.region):
            node.as_drawn &= covers
            return _insert(new, node.inside)
    shared = [(node, node.region.intersection(new.region)) for node in near]
    over = [node for node, part in shared if part.area > 0]
    if not over:
        siblings.append(new)
        return set()
    siblings[:] = [node for node in siblings if node not in over]
    siblings.append(
        _Node(
            shapely.union_all([new.region, *(node.region for node in over)]),
            [*new.loops, *(k for node in over for k in node.loops)],
            [inner for node in over for inner in node.inside],
            as_drawn=False,
        )
    )
    return {UNITED} if any(not part.buffer(-BORDER_MM / 2).is_empty for _, part in shared) else set()


def _alike(a: BaseGeometry, b: BaseGeometry, tolerance_mm: float) -> bool:
    """Return whether neither region goes beyond the other by more than a tolerance."""
    difference = np.abs(np.subtract(a.bounds, b.bounds))
    if not len(difference) or np.isnan(difference).any() or difference.max() > tolerance_mm:
        return False
    return bool(a.buffer(tolerance_mm).covers(b) and b.buffer(tolerance_mm).covers(a))


def _rings(region: BaseGeometry, z_mm: float) -> Iterator[FloatArray]:
    """Give the outlines of a region, those of its holes too, as loops on a plane."""
    for part in shapely.get_parts(region):
        if part.geom_type != "Polygon" or part.is_empty:
            continue
        for ring in (part.exterior, *part.interiors):
            xy = np.asarray(ring.coords)[:-1]
            yield np.column_stack([xy, np.full(len(xy), z_mm)])
