"""The reference patient's way through the node: C-STORE in, queue, worker, C-STORE out to a receiver on loopback."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from uuid import uuid4

from pydicom.dataset import Dataset

from contourd.acceptance.reference_patient import clinical_grid, load_reference, reference_volume
from contourd.checks.network import own_address
from contourd.constancy.comparison import ModelContours
from contourd.constancy.requests import ConstancyChecks, SeriesProgress
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.network.in_memory_scp import InMemorySCP
from contourd.dicom.network.listener import allowed
from contourd.dicom.network.sender import FileSender
from contourd.dicom.reading.instance import Instance, find_series
from contourd.dicom.reading.series import Series, gate
from contourd.dicom.rtstruct.reader import extent, rasterise, read_structure_set
from contourd.errors import ConstancyFailed
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.model_identity import ModelIdentity
from contourd.settings import Settings
from contourd.store.constancy_series import PATIENT_ID_PREFIX
from contourd.store.constancy_standing import IMAGES_FOLDER

LOOK_S = 0.2


class ReferencePatientRun:
    """Sends the reference patient once for each model, under UIDs that nobody has seen before.

    Parameters
    ----------
    receiver
        That listens; the queue is told its port.
    """

    def __init__(self, settings: Settings, checks: ConstancyChecks, check_id: int, receiver: InMemorySCP) -> None:
        self._settings = settings
        self._checks = checks
        self._check_id = check_id
        self._receiver = receiver
        self._deadline = time.monotonic() + settings.constancy.timeout_s
        checks.listen(check_id, receiver.port)

    @cached_property
    def _volume(self) -> Volume:
        """Some seconds of work, which a check that is red before it sends anything does not need."""
        return reference_volume()

    @cached_property
    def grid(self) -> Grid:
        """The reference patient's."""
        return clinical_grid(load_reference())

    def contour(self, model: str) -> ModelContours:
        """Contour the reference patient with one model.

        Raises
        ------
        ConstancyFailed
            It was not taken, not contoured, or did not come back in its time: with the reason.
        """
        folder = self._settings.spool.root / IMAGES_FOLDER
        shutil.rmtree(folder, ignore_errors=True)
        patient_id = f"{PATIENT_ID_PREFIX}{uuid4().hex}"  # every UID is made of it
        identity = SeriesIdentity(patient_id, "Reference^Constancy", "contourd constancy check")
        try:
            write_ct_series(self._volume, folder, identity)
            (instances,) = find_series(folder).values()
            series = gate(instances)
            self._checks.register(self._check_id, series.uid, model, [i.sop_instance_uid for i in instances])
            began = time.monotonic()
            self._send(instances)
            sent = time.monotonic()
        except OSError as error:
            raise ConstancyFailed(f"the reference images cannot be written to {folder}: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        dataset, contouring_s = self._received(model, series)
        made_with = self._checks.model_of(series.uid)
        if made_with is None:
            raise ConstancyFailed(f"{model}: it is not recorded which model made the structure set")
        return read_model_contours(model, dataset, series, sent - began + contouring_s, made_with)

    def _send(self, instances: Sequence[Instance]) -> None:
        own, caller = own_address(self._settings)
        with suppress(ValueError):  # a name, not an address
            if not allowed(own.host, self._settings.node.allowed_peers):
                raise ConstancyFailed(f"node.allowed_peers keep this machine itself out; add {own.host} to them")
        results = FileSender(caller).send_files([i.path for i in instances], own)
        refused = [sent.reason for sent in results if not sent.taken]
        if refused:
            text = f"the node took {len(results) - len(refused)} of {len(results)} images of the reference patient"
            raise ConstancyFailed(f"{text}: {refused[0]}")

    def _received(self, model: str, series: Series) -> tuple[Dataset, float]:
        """Wait for the structure set; returns it, and the seconds since the worker took the job."""
        claimed = came = None
        while True:
            self._receiver.arrived.clear()
            dataset, progress = self._dataset_of(series), self._checks.progress(series.uid)
            now = time.monotonic()
            claimed = now if claimed is None and progress.claimed else claimed
            came = now if came is None and dataset is not None else came
            if dataset is not None and came is not None and progress.delivered:
                return dataset, came - (claimed or came)
            self._refuse_to_wait(model, progress)
            self._receiver.arrived.wait(LOOK_S)

    def _refuse_to_wait(self, model: str, progress: SeriesProgress) -> None:
        if progress.trouble:
            raise ConstancyFailed(f"{model}: {progress.trouble}")
        if time.monotonic() > self._deadline:
            limit = f"constancy.timeout_s ({self._settings.constancy.timeout_s:g} s)"
            raise ConstancyFailed(f"{model}: no structure set came within {limit}: {progress.stage}")

    def _dataset_of(self, series: Series) -> Dataset | None:
        return next((ds for ds in self._receiver.datasets if _refers_to(ds, series)), None)


def _refers_to(dataset: Dataset, series: Series) -> bool:
    """Return whether a structure set is of a series and its patient; anybody on this machine can send others."""
    referred = {
        str(of_series.get("SeriesInstanceUID"))
        for frame in dataset.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for of_series in study.get("RTReferencedSeriesSequence") or ()
    }
    return referred == {series.uid} and dataset.get("PatientID") == series.header.PatientID


def read_model_contours(
    model: str, dataset: Dataset, series: Series, seconds: float, made_with: ModelIdentity
) -> ModelContours:
    """Read what a structure set holds, which a model has made.

    Raises
    ------
    ConstancyFailed
        It names another model.
    """
    equipment = (dataset.get("ContributingEquipmentSequence") or [Dataset()])[0]
    organs = {}
    for roi in read_structure_set(dataset):
        box = extent(roi.contours, series.grid)
        organs[roi.name] = MaskInBox(box, rasterise(roi.contours, series.grid, box))
    name, versions = str(equipment.get("ManufacturerModelName", "")), equipment.get("SoftwareVersions") or [""]
    if (name, str(versions[-1])) != (made_with.name, made_with.version):
        raise ConstancyFailed(f"{model}: the structure set says that {name} {versions[-1]} made it")
    return ModelContours(model, name, made_with.version, made_with.sha256, round(seconds, 2), organs)
