"""A reader by other hands, rt-utils, opens the structure set against its CT before it is sent.

It runs as a program of its own: an extra that may be absent, and that raises bare exceptions. It rounds points to
pixels, so only that there is something of every ROI is asked, not its outline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom.dataset import Dataset

from contourd.dicom.reading.series import Series
from contourd.dicom.rtstruct.writer import save_structure_set
from contourd.errors import OrgansRejected, StructureSetRejected
from contourd.reasons.catalogue import HoldReason

# Its loader checks that every image that is referenced is there.
PROGRAM = """
import json, sys
from rt_utils import RTStructBuilder
opened = RTStructBuilder.create_from(sys.argv[1], sys.argv[2])
print(json.dumps({name: bool(opened.get_roi_mask_by_name(name).any()) for name in opened.get_roi_names()}))
"""
LONGEST_S = 600.0
NOTHING = "rt-utils finds nothing of it"


def check_with_second_reader(dataset: Dataset, series: Series, interpreter: str = sys.executable) -> None:
    """Open a structure set with rt-utils against the series that it was drawn on.

    Parameters
    ----------
    interpreter
        The Python in whose environment rt-utils is installed.

    Raises
    ------
    StructureSetRejected
        rt-utils is not installed, cannot open the structure set, or finds other names.
    OrgansRejected
        It finds nothing of these ROIs.
    """
    found = _found(dataset, series, interpreter)
    other = set(found) ^ {str(item.ROIName) for item in dataset.StructureSetROISequence}
    if other:
        raise StructureSetRejected(HoldReason.SECOND_READER_OTHER_ROIS, rois=", ".join(sorted(other)))
    empty = sorted(name for name, present in found.items() if not present)
    if empty:
        raise OrgansRejected(
            HoldReason.SECOND_READER_FINDS_NOTHING, organs=dict.fromkeys(empty, NOTHING), rois=", ".join(empty)
        )


def second_reader_loads(interpreter: str = sys.executable) -> bool:
    """Return whether rt-utils is installed, with the libraries of the system that its OpenCV needs."""
    ran = subprocess.run(
        [interpreter, "-P", "-c", "import rt_utils"], capture_output=True, check=False, timeout=LONGEST_S
    )
    return ran.returncode == 0


def _found(dataset: Dataset, series: Series, interpreter: str) -> dict[str, bool]:
    """ROI name -> whether rt-utils fills any voxel of it."""
    with TemporaryDirectory() as temporary:
        rtstruct, images = Path(temporary) / "rtstruct.dcm", Path(temporary) / "ct"
        save_structure_set(dataset, rtstruct)
        images.mkdir()
        for k, instance in enumerate(series.instances):
            (images / f"CT_{k:04d}.dcm").symlink_to(instance.path.resolve())
        command = [interpreter, "-P", "-c", PROGRAM, str(images), str(rtstruct)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_S)
        except subprocess.TimeoutExpired as error:
            raise StructureSetRejected(HoldReason.SECOND_READER_SLOW, seconds=LONGEST_S) from error
    if ran.returncode:
        # The kind of the error and not its text, which may quote the patient.
        kind = (ran.stderr.strip().splitlines() or [""])[-1].partition(":")[0]
        if kind in ("ImportError", "ModuleNotFoundError"):
            raise StructureSetRejected(HoldReason.SECOND_READER_NOT_INSTALLED)
        raise StructureSetRejected(HoldReason.SECOND_READER_FAILS, said=kind or f"exit {ran.returncode}")
    found: dict[str, bool] = json.loads(ran.stdout.strip().splitlines()[-1])
    return found
