"""A trained bundle is put into use under its name, and taken back: verified, tried once, copied into the spool.

What is in use is the copy: it is read-only, named by name, version and hash, and does not change when the folder does
that it came from. The worker takes it up before its next job.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from contourd import __version__
from contourd.commands import command
from contourd.errors import ModelError, RecordInvalid, SeriesUnusable, SpoolError
from contourd.imaging.volume import oval_body
from contourd.model.bundle import bundle_files, load_bundle
from contourd.model.bundle_config import ModelBundle
from contourd.model.kinds import predictor_for
from contourd.model.library import (
    MODEL_STORE,
    Activation,
    FoundModel,
    Origin,
    is_bundle,
    places_of,
    require_there,
    shipped_model,
    stored_folder,
)
from contourd.model.model_identity import ModelIdentity
from contourd.models.activations import Activations
from contourd.models.placement import ELSEWHERE, find_misplaced, misplaced_text
from contourd.models.records import (
    RECORD_FILE,
    CommissioningRecord,
    Evidence,
    commissioning_of,
    read_record,
    write_record,
)
from contourd.reasons.catalogue import HoldReason, Json
from contourd.settings import Settings
from contourd.spool.folder import Spool
from contourd.spool.opening import open_store
from contourd.store.database import Database
from contourd.system.clock import utc_now
from contourd.system.durable_files import make_private_folder, move_folder_durably, write_durably
from contourd.system.regular_files import open_regular
from contourd.transfer.bundles import fetch_bundle, give_bundle

FILE_MODE, FOLDER_MODE = 0o400, 0o700
PARTIAL = ".partial-"
KEY_FILE = "site.key"
CHUNK_BYTES = 2**20
LEFTOVER_S = 86400.0
# A trunk of 200 x 160 mm, 160 mm long.
TRIAL_SHAPE = (40, 64, 64)
TRIAL_SPACING_MM = (4.0, 4.0, 4.0)
TRIAL_HALF_AXES_MM = (100.0, 80.0)


@dataclass(frozen=True, slots=True)
class ActivationChange:
    """What an activation or a rollback did.

    Attributes
    ----------
    before
        What the name stood for, None for nothing.
    routes
        The routes that name the model, counted from 1.
    """

    activation: Activation
    before: str | None
    routes: tuple[int, ...]


def load_found(found: FoundModel) -> ModelBundle:
    """Load a model that a name or a folder stands for.

    Raises
    ------
    ModelError
        It is missing, damaged, or not what was activated; with the remedy.
    """
    with with_remedy(found):
        require_there(found)
        bundle = load_bundle(found.folder.resolve())
        if found.sha256 and bundle.sha256 != found.sha256:
            raise ModelError(HoldReason.MODEL_NOT_AS_ACTIVATED, folder=str(found.folder), sha256=bundle.sha256[:12])
        if found.origin is not Origin.FOLDER and found.asked not in (bundle.name, bundle.identity.stored_name):
            raise ModelError(
                HoldReason.MODEL_OF_OTHER_NAME,
                model=found.asked,
                folder=str(found.folder),
                found=bundle.identity.text(),
            )
        return _with_record(bundle, found)


def _with_record(bundle: ModelBundle, found: FoundModel) -> ModelBundle:
    """Add what the site's record says of a stored model; one that was changed is not believed."""
    if found.origin is not Origin.STORED:
        return bundle
    root = found.folder.resolve().parents[1]
    if (found.folder / RECORD_FILE).exists() and not (
        root / KEY_FILE
    ).exists():  # a host that is new: none is made here
        raise ModelError(
            HoldReason.RECORD_INVALID, said=f"{root / KEY_FILE}, by which records are known, is not here yet"
        )
    try:
        record = commissioning_of(found.folder, Spool(root))
    except (RecordInvalid, SpoolError) as error:
        raise ModelError(HoldReason.RECORD_INVALID, said=str(error)) from error
    return replace(bundle, commissioning=record) if record is not None else bundle


def find_same(model: ModelIdentity, asked: str, root: Path) -> FoundModel:
    """Find the very model that a job was contoured with, whatever its name stands for now.

    Raises
    ------
    ModelError
        It is not here any more.
    """
    for place in places_of(model, asked, root):
        try:
            load_found(place)
        except ModelError:
            continue
        return place
    raise ModelError(HoldReason.MODEL_OF_JOB_GONE, model=model.text())


@contextmanager
def with_remedy(found: FoundModel) -> Iterator[None]:
    """Return what is wrong with an activated model, and how to get back."""
    try:
        yield
    except ModelError as error:
        if found.origin is not Origin.STORED:
            raise
        raise ModelError(
            HoldReason.ACTIVATED_MODEL_UNUSABLE,
            why=error.reason,
            roll_back=found.asked if found.activation is not None else None,
        ) from error


