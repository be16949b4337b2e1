"""Checks of the models and of the device that they run on."""

from __future__ import annotations

import time

from contourd.checks.finding import CheckFinding, failed, ok
from contourd.imaging.volume import Volume, oval_body
from contourd.model.commissioning import remedy_text, unjudged_text
from contourd.model.library import NAMED, FoundModel, Origin, find_model
from contourd.model.runtime import peak_bytes
from contourd.models.activation import load_found, verify
from contourd.models.activations import Activations
from contourd.models.placement import ELSEWHERE, find_misplaced, misplaced_text
from contourd.models.runtimes import make_predictor, user_cache
from contourd.settings import Settings
from contourd.store.database import Database, has_queue
from contourd.store.tables import SCHEMA_REVISION

# A whole-body planning CT of a large patient. Its body is wider and longer than what a model cuts out for the network
# (transforms.PreprocessConfig), so that no other CT costs the network more, apart from a body that is deeper than this.
SLICES = 250
ROWS = 512
COLUMNS = 512
SPACING_MM = (2.0, 1.0, 1.0)
BODY_HALF_AXES_MM = (240.0, 175.0)


def model(name: str, settings: Settings) -> CheckFinding:
    """See that what a name stands for now is whole: its hashes fit, and its network takes its weights."""
    found = found_model(name, settings)
    bundle = verify(found)
    text = f"{bundle.name} {bundle.version}, sha256 {bundle.sha256[:12]}, {len(bundle.config.model.structures)} organs"
    one = found.activation
    if one is not None:
        text = f"{text}, in use since {one.at:%Y-%m-%d %H:%M} UTC by {one.actor}"
    uncommissioned = unjudged_text(bundle.config.model.structures, bundle.distribution)
    return ok(f"{text}; {uncommissioned}", remedy_text()) if uncommissioned else ok(text)


def shadow(name: str, settings: Settings) -> CheckFinding:
    """See that a shadow's model can be loaded; it is asked for no commissioning record, for nothing of it is sent."""
    bundle = verify(found_model(name, settings))
    return ok(f"{bundle.name} {bundle.version}, sha256 {bundle.sha256[:12]}; nothing that it contours is sent")


def found_model(name: str, settings: Settings) -> FoundModel:
    """Find what a name or a folder stands for now; before the first start that is what ships."""
    if not (NAMED.fullmatch(name) and has_queue(settings.database_url)):
        return find_model(name, settings.spool.root, None)
    database = Database(settings.database_url)
    try:
        if database.revision() != SCHEMA_REVISION:  # the check of the database tells it
            return find_model(name, settings.spool.root, None)
        return Activations(database, settings.spool.root).find(name)
    finally:
        database.close()


def largest_volume() -> Volume:
    """Make an oval body in air that fills what a network is given."""
    return oval_body((SLICES, ROWS, COLUMNS), SPACING_MM, BODY_HALF_AXES_MM)


def device(name: str, settings: Settings) -> CheckFinding:
    """Run a model on its device with the largest volume that is expected; a job must have twice the time of that."""
    time_limit_s = settings.worker.time_limit_s
    found = found_model(name, settings)
    bundle = load_found(found)
    predictor = make_predictor(bundle, settings.worker, user_cache())
    if found.origin is Origin.FOLDER and (wrong := find_misplaced(predictor)):  # others were tried by their activation
        return failed(misplaced_text(bundle, wrong), ELSEWHERE)
    began = time.monotonic()
    predictor.predict(largest_volume())
    took_s = time.monotonic() - began
    peak_gib = peak_bytes(predictor.device) / 2**30
    size = f"{SLICES} slices of {ROWS} x {COLUMNS}"
    text = f"{name} on {predictor.runtime.description.text()}: {size} in {took_s:.1f} s, peak memory {peak_gib:.1f} GiB"
    if took_s > time_limit_s / 2:
        return failed(
            f"{text}; over half of worker.time_limit_s ({time_limit_s:g} s)",
            "use a faster device or free this one, or raise worker.time_limit_s",
        )
    return ok(text)
