"""The spool that the settings ask for: a folder of this host alone, one that hosts share, or a store behind it."""

from __future__ import annotations

from contourd.settings import SpoolSettings
from contourd.spool.files import SharedFolderStore
from contourd.spool.folder import Spool
from contourd.spool.grouping import GroupedPuts
from contourd.spool.watching import WatchedStore
from contourd.system.identity import host_name


def open_spool(settings: SpoolSettings, min_free_bytes: int = 0) -> Spool:
    """Open the spool.

    Parameters
    ----------
    min_free_bytes
        Below this much free space nothing more is taken; 0 where nothing is received.

    Raises
    ------
    SpoolError
        The folder cannot be used.
    SettingsError
        The object store's settings cannot.
    """
    if settings.shared:
        host = host_name()
        return Spool(settings.root, min_free_bytes, host, files=SharedFolderStore(settings.root, host))
    store = open_store(settings)
    if store is None:
        return Spool(settings.root, min_free_bytes)
    host = host_name()
    secured = GroupedPuts(store, host) if settings.durable == "store" else None
    return Spool(settings.root, min_free_bytes, host, store, secured=secured)


def open_store(settings: SpoolSettings) -> WatchedStore | None:
    """Return the object store, None where the settings name none; raises SettingsError."""
    if settings.store is None:
        return None
    from contourd.spool.s3 import S3Store

    return WatchedStore(S3Store(settings.store))


def lock_name(settings: SpoolSettings) -> str:
    """Return by what name this host takes the spool: its own, where others have the same folder; else none."""
    return host_name() if settings.shared else ""
