"""Masks -> DICOM Segmentation, a segment for each organ, one bit for each voxel.

DICOM PS3.3 A.51 (the IOD) and C.8.20 (Segmentation). highdicom lays it out; what identifies the patient, UIDs, dates
and times are written as in the structure set, so that the same job gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian, SegmentationStorage

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.writer import (
    CHECK,
    LONGEST_DESCRIPTION,
    NOT_REVIEWED,
    Provenance,
    content_date_and_time,
    copy_patient_and_study,
    describe_equipment,
    description_of,
    organs_to_write,
    series_description,
)
from contourd.dicom.uids import IMPLEMENTATION, IMPLEMENTATION_NAME
from contourd.errors import StructureSetRejected
from contourd.imaging.contours import ROI, MaskInBox, StructureSet
from contourd.model.remarks import NO_REMARKS, Remarks
from contourd.model.structures import Laterality, Structure, side_of
from contourd.profiles import STRICT, Profile
from contourd.reasons.catalogue import HoldReason

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription

ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")  # CID 7150
ORGAN = Code("91772007", "SCT", "Organ")  # CID 7166: of an organ that has no code of its own
SIDES: Mapping[Laterality, Code] = {  # CID 244
    Laterality.LEFT: Code("7771000", "SCT", "Left"),
    Laterality.RIGHT: Code("24028007", "SCT", "Right"),
}
ARTIFICIAL_INTELLIGENCE = Code("123109", "DCM", "Artificial Intelligence")  # CID 7162
CONTENT_LABEL = "AI_HN_DRAFT"
SERIES_NUMBER = 2
LONGEST_LABEL = 64
# What highdicom asks of its source images; it is written from the header's own bytes afterwards.
ASKED = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)


def segmentation_dataset(
    structures: StructureSet,
    masks: Mapping[str, MaskInBox],
    series: Series,
    provenance: Provenance,
    catalogue: Mapping[str, Structure],
    profile: Profile = STRICT,
    remarks: Remarks = NO_REMARKS,
) -> FileDataset:
    """Build the complete file dataset, Implicit VR Little Endian; it has the organs that the structure set has.

    Parameters
    ----------
    structures
        What was contoured: which organs are written, in which order.
    masks
        TG-263 name -> the voxels on the CT's own grid. Organs may overlap.

    Raises
    ------
    StructureSetRejected
        highdicom is not installed, nothing was found, or a name is not fit for the destination.
    """
    try:
        from highdicom.seg import Segmentation
    except ImportError as error:
        raise StructureSetRejected(HoldReason.SEGMENTATION_NOT_INSTALLED) from error
    found = organs_to_write(structures, profile, remarks)
    segments = [_segment(n, roi, series, provenance, catalogue, profile, remarks) for n, roi in enumerate(found, 1)]
    made = Segmentation(
        source_images=_source_images(series),
        pixel_array=_pixels([masks[roi.name] for roi in found], series.grid.shape),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=provenance.uid(series, "segmentation series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=provenance.uid(series, "segmentation"),
        instance_number=provenance.revision,
        manufacturer="contourd",
        manufacturer_model_name=f"contourd {provenance.named(LONGEST_LABEL - len('contourd '))}",
        software_versions="contourd",
        device_serial_number=provenance.model_hash[:16],
        content_label=CONTENT_LABEL,
        content_description=NOT_REVIEWED,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        omit_empty_frames=True,
    )
    return _with_our_header(made, series, provenance, description_of(provenance, remarks, structures))


def _segment(
    number: int,
    roi: ROI,
    series: Series,
    provenance: Provenance,
    catalogue: Mapping[str, Structure],
    profile: Profile,
    remarks: Remarks,
) -> SegmentDescription:
    """Describe one organ: what it is, which side, what drew it, and whether it is to be looked at first."""
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription

    known = catalogue.get(roi.name)
    code = Code(known.code, "SCT", known.meaning) if known is not None and known.code else ORGAN
    name, model = profile.name_of(roi.name), provenance.model_of(roi.name)
    segment = SegmentDescription(
        segment_number=number,
        segment_label=name[:LONGEST_LABEL],
        segmented_property_category=ANATOMICAL_STRUCTURE,
        segmented_property_type=code,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model.name[:LONGEST_LABEL],
            family=ARTIFICIAL_INTELLIGENCE,
            version=model.version[:LONGEST_LABEL],
            source="contourd",
        ),
        tracking_uid=provenance.uid(series, f"tracking {roi.name}"),
        tracking_id=f"contourd {name}"[:LONGEST_LABEL],
        display_color=None if known is None else CIELabColor.from_rgb(*known.colour),
    )
    side = SIDES.get(side_of(roi.name))
    if side is not None:
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [_coded(side)]
    if roi.name in remarks.flagged:
        segment.SegmentDescription = f"{CHECK}: {remarks.flagged[roi.name]}"[:LONGEST_DESCRIPTION]
    return segment


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _source_images(series: Series) -> list[Dataset]:
    """Return what highdicom asks of each image; it reads nothing else of them."""
    grid = series.grid
    orientation = [*map(float, grid.row_direction), *map(float, grid.column_direction)]
    images = []
    for instance, origin in zip(series.instances, grid.slice_origins_mm, strict=True):
        image = Dataset()
        image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, instance.sop_instance_uid
        image.StudyInstanceUID, image.SeriesInstanceUID = series.header.StudyInstanceUID, series.uid
        image.FrameOfReferenceUID = series.header.FrameOfReferenceUID
        image.Modality = "CT"
        image.Rows, image.Columns = grid.shape[1:]
        image.PixelSpacing = list(grid.pixel_spacing_mm)
        image.SliceThickness = round(grid.spacing_mm[0], 6)
        image.ImageOrientationPatient = orientation
        image.ImagePositionPatient = origin.tolist()
        for keyword in ASKED:
            setattr(image, keyword, "")
        images.append(image)
    return images


def _pixels(masks: Sequence[MaskInBox], shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return a label for each voxel (z, y, x), or one array for each organ (z, y, x, organ) where they overlap.

    highdicom takes the first in a third of the time.
    """
    dtype = np.uint8 if len(masks) <= np.iinfo(np.uint8).max else np.uint16
    labels = np.zeros(shape, dtype=dtype)
    for number, organ in enumerate(masks, 1):
        here = labels[organ.box]
        if np.any(here[organ.mask]):
            break
        here[organ.mask] = number
    else:
        return labels
    several = np.zeros((len(masks), *shape), dtype=np.uint8)
    for one, organ in zip(several, masks, strict=True):
        one[organ.box] = organ.mask
    return np.moveaxis(several, 0, -1)  # organ by organ in memory: highdicom adds them up, and takes frames of one


def _with_our_header(made: Dataset, series: Series, provenance: Provenance, description: str) -> FileDataset:
    """Give what highdicom made the patient, study, equipment, dates and UIDs that the structure set has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SegmentationStorage
    meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    for tag in made.keys():  # noqa: SIM118  # iterating over a Dataset itself decodes its values
        ds[tag] = made.get_item(tag)
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SpecificCharacterSet"):
        ds.pop(keyword, None)
    copy_patient_and_study(ds, series.header)
    describe_equipment(ds, provenance)
    ds.SeriesDescription = series_description(provenance)
    ds.ContentDate, ds.ContentTime = content_date_and_time(series.header)
    ds.ContentCreatorName = ""
    ds.ImageComments = description
    organization = provenance.uid(series, "segmentation dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return ds
