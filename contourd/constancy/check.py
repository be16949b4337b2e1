"""One check in a process of its own: send the reference patient to the node's port, receive, compare, write down.

What it imports and keeps in memory is gone afterwards; its end, whatever the reason, ends nothing else.
"""

from __future__ import annotations

import logging
import os
import shutil
from datetime import UTC, datetime
from multiprocessing.connection import Connection

from contourd import __version__
from contourd.commands import command
from contourd.constancy.baseline import Baseline, read_baseline, write_baseline
from contourd.constancy.comparison import ModelContours, compare, other_model
from contourd.constancy.passage import ReferencePatientRun
from contourd.constancy.requests import ConstancyChecks
from contourd.dicom.network.in_memory_scp import InMemorySCP
from contourd.dicom.network.outcomes import OutcomeKind
from contourd.dicom.network.scu import StorageSCU
from contourd.errors import ConstancyFailed, ContourdError
from contourd.model.runtime import choose_device
from contourd.models.activation import load_found
from contourd.models.activations import Activations
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.spool.opening import open_spool
from contourd.store.constancy_result import ConstancyResult, ModelConstancy
from contourd.store.constancy_standing import BASELINE, IMAGES_FOLDER, ConstancyCheck
from contourd.store.database import Database
from contourd.store.states import ConstancyState
from contourd.system.logs import set_up_logging
from contourd.system.signals import end_with_parent

log = logging.getLogger(__name__)

RECEIVER_TITLE = "CONSTANCY"


def main(settings: Settings, check_id: int, parent: Connection) -> None:
    """Run a check that was begun, and end with it, or when the other end of ``parent`` is closed."""
    keep_private()
    set_up_logging()
    end_with_parent(parent)
    os.nice(5)  # patients come first
    database = Database(settings.database_url)
    try:
        run(settings, ConstancyChecks(database), Activations(database, settings.spool.root), check_id)
    finally:
        shutil.rmtree(settings.spool.root / IMAGES_FOLDER, ignore_errors=True)
        database.close()


def run(settings: Settings, checks: ConstancyChecks, activations: Activations, check_id: int) -> None:
    """Check, or make a baseline, and write down how that ended."""
    check = checks.get(check_id)
    try:
        if check.purpose == BASELINE:
            result, reasons = _make_baseline(settings, checks, check)
        else:
            result, reasons = _check(settings, checks, activations, check)
    except ContourdError as error:
        result, reasons = ConstancyResult(version=__version__), (str(error),)
    state = ConstancyState.RED if reasons else ConstancyState.GREEN
    if checks.end(check_id, state, "; ".join(reasons), result):
        about = f"constancy {check.purpose} {check_id}"
        if reasons:
            log.error("%s is red: %s", about, "; ".join(reasons), extra={"action": "constancy"})
        else:
            log.info("%s is %s", about, "made" if check.purpose == BASELINE else "green", extra={"action": "constancy"})


def models_of(settings: Settings) -> tuple[str, ...]:
    """Name the models of all routes, each once."""
    return tuple(dict.fromkeys(name for route in settings.route for name in route.models))


def _make_baseline(
    settings: Settings, checks: ConstancyChecks, check: ConstancyCheck
) -> tuple[ConstancyResult, tuple[str, ...]]:
    device, models = str(choose_device(settings.worker.device)), []
    with InMemorySCP(RECEIVER_TITLE) as receiver:
        passage = ReferencePatientRun(settings, checks, check.id, receiver)
        for model in models_of(settings):
            models.append(passage.contour(model))
    made = Baseline(check.actor, datetime.now(UTC), __version__, device, tuple(models))
    write_baseline(open_spool(settings.spool), made)
    figures = tuple(compare(one, one, passage.grid, settings.constancy)[0] for one in models)
    return ConstancyResult(version=__version__, device=device, models=figures), ()


def _check(
    settings: Settings, checks: ConstancyChecks, activations: Activations, check: ConstancyCheck
) -> tuple[ConstancyResult, tuple[str, ...]]:
    baseline = read_baseline(open_spool(settings.spool))
    device = str(choose_device(settings.worker.device))
    results: list[ModelConstancy] = []
    reasons: list[str] = []
    with InMemorySCP(RECEIVER_TITLE) as receiver:
        passage = ReferencePatientRun(settings, checks, check.id, receiver)
        for model in models_of(settings):
            try:
                then = _baseline_of(model, baseline, activations)
                result, found = compare(passage.contour(model), then, passage.grid, settings.constancy)
            except ContourdError as error:
                reasons.append(str(error))
            else:
                results.append(result)
                reasons += found
    remarks = (*_changed(baseline, device), *_silent(settings))
    return ConstancyResult(version=__version__, device=device, models=tuple(results), remarks=remarks), tuple(reasons)


def _baseline_of(model: str, baseline: Baseline, activations: Activations) -> ModelContours:
    """Find a model in the baseline; raises ConstancyFailed for one that is not there or has changed since."""
    then, now = baseline.of(model), load_found(activations.find(model))
    if then is None:
        raise ConstancyFailed(
            f"{model} is not in the baseline; when it is accepted, make a new one: {command('constancy baseline')}"
        )
    if now.sha256 != then.sha256:
        raise ConstancyFailed(other_model(model, now.sha256, then.sha256))
    return then


def _changed(baseline: Baseline, device: str) -> list[str]:
    """Return what explains a difference, and is none by itself."""
    lines = []
    if baseline.version != __version__:
        lines.append(f"contourd is {__version__}, the baseline is of {baseline.version}")
    if baseline.device != device:
        lines.append(f"the device is {device}, the baseline was made on {baseline.device}")
    return lines


def _silent(settings: Settings) -> list[str]:
    """Ask each destination by C-ECHO, and tell of those that do not answer: what is for them waits, and is not lost."""
    sender = StorageSCU(settings.node.ae_title)
    remarks = []
    for destination in settings.destination:
        outcome = sender.echo(destination)
        if outcome.kind is not OutcomeKind.ACCEPTED:
            remarks.append(f"C-ECHO failed: {outcome.reason}")
    return remarks
