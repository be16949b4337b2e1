"""A job is contoured again from what is in the spool, and the bytes are compared: nothing of it is ever delivered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from contourd import __version__
from contourd.constancy.comparison import compare_organ
from contourd.contour.contouring import ContouringOptions, contour_series
from contourd.contour.drawing import ModelDrawing, ModelInTurn, ModelsInTurn
from contourd.contour.provenance import (
    Difference,
    contouring_of,
    differences,
    other_settings,
    read_order,
    sha256,
    written_order,
)
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.integrity import require_intact
from contourd.dicom.reading.series import Instance, gate, read_instance
from contourd.dicom.rtstruct.reader import extent, rasterise, read_structure_set
from contourd.errors import (
    DatasetError,
    DeviceError,
    InvalidTransition,
    ModelError,
    SeriesUnusable,
    StoreUnavailable,
    StructureSetRejected,
)
from contourd.imaging.contours import MaskInBox
from contourd.imaging.grid import FloatArray, Grid, around
from contourd.model.bundle_config import ModelBundle
from contourd.model.model_names import names_of_text
from contourd.model.model_use import ModelUse
from contourd.model.predictor import Predictor
from contourd.model.site_structures import site_colours
from contourd.models.activation import find_same, load_found
from contourd.models.activations import Activations
from contourd.models.orders import pinned_models
from contourd.models.runtimes import make_predictor, user_cache, worker_of
from contourd.profiles import STRICT, profiles_to_write
from contourd.reasons.catalogue import HoldReason
from contourd.settings import Settings, WorkerSettings
from contourd.store.contourings import ContouredJob, Contouring, Output, images_sha256, read_contoured
from contourd.store.database import Database
from contourd.system.regular_files import read_regular
from contourd.transfer.copies import bring_if_possible, copies_of


@dataclass(frozen=True, slots=True)
class OrganChange:
    """One organ in both structure sets: Dice and shift of the centroid (mm), None where only one of them has it."""

    name: str
    dice: float | None
    shift_mm: float | None


@dataclass(frozen=True, slots=True, eq=False)
class OutputReplay:
    """One structure set made again.

    Attributes
    ----------
    note
        What is wrong with the one in the spool, empty where nothing is.
    organs
        Compared where the bytes differ and the earlier ones are still there.
    """

    path: str
    same: bool
    content: bytes
    note: str = ""
    organs: tuple[OrganChange, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """What a replay found.

    Attributes
    ----------
    impossible
        Why the job could not be contoured again; empty where it was.
    changed
        What was not as it was when it was contoured again.
    today
        What the job would be contoured with today, where that is not what was recorded.
    """

    job_id: int
    before: Contouring
    impossible: str = ""
    changed: tuple[Difference, ...] = ()
    today: tuple[Difference, ...] = ()
    outputs: tuple[OutputReplay, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every byte of every structure set is the same."""
        return bool(self.outputs) and all(output.same for output in self.outputs)


class ReplayBasis(Enum):
    """What a job is contoured again with."""

    RECORDED = "what was recorded"
    TODAY = "the model and the settings of today"


