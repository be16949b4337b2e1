"""Models that were activated, brought to hosts that have not got them: each file of a bundle is an object.

A bundle is named by its hash, and what came is compared with it before it is used.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from uuid import uuid4

from contourd.errors import ModelError, ObjectExists, ObjectMissing, SpoolError
from contourd.model.bundle import bundle_files, load_bundle
from contourd.model.library import CARD_FILE, MODEL_FILE, RECORD_FILE, WEIGHTS_FILE, is_bundle, places_of, stored_folder
from contourd.model.model_identity import ModelIdentity
from contourd.spool.objects import ObjectStore
from contourd.system.durable_files import PRIVATE, make_private_folder, move_folder_durably, write_fsynced
from contourd.system.regular_files import read_regular

log = logging.getLogger(__name__)

PARTIAL = ".partial-"
READ_ONLY = 0o400


def give_bundle(store: ObjectStore | None, root: Path, folder: str) -> None:
    """Put a bundle into the store, for all hosts.

    Parameters
    ----------
    folder
        Of the bundle, relative to the spool.

    Raises
    ------
    SpoolError
        The store does not take it: nothing is to be activated then.
    """
    if store is None:
        return
    # model.json comes last: who finds it finds the weights, too.
    record = root / folder / RECORD_FILE
    files = (*bundle_files(root / folder), *([record] if record.exists() else []))
    for file in sorted(files, key=lambda file: file.name == MODEL_FILE):
        content, name = file.read_bytes(), f"{folder}/{file.name}"
        try:
            store.put(name, [content])
        except ObjectExists:
            if file.name == CARD_FILE or store.get(name) == content:
                continue
            store.delete(name)  # damaged there: its name says what it must be
            store.put(name, [content])


def fetch_bundle(store: ObjectStore | None, root: Path, folder: str, sha256: str) -> bool:
    """Have an activated bundle on this host; says whether it is here now.

    Raises
    ------
    SpoolError
        The store, or this host's spool, cannot be used now.
    """
    if store is None or is_bundle(root / folder):
        return store is not None or is_bundle(root / folder)
    within = root / PurePosixPath(folder).parent
    partial = within / f"{PARTIAL}{uuid4().hex}"
    try:
        make_private_folder(within)
        partial.mkdir(mode=0o700)
        for name in (MODEL_FILE, WEIGHTS_FILE, CARD_FILE, RECORD_FILE):
            with suppress(ObjectMissing):
                write_fsynced(partial / name, [store.get(f"{folder}/{name}")], PRIVATE)
                (partial / name).chmod(READ_ONLY)
        if load_bundle(partial.resolve()).sha256 != sha256:
            log.error("the model %s is not in the object store as it was activated", folder, extra={"action": "fetch"})
            return False
        with suppress(FileExistsError):  # another process of this host was first
            move_folder_durably(partial, root / folder)
    except ModelError as error:
        log.error("the model %s cannot be had from the object store: %s", folder, error, extra={"action": "fetch"})
        return False
    except OSError as error:
        if is_bundle(root / folder):
            return True
        raise SpoolError(f"{within} cannot take the model {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    log.info("the model %s was fetched from the object store", folder, extra={"action": "fetch"})
    return True


def _is_of(folder: Path, model: ModelIdentity) -> bool:
    """Return whether a folder's bundle is of that hash; one that ships under the same name may be another version."""
    try:
        return hashlib.sha256(read_regular(folder / MODEL_FILE)).hexdigest() == model.sha256
    except OSError:
        return False


def is_here(model: ModelIdentity, asked: str, root: Path) -> bool:
    """Return whether the very model is on this host by its model.json; its weights may be damaged."""
    return any(_is_of(place.folder, model) for place in places_of(model, asked, root))


def fetch_same(store: ObjectStore | None, root: Path, model: ModelIdentity, asked: str) -> None:
    """Have the very model that is ordered on this host, as far as the store has it.

    Parameters
    ----------
    asked
        What the route calls it.

    Raises
    ------
    SpoolError
        It is not here, and the store, or this host's spool, cannot be used now.
    """
    if store is None or is_here(model, asked, root):
        return
    fetch_bundle(store, root, stored_folder(model), model.sha256)
