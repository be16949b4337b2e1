"""A process that contours one shadow and ends: its worker ends it at any moment, when there is something else to do.

It reads the settings and the claimed shadow from standard input, and ends when that is closed. What became of the
shadow it writes into the database itself, under the claim's token.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import threading
from contextlib import suppress
from hashlib import sha256
from io import BytesIO

import pydicom
from pydicom.dataset import Dataset

from contourd.contour.contouring import ContouringOptions, contour_series
from contourd.contour.provenance import read_order
from contourd.contour.shadow_comparison import SHADOW, compare_with_live
from contourd.dicom.reading.instance import UNREADABLE
from contourd.dicom.reading.received_images import read_received
from contourd.dicom.reading.series import Instance, gate
from contourd.errors import ContourdError, DatasetError, LeaseLost, QueueUnavailable, SeriesUnusable, SpoolError
from contourd.model.site_structures import site_colours
from contourd.models.activation import load_found
from contourd.models.activations import Activations
from contourd.models.runtimes import FOLDER, make_predictor
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Settings
from contourd.spool.access import keep_private
from contourd.spool.opening import open_spool
from contourd.store.database import Database
from contourd.store.shadows import Shadow, Shadows
from contourd.system.exhaustion import lacks_memory
from contourd.system.logs import error_text, set_up_logging
from contourd.system.memory import limit_memory
from contourd.system.regular_files import read_regular
from contourd.transfer.bundles import fetch_bundle
from contourd.transfer.copies import LocalCopies

log = logging.getLogger(__name__)

# The scheduler gives it what nobody else wants, and the kernel takes it first of all when memory runs out.
NICENESS = 19
OOM_SCORE = 1000
# Exit status: it can be tried later, and nothing is wrong with the shadow.
LATER = 75


class ShadowContourer:
    """Contours one claimed shadow, compares it with the live contours, and records what became of it."""

    def __init__(self, settings: Settings, shadow: Shadow) -> None:
        self._settings = settings
        self._shadow = shadow
        self._database = Database(settings.database_url)
        self._spool = open_spool(settings.spool)
        self._copies = LocalCopies(self._database, self._spool)
        self._shadows = Shadows(self._database)

    def run(self) -> None:
        """Do so.

        Raises
        ------
        SpoolError, QueueUnavailable
            It is to be tried later.
        LeaseLost
            The shadow is another worker's.
        """
        claim, spent = self._shadow.claim, self._settings.worker.max_attempts
        try:
            try:
                instances, live = self._read()
            except (SeriesUnusable, DatasetError) as error:
                self._shadows.drop(claim, error.reason)
                return
            self._contour(instances, live)
        except (SpoolError, QueueUnavailable, LeaseLost):
            raise
        except ContourdError as error:
            log.warning("the shadow failed: %s", error, extra={"action": "shadow", "job": claim.job_id})
            self._shadows.fail(claim, error.reason)
        except Exception as error:  # a fault of ours must not repeat itself for ever
            log.exception("the shadow failed", extra={"action": "shadow", "job": claim.job_id})
            lacks = isinstance(error, MemoryError) or lacks_memory(error)
            code = HoldReason.WORKER_OUT_OF_MEMORY if lacks else HoldReason.FAULT
            self._shadows.fail(claim, Reason.of(code, said=error_text(error)), spent)
        finally:
            self._database.close()

    def _read(self) -> tuple[list[Instance], Dataset]:
        """Read the images, and the live structure set.

        Raises
        ------
        SeriesUnusable, DatasetError
            Something of it is not to be had as it was.
        """
        shadow, root = self._shadow, self._settings.spool.root
        output = shadow.live.outputs[0]
        self._copies.bring([*shadow.images, output.path])
        try:
            content = read_regular(root / output.path)
        except OSError as error:
            raise DatasetError("the structure set of the job is not in the spool any more") from error
        if sha256(content).hexdigest() != output.sha256:
            raise DatasetError("the structure set of the job is not as it was written: it has changed on the disk")
        images = {root / path: digest for path, digest in shadow.images.items()}
        try:
            instances = read_received(images)
        except SeriesUnusable:
            if not self._copies.repair(shadow.images):
                raise
            instances = read_received(images)
        try:
            return instances, pydicom.dcmread(BytesIO(content))
        except UNREADABLE as error:
            raise DatasetError(f"the structure set of the job cannot be read ({type(error).__name__})") from error

    def _contour(self, instances: list[Instance], live: Dataset) -> None:
        """Contour, compare, keep."""
        settings, shadow = self._settings, self._shadow
        found = Activations(self._database, settings.spool.root).find(shadow.model)
        if found.activation is not None and found.activation.folder:
            fetch_bundle(self._spool.store, settings.spool.root, found.activation.folder, found.sha256)
        predictor = make_predictor(load_found(found), settings.worker, settings.spool.root / FOLDER)
        order = ContouringOptions(
            shadow.revision,
            (SHADOW,),
            settings.plausibility,
            shadow.override,
            colours=site_colours(settings.structures.file),
        )
        contoured = contour_series(instances, predictor, order)
        bundle, was = predictor.bundle, read_order(shadow.live.settings).profiles[0]
        agreements = compare_with_live(
            live,
            contoured.dataset,
            was,
            bundle.config.model.structures,
            shadow.live.model_of,
            gate(instances).grid,
        )
        buffer = BytesIO()
        contoured.dataset.save_as(buffer, enforce_file_format=True)
        content, claim = buffer.getvalue(), shadow.claim
        output = self._spool.store_shadow(claim.job_id, claim.shadow_id, claim.token, content)
        kept = False
        try:
            self._copies.give([output])
            kept = self._shadows.finish(claim, bundle.identity, output, sha256(content).hexdigest(), agreements)
        finally:
            if not kept:
                with suppress(SpoolError):  # retention removes it with the job's
                    self._spool.remove(output)
        log.info("contoured as a shadow", extra={"action": "shadow", "job": claim.job_id})


def _end_with_worker() -> None:
    """End when the other end of standard input is closed: the worker is gone."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):  # not by ``sys.stdin``, whose lock Python wants back at its end
            pass
        os._exit(LATER)

    threading.Thread(target=wait, name="worker", daemon=True).start()


def main() -> int:
    """Contour the shadow of standard input; returns the exit status."""
    set_up_logging()
    keep_private()
    os.nice(NICENESS)
    size = int.from_bytes(sys.stdin.buffer.read(8), "big")
    settings, shadow = pickle.loads(sys.stdin.buffer.read(size))
    _end_with_worker()
    limit_memory(settings.worker.memory_gb, OOM_SCORE)
    try:
        ShadowContourer(settings, shadow).run()
    except LeaseLost:
        log.warning("the shadow is another worker's now", extra={"action": "lease lost", "job": shadow.claim.job_id})
    except (SpoolError, QueueUnavailable) as error:
        log.warning("the shadow waits: %s", error, extra={"action": "shadow", "job": shadow.claim.job_id})
        return LATER
    return 0


if __name__ == "__main__":
    sys.exit(main())