class Replayer:
    """Contours jobs of one node again; reads its queue and its spool, and writes to neither."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._root = settings.spool.root
        self._activations = Activations(database, self._root)
        self._copies = copies_of(settings.spool, database)

    def replay(self, job_id: int, basis: ReplayBasis = ReplayBasis.RECORDED) -> Replay:
        """Contour a job again.

        Parameters
        ----------
        basis
            By default the model and the settings that were recorded; a model that is not here any more is replaced by
            the one that its name stands for.

        Raises
        ------
        InvalidTransition
            There is no such job, or it was never contoured.
        """
        job, before = self._contoured(job_id)
        try:
            order = read_order(before.settings) if basis is ReplayBasis.RECORDED else self._order_of_today(job)
            instances = self._instances(job, before)
            contoured = contour_series(instances, self._models(job, before, basis), order)
        except (SeriesUnusable, StructureSetRejected, ModelError, DeviceError, DatasetError, StoreUnavailable) as error:
            return Replay(job_id, before, str(error), differences(before, replace(before, contourd=__version__)))
        contents = {str(number): _bytes(dataset) for number, dataset in enumerate(contoured.datasets)}
        bring_if_possible(self._copies, [old.path for old in before.outputs])
        now = contouring_of(contoured.models, order, list(job.hashes.values()), contents)
        grid = gate(instances).grid
        outputs = tuple(
            self._compare(old, content, grid)
            for old, content in zip(before.outputs, contents.values(), strict=False)  # there may be more today
        )
        return Replay(job_id, before, "", differences(before, now), self._of_today(job, before), outputs)

    def _contoured(self, job_id: int) -> tuple[ContouredJob, Contouring]:
        job = read_contoured(self._database, job_id)
        if job is None:
            raise InvalidTransition(f"there is no job {job_id}")
        if job.contouring is None:
            raise InvalidTransition(
                f"of job {job_id} it is not recorded how it was contoured: it is {job.state}; "
                "it was not contoured yet, or by a contourd that kept no record"
            )
        return job, job.contouring

    def _instances(self, job: ContouredJob, before: Contouring) -> list[Instance]:
        """Read the images that were contoured; raises SeriesUnusable where they are not there any more."""
        if not job.hashes:
            when = f" on {job.images_purged:%Y-%m-%d}" if job.images_purged else ""
            raise SeriesUnusable(HoldReason.IMAGES_PURGED, when=when)
        if images_sha256(job.hashes.values()) != before.images_sha256:
            raise SeriesUnusable(
                HoldReason.SERIES_CHANGED,
                before=before.images,
                now=len(job.hashes),
                revision=job.series_revision,
                revision_of_job=job.revision,
            )
        self._copies.bring(job.hashes)
        paths = {self._root / path: digest for path, digest in job.hashes.items()}
        require_intact(paths)
        return [read_instance(path) for path in paths]

    def _models(self, job: ContouredJob, before: Contouring, basis: ReplayBasis) -> Predictor | ModelsInTurn:
        """Return the models of a job; of several each is loaded in its turn, but none that drew nothing."""
        names = names_of_text(job.model)
        pinned = pinned_models(names, before.models if basis is ReplayBasis.RECORDED else ())
        runtimes = [use.runtime or before.runtime for use in before.models]
        if len(names) == 1:
            return self._predictor(self._model(pinned[0]), worker_of(runtimes[0]))
        turns = [
            ModelInTurn(use, partial(self._run, use, worker_of(runtime)))
            for use, runtime in zip(pinned, runtimes, strict=True)
        ]
        return ModelsInTurn(tuple(turns), job.partial)

    def _run(self, use: ModelUse, recorded: WorkerSettings, call: Callable[[Predictor], ModelDrawing]) -> ModelDrawing:
        return call(self._predictor(self._model(use), recorded))

    def _model(self, use: ModelUse) -> ModelBundle:
        if use.identity is not None:
            with suppress(ModelError):  # it is told as a difference
                return load_found(find_same(use.identity, use.asked, self._root))
        return load_found(self._activations.find(use.asked))

    def _predictor(self, bundle: ModelBundle, recorded: WorkerSettings) -> Predictor:
        """Take the device and the runtime that it was, else those of the settings."""
        try:
            return make_predictor(bundle, recorded, user_cache())
        except DeviceError:
            return make_predictor(bundle, self._settings.worker, user_cache())

    def _order_of_today(self, job: ContouredJob) -> ContouringOptions:
        known = {d.name: d.profiles for d in self._settings.destination}
        wanted = [profile for name in job.destinations for profile in known.get(name, (STRICT,))]
        colours = site_colours(self._settings.structures.file)
        return ContouringOptions(
            job.revision, profiles_to_write(wanted), self._settings.plausibility, job.override, colours=colours
        )

    def _of_today(self, job: ContouredJob, before: Contouring) -> tuple[Difference, ...]:
        """Compare what was recorded with what a new job of the same kind would get."""
        drawn = [use.identity.text() for use in before.models if use.drew and use.identity is not None]
        then, active = ", ".join(drawn), ", ".join(map(self._active_text, names_of_text(job.model)))
        models = () if active == then else (Difference("model", then, active),)
        return (*models, *other_settings(before.settings, written_order(self._order_of_today(job))))

    def _active_text(self, name: str) -> str:
        try:
            return load_found(self._activations.find(name)).identity.text()
        except ModelError as error:
            return str(error)

    def _compare(self, old: Output, content: bytes, grid: Grid) -> OutputReplay:
        if sha256(content) == old.sha256:
            return OutputReplay(old.path, True, content, self._note(old))
        note = self._note(old)
        try:
            organs = () if note else compare_organs(read_regular(self._root / old.path), content, grid)
        except DatasetError as error:
            return OutputReplay(old.path, False, content, str(error))
        return OutputReplay(old.path, False, content, note, organs)

    def _note(self, old: Output) -> str:
        """Return what is wrong with the structure set in the spool."""
        try:
            stored = read_regular(self._root / old.path)
        except OSError:
            return "the structure set is not in the spool any more; it is compared by the hash that was recorded"
        if sha256(stored) != old.sha256:
            return "the structure set in the spool is not the one that was made: it has changed on the disk"
        return ""


def _bytes(dataset: Dataset) -> bytes:
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compare_organs(before: bytes, now: bytes, grid: Grid) -> tuple[OrganChange, ...]:
    """Compare two structure sets of one series, organ by organ, on the CT's grid.

    Raises
    ------
    DatasetError
        One of them cannot be read.
    """
    old, new = _contours(before), _contours(now)
    return tuple(_change(name, old.get(name, ()), new.get(name, ()), grid) for name in dict.fromkeys((*old, *new)))


def _contours(content: bytes) -> Mapping[str, tuple[FloatArray, ...]]:
    try:
        dataset = pydicom.dcmread(BytesIO(content))
    except UNREADABLE as error:
        raise DatasetError(f"the structure set cannot be read ({type(error).__name__})") from error
    return {roi.name: roi.contours for roi in read_structure_set(dataset)}


def _change(name: str, old: tuple[FloatArray, ...], new: tuple[FloatArray, ...], grid: Grid) -> OrganChange:
    if not old or not new:
        return OrganChange(name, None, None)
    box = around(extent(old, grid), extent(new, grid))
    a, b = (MaskInBox(box, rasterise(contours, grid, box)) for contours in (new, old))
    found = compare_organ(a, b, grid)
    return OrganChange(name, None if found.shift_mm is None else found.dice, found.shift_mm)