def verify(found: FoundModel) -> ModelBundle:
    """See that a model is whole: its hashes fit, and its network takes its weights; raises ModelError."""
    bundle = load_found(found)
    with with_remedy(found):
        bundle.verify_weights()
    return bundle


def try_out(bundle: ModelBundle, device: str) -> None:
    """Run a model on a small volume, and on the reference patient, whose organs it must find where they are.

    Raises
    ------
    ModelError
        It breaks, what it answers is no probability, or an organ lies on the wrong side or in the place of another.
    DeviceError
        The device is not there, or too small.
    """
    predictor = predictor_for(bundle, device)
    try:
        prediction = predictor.predict(oval_body(TRIAL_SHAPE, TRIAL_SPACING_MM, TRIAL_HALF_AXES_MM))
    except (SeriesUnusable, RuntimeError, ValueError, IndexError) as error:
        raise ModelError(HoldReason.MODEL_BREAKS, folder=str(bundle.folder), said=type(error).__name__) from error
    if not prediction.is_finite():
        raise ModelError(HoldReason.MODEL_ANSWERS_NO_NUMBERS, folder=str(bundle.folder))
    try:
        wrong = find_misplaced(predictor)
    except SeriesUnusable as error:
        raise ModelError(HoldReason.MODEL_FINDS_NO_HEAD, model=bundle.identity.text(), why=error.reason) from error
    if wrong:
        raise ModelError(HoldReason.MODEL_MISPLACES, said=f"{misplaced_text(bundle, wrong)}; {ELSEWHERE}")


def activate(
    database: Database, settings: Settings, source: str, actor: str, reason: str, evidence: Evidence
) -> ActivationChange:
    """Verify a bundle, try it, copy it into the spool's store, and put it into use under its name.

    Parameters
    ----------
    source
        A bundle's folder, a name in the store, or a shipped model's name.
    evidence
        That it was measured here, or why it was not: for every model but those that ship.

    Raises
    ------
    ModelError, DeviceError
        The bundle is not fit for use: nothing changes.
    RecordInvalid
        It was not measured, and nobody says why; or the record is of another model, or not this site's.
    SpoolError
        It cannot be copied.
    InvalidTransition
        It is in use already, or no reason was given.
    """
    root = settings.spool.root
    activations = Activations(database, root)
    given = Path(source)
    folder = given if is_bundle(given) else activations.find(source).folder
    objects = open_store(settings.spool)
    spool = Spool(root, store=objects)
    with suppress(ModelError):  # before the trial, which takes its time; what is damaged is told of the copy
        _record_for(load_bundle(folder.resolve()), folder, spool, actor, evidence)
    stored = store(folder, root, settings.worker.device)
    record = _record_for(stored, folder, spool, actor, evidence)
    name = stored.name
    before = _active_text(activations, name)
    if record is not None:
        write_record(stored.folder / RECORD_FILE, spool, record)
        (stored.folder / RECORD_FILE).chmod(FILE_MODE)
        _give_to_owner([stored.folder / RECORD_FILE], root)
        if record.without and reason.strip():
            reason = f"{reason.strip()} (without a commissioning record: {record.without})"
    give_bundle(objects, root, stored_folder(stored.identity))
    made = activations.activate(
        stored.identity, stored_folder(stored.identity), actor, reason, before or "", evidence.record is not None
    )
    return ActivationChange(made, before, routes_of(settings, name))


def _record_for(
    bundle: ModelBundle, folder: Path, spool: Spool, actor: str, evidence: Evidence
) -> CommissioningRecord | None:
    """Return what is to lie beside a model in the store; None where it ships, or lies there already."""
    if evidence.record is not None:
        record = read_record(evidence.record, spool)
        if record.sha256 != bundle.sha256 or record.without:
            other = f"{record.name} {record.version} (sha256 {record.sha256[:12]})"
            again = command("models commission", str(folder), "DATASET", "--output", "RECORD")
            raise RecordInvalid(
                f"{evidence.record} is the record of {other}, not of {bundle.identity.text()}; measure this one: "
                f"{again}"
            )
        return record
    if evidence.without.strip():
        return CommissioningRecord(
            by=actor[:64],
            at=utc_now(),
            contourd=__version__,
            name=bundle.name,
            version=bundle.version,
            sha256=bundle.sha256,
            without=evidence.without.strip()[:256],
        )
    ships = shipped_model(bundle.name)
    if ships is not None and load_bundle(ships.folder).sha256 == bundle.sha256:
        return None
    if (spool.root / stored_folder(bundle.identity) / RECORD_FILE).exists():
        read_record(spool.root / stored_folder(bundle.identity), spool)
        return None
    measure = command("models commission", str(folder), "DATASET", "--output", "RECORD")
    use = command("models activate", str(folder), "--record", "RECORD", "--reason", "WHY")
    raise RecordInvalid(
        f"{bundle.identity.text()} was not measured here: {measure} does; then {use}; or say why it is used "
        "without: --without-record"
    )


