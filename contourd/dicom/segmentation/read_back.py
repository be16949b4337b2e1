"""Only what reads back is sent: a written segmentation is read twice and compared with the voxels it was made of.

Once with pydicom alone, each frame put where its own position says (PS3.3 C.7.6.16.2.3), and once by highdicom, which
puts it where the image lies that it was derived from.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import LARGE_CC
from contourd.errors import OrgansRejected, StructureSetRejected
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.reasons.catalogue import HoldReason

# What a decimal string of 16 characters loses.
SAME_PLACE_MM, SAME_DIRECTION = 1e-3, 1e-6
Frames = dict[int, NDArray[np.bool_]]


def check_segmentation(dataset: Dataset, series: Series, masks: Mapping[str, MaskInBox]) -> None:
    """Write the dataset to memory, read it again by both readers, and compare each voxel.

    Parameters
    ----------
    masks
        Segment label -> the voxels that are meant; one that is not in the dataset must be small.

    Raises
    ------
    OrgansRejected
        Only these segments are not what was meant, each with the number of voxels.
    StructureSetRejected
        What takes the whole segmentation with it.
    """
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    read = pydicom.dcmread(buffer)
    try:
        labels = _labels(read)
        _check_references(read, series)
        placed = _placed(read, series)
        if placed.keys() != labels.keys():
            raise LookupError("segments with frames")
        others = _read_by_highdicom(read, series, labels)
    except (*UNREADABLE, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StructureSetRejected(HoldReason.SEGMENTATION_UNREADABLE, said=type(error).__name__) from error
    wrong = {name: reason for name, mask in masks.items() if (reason := _missing(name, mask, labels, series.grid))}
    for number, name in labels.items():
        if name not in masks:
            raise StructureSetRejected(HoldReason.CONTOURS_FROM_NOWHERE, organs=wrong, names=[name])
        for reader, frames in (("pydicom", placed[number]), ("highdicom", others[number])):
            if differing := _count_differing(frames, masks[name]):
                wrong[name] = f"reads back by {reader} with {differing} voxels that differ"
                break
    if wrong:
        raise OrgansRejected(HoldReason.ORGANS_DIFFER, organs=wrong)


def _labels(read: Dataset) -> dict[int, str]:
    """Segment number -> label; raises LookupError where numbers do not count from 1, or a label stands twice."""
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in read.SegmentSequence}
    if [*labels] != list(range(1, len(read.SegmentSequence) + 1)) or len(set(labels.values())) != len(labels):
        raise LookupError("segments")
    return labels


def _check_references(read: Dataset, series: Series) -> None:
    if read.FrameOfReferenceUID != series.header.FrameOfReferenceUID:
        raise StructureSetRejected(HoldReason.OTHER_FRAME_OF_REFERENCE)
    if read.StudyInstanceUID != series.header.StudyInstanceUID:
        raise StructureSetRejected(HoldReason.OTHER_STUDY)
    (referenced,) = read.ReferencedSeriesSequence
    named = {str(item.ReferencedSOPInstanceUID) for item in referenced.ReferencedInstanceSequence}
    if referenced.SeriesInstanceUID != series.uid or named != {i.sop_instance_uid for i in series.instances}:
        raise StructureSetRejected(HoldReason.OTHER_IMAGES)
    if (read.SOPClassUID, read.file_meta.MediaStorageSOPInstanceUID) != (SegmentationStorage, read.SOPInstanceUID):
        raise LookupError("SOP class and instance")


def _placed(read: Dataset, series: Series) -> dict[int, Frames]:
    """Segment number -> slice -> voxels (rows, columns), each where the frame's own position and orientation say."""
    grid = series.grid
    rows, columns = grid.shape[1:]
    bits = np.frombuffer(read.PixelData, dtype=np.uint8)
    count = int(read.NumberOfFrames)
    voxels = np.unpackbits(bits, count=count * rows * columns, bitorder="little").view(np.bool_)
    frames = voxels.reshape(count, read.Rows, read.Columns)
    if frames.shape[1:] != (rows, columns):
        raise LookupError("rows and columns")
    (shared,) = read.SharedFunctionalGroupsSequence
    _check_plane(shared, grid)
    placed: dict[int, Frames] = {}
    for frame, item in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        number = int(_group(item, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        position = np.array(_group(item, shared, "PlanePositionSequence").ImagePositionPatient, dtype=np.float64)
        k = int(np.linalg.norm(grid.slice_origins_mm - position, axis=1).argmin())
        off_mm = float(np.linalg.norm(grid.slice_origins_mm[k] - position))
        (derived,) = _group(item, shared, "DerivationImageSequence").SourceImageSequence
        image = derived.ReferencedSOPInstanceUID
        if off_mm > SAME_PLACE_MM or image != series.instances[k].sop_instance_uid:
            raise StructureSetRejected(HoldReason.FRAME_OFF_ITS_SLICE, segment=number, off_mm=off_mm)
        if k in placed.setdefault(number, {}):
            raise LookupError("two frames of one segment on one slice")
        placed[number][k] = frame
    return placed


def _group(item: Dataset, shared: Dataset, keyword: str) -> Dataset:
    """Return a frame's functional group, which is shared where it is alike in all: of one segment, or one frame."""
    (group,) = item[keyword].value if keyword in item else shared[keyword].value
    assert isinstance(group, Dataset)
    return group


def _check_plane(shared: Dataset, grid: Grid) -> None:
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=np.float64)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, dtype=np.float64)
    turned = np.abs(orientation - np.concatenate([grid.row_direction, grid.column_direction])).max()
    if turned > SAME_DIRECTION or np.abs(spacing - grid.pixel_spacing_mm).max() > SAME_DIRECTION:
        raise LookupError("orientation and spacing")


def _read_by_highdicom(read: Dataset, series: Series, labels: Mapping[int, str]) -> dict[int, Frames]:
    """Segment number -> slice -> voxels, as highdicom assigns them to the images."""
    from highdicom.seg import Segmentation

    opened = Segmentation.from_dataset(read, copy=False)
    uids = [instance.sop_instance_uid for instance in series.instances]
    found: dict[int, Frames] = {}
    for number in labels:
        voxels = opened.get_pixels_by_source_instance(
            uids, segment_numbers=[number], assert_missing_frames_are_empty=True, ignore_spatial_locations=True
        )[..., 0]
        found[number] = {int(k): voxels[k] != 0 for k in np.flatnonzero(voxels.any(axis=(1, 2)))}
    return found


def _missing(name: str, mask: MaskInBox, labels: Mapping[int, str], grid: Grid) -> str:
    large = grid.volume_mm3(mask.mask, mask.box[0].start) > LARGE_CC * 1000
    return "was found but has no segment" if large and name not in labels.values() else ""


def _count_differing(frames: Frames, mask: MaskInBox) -> int:
    """Count the voxels that differ on the whole grid."""
    slices, rows, columns = mask.box
    wanted = {slices.start + k: part for k, part in enumerate(mask.mask) if part.any()}
    differing = sum(int(np.count_nonzero(part)) for k, part in wanted.items() if k not in frames)
    for k, frame in frames.items():
        part = wanted.get(k)
        inside = np.count_nonzero(frame[rows, columns])
        differing += int(np.count_nonzero(frame) - inside)
        differing += int(inside if part is None else np.count_nonzero(frame[rows, columns] ^ part))
    return differing
