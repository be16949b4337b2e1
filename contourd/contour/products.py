"""What can be made of a series that was contoured: each product is written, and read back before it is sent.

A further one is its two functions and a line in ``PRODUCTS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.read_back import check_structure_set
from contourd.dicom.rtstruct.second_reader import check_with_second_reader
from contourd.dicom.rtstruct.writer import Provenance, structure_set_dataset
from contourd.dicom.segmentation.read_back import check_segmentation
from contourd.dicom.segmentation.writer import segmentation_dataset
from contourd.imaging.contours import HoleStyle, MaskInBox, StructureSet
from contourd.model.remarks import Remarks
from contourd.model.structures import Structure
from contourd.profiles import ProductName, Profile


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What is to be written.

    Attributes
    ----------
    structures
        The contours in each style.
    masks
        TG-263 name -> the voxels that they were drawn around.
    catalogue
        What is known of organs.
    second_reader
        Whether rt-utils opens each structure set too.
    """

    series: Series
    structures: Mapping[HoleStyle, StructureSet]
    masks: Mapping[str, MaskInBox]
    catalogue: Mapping[str, Structure]
    second_reader: bool = False

    def named(self, profile: Profile, remarks: Remarks) -> dict[str, MaskInBox]:
        """Return the masks of what is not withheld, by the names that the destination gives them."""
        return {profile.name_of(name): mask for name, mask in self.masks.items() if name not in remarks.withheld}


class Product(Protocol):
    """One way in which a job's result is given."""

    def write(self, drawn: Drawn, provenance: Provenance, profile: Profile, remarks: Remarks) -> Dataset:
        """Return the complete file dataset, the same to the byte for the same input; raises StructureSetRejected."""

    def check(self, dataset: Dataset, drawn: Drawn, profile: Profile, remarks: Remarks) -> None:
        """Read it back and compare it; raises OrgansRejected for single organs, else StructureSetRejected."""


class StructureSetProduct:
    """RT Structure Set."""

    def write(self, drawn: Drawn, provenance: Provenance, profile: Profile, remarks: Remarks) -> Dataset:
        """Write the contours in the profile's style."""
        traced = drawn.structures[HoleStyle(profile.holes)]
        return structure_set_dataset(traced, drawn.series, provenance, drawn.catalogue, profile, remarks)

    def check(self, dataset: Dataset, drawn: Drawn, profile: Profile, remarks: Remarks) -> None:
        """Rasterise the contours again; rt-utils reads it too where that is wanted."""
        check_structure_set(dataset, drawn.series, drawn.named(profile, remarks))
        if drawn.second_reader:
            check_with_second_reader(dataset, drawn.series)


class SegmentationProduct:
    """DICOM Segmentation."""

    def write(self, drawn: Drawn, provenance: Provenance, profile: Profile, remarks: Remarks) -> Dataset:
        """Write the voxels of the organs that the structure set has."""
        traced = drawn.structures[HoleStyle(profile.holes)]
        return segmentation_dataset(traced, drawn.masks, drawn.series, provenance, drawn.catalogue, profile, remarks)

    def check(self, dataset: Dataset, drawn: Drawn, profile: Profile, remarks: Remarks) -> None:
        """Compare each voxel, by pydicom and by highdicom."""
        check_segmentation(dataset, drawn.series, drawn.named(profile, remarks))


PRODUCTS: Mapping[ProductName, Product] = MappingProxyType(
    {"rtstruct": StructureSetProduct(), "seg": SegmentationProduct()}
)