def roll_back(database: Database, settings: Settings, name: str, actor: str, reason: str) -> ActivationChange:
    """Put in use again what was before the last activation; it is verified first.

    Raises
    ------
    InvalidTransition
        There is nothing to go back to.
    ModelError
        What was before is damaged: nothing changes.
    """
    root = settings.spool.root
    activations = Activations(database, root)
    restored = activations.before(name)
    shipped = None
    if restored is not None:
        fetch_bundle(open_store(settings.spool), root, restored.folder, restored.model.sha256)
        verify(FoundModel(name, root / restored.folder, Origin.STORED, restored.model.sha256))
    elif (own := shipped_model(name)) is not None:
        shipped = verify(own).identity
    before = _active_text(activations, name)
    made = activations.roll_back(name, shipped, actor, reason, before or "")
    return ActivationChange(made, before, routes_of(settings, name))


def routes_of(settings: Settings, name: str) -> tuple[int, ...]:
    """Return the routes that name a model, counted from 1."""
    return tuple(number for number, route in enumerate(settings.route, 1) if name in route.models)


def _active_text(activations: Activations, name: str) -> str | None:
    try:
        return load_found(activations.find(name)).identity.text()
    except ModelError:  # nothing, or nothing that works
        return None


def store(folder: Path, root: Path, device: str) -> ModelBundle:
    """Copy a bundle into the store under a name of its own, tried and whole, or not at all.

    Raises
    ------
    ModelError, DeviceError
        It is not fit for use.
    SpoolError
        The store cannot take it.
    """
    within = root / MODEL_STORE
    try:
        make_private_folder(within)
        _remove_leftovers(within)
        partial = within / f"{PARTIAL}{uuid4().hex}"
        partial.mkdir(mode=FOLDER_MODE)
        try:
            _copy(folder, partial)
            copied = _tried(partial.resolve(), folder, device)
            final = root / stored_folder(copied.identity)
            if not _is_whole(final, copied):
                _give_to_owner([within, partial, *partial.iterdir()], root)
                _put(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise SpoolError(f"{within} cannot take the bundle {folder}: {error.strerror} ({error.filename})") from error
    return load_bundle(final.resolve())


def _tried(copy: Path, source: Path, device: str) -> ModelBundle:
    """Load a copy and try it; what is wrong with it is told of the folder that it came from."""
    try:
        copied = load_bundle(copy)
        try_out(copied, device)
    except ModelError as error:
        detail = {key: _of_source(value, copy, source) for key, value in error.reason.detail.items()}
        raise ModelError(error.reason.code, **detail) from error
    return copied


def _of_source(value: Json, copy: Path, source: Path) -> Json:
    """Return a path of the copy as that of its source, and whatever else as it is."""
    if isinstance(value, str) and Path(value).is_relative_to(copy):
        return str(source / Path(value).relative_to(copy))
    return value


def _remove_leftovers(within: Path) -> None:
    """Remove what a kill has left of a copy."""
    for path in within.glob(f"{PARTIAL}*"):
        if time.time() - path.stat().st_mtime > LEFTOVER_S:
            shutil.rmtree(path, ignore_errors=True)


def _copy(folder: Path, partial: Path) -> None:
    try:
        files = bundle_files(folder)
    except OSError as error:
        raise ModelError(
            HoldReason.MODEL_NO_BUNDLE, folder=str(folder), said=error.strerror, file=str(error.filename)
        ) from error
    for file in files:
        with open_regular(file) as source:
            chunks = iter(lambda source=source: source.read(CHUNK_BYTES), b"")  # type: ignore[misc]
            write_durably(partial / f".{file.name}", partial / file.name, chunks)
        (partial / file.name).chmod(FILE_MODE)


def _is_whole(final: Path, copied: ModelBundle) -> bool:
    """Return whether the same bundle is in the store already, undamaged."""
    try:
        return final.is_dir() and load_bundle(final.resolve()).sha256 == copied.sha256
    except ModelError:
        return False


def _put(partial: Path, final: Path) -> None:
    """Give the copy its name; a damaged one of that name makes way."""
    if final.exists():
        damaged = final.with_name(f"{PARTIAL}{uuid4().hex}")
        final.rename(damaged)
        move_folder_durably(partial, final)
        shutil.rmtree(damaged, ignore_errors=True)
    else:
        move_folder_durably(partial, final)


def _give_to_owner(paths: list[Path], root: Path) -> None:
    """Give what root has copied to the user that serves."""
    if os.geteuid() == 0:
        owner = root.stat()
        for path in paths:
            os.chown(path, owner.st_uid, owner.st_gid)
