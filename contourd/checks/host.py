"""Checks of the machine: the spool's file system, the database, the clock, what is installed."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from pydicom.uid import UID

from contourd.checks.finding import CheckFinding, failed, ok, unknown
from contourd.commands import command
from contourd.dicom.reading.decoders import DECODERS, has_decoder
from contourd.dicom.rtstruct.second_reader import second_reader_loads
from contourd.dicom.segmentation.availability import HOW_TO_INSTALL, can_write_segmentations
from contourd.errors import ObjectExists
from contourd.settings import SpoolSettings
from contourd.spool.objects import ObjectStore
from contourd.spool.opening import open_store
from contourd.store.database import Database, has_queue, revisions
from contourd.store.tables import SCHEMA_REVISION
from contourd.system.durable_files import write_durably

PROBE_BYTES = 1 << 20
STORE_PROBE_BYTES = 100_000
# The year of the first version: a clock that lags behind it was never set.
FIRST_YEAR, LAST_YEAR = 2026, 2100
COMMAND_LIMIT_S = 10.0


def settings_file(path: Path) -> CheckFinding:
    """See that the settings can be changed by their owner and group alone."""
    if path.stat().st_mode & stat.S_IWOTH:
        return failed(f"{path} can be changed by anybody", f"chmod o-w {path}")
    return ok(f"{path} can be used")


def spool_write(settings: SpoolSettings) -> CheckFinding:
    """Write a file, flush it to the disk, rename it, read it back and remove it."""
    root = settings.root
    if not root.is_dir():
        return _absent(root)
    final = root / f".check-{secrets.token_hex(8)}"
    partial = final.with_suffix(".partial")
    began = time.monotonic()
    try:
        write_durably(partial, final, [bytes(PROBE_BYTES)])
        took_ms = (time.monotonic() - began) * 1000
        whole = final.read_bytes() == bytes(PROBE_BYTES)
    finally:
        partial.unlink(missing_ok=True)
        final.unlink(missing_ok=True)
    if not whole:
        return failed(f"a file that was written to {root} reads back otherwise", "look at the disk")
    return ok(f"1 MiB written to {root}, flushed and renamed in {took_ms:.0f} ms")


def _absent(root: Path) -> CheckFinding:
    remedy = f"make it for the user that runs contourd: install -d -m 0750 {root}"
    above = next(p for p in root.resolve().parents if p.exists())
    if root.exists() or not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        return failed(f"{root} is no folder, and cannot be made by this user", remedy)
    return unknown(
        f"{root} is not there; the first `{command('serve')}` makes it", f"to have its disk tested, {remedy}"
    )


def spool_space(settings: SpoolSettings) -> CheckFinding:
    """See that more is free than must be left."""
    folder = next(p for p in (settings.root, *settings.root.resolve().parents) if p.is_dir())
    status = os.statvfs(folder)
    free_gb = status.f_bavail * status.f_frsize / 1e9
    text = f"{free_gb:.1f} GB are free for {settings.root}; below {settings.min_free_gb:g} GB nothing is received"
    if free_gb < settings.min_free_gb:
        return failed(text, "make room, or change spool.root or spool.min_free_gb")
    return ok(text)


def spool_modes(settings: SpoolSettings) -> CheckFinding:
    """See that patients' images are not open to every user of the machine."""
    if not settings.root.is_dir():
        return unknown(f"{settings.root} is not there")
    mode = stat.S_IMODE(settings.root.stat().st_mode)
    if not mode & stat.S_IRWXO:  # what others cannot enter protects what is in it
        return ok(f"{settings.root} has mode {mode:04o}")
    return failed(
        f"{settings.root} has mode {mode:04o}: other users of this machine may read patients' images",
        f"chmod o-rwx {settings.root}",
    )


def spool_store(settings: SpoolSettings) -> CheckFinding:
    """Put an object, see that a second one of its name is refused, read a part of it, find it, and delete it."""
    store = open_store(settings)
    assert store is not None
    name, content = f"check/{secrets.token_hex(16)}", secrets.token_bytes(STORE_PROBE_BYTES)
    began = time.monotonic()
    store.put(name, [content])
    took_ms = (time.monotonic() - began) * 1000
    try:
        whole = store.get(name, 1000, 1000) == content[1000:2000]
        listed = name in {found.name for found in store.list("check")}
        refused = _is_refused(store, name)
    finally:
        store.delete(name)
    if not refused:
        return failed(
            "the object store overwrites an object where it was told not to (If-None-Match): two hosts may overwrite "
            "each other",
            "use a store, or a version of it, that knows conditional puts",
        )
    if not (whole and listed):
        return failed("an object that was put reads back otherwise, or is not listed", "look at the object store")
    return ok(f"{len(content) / 1e6:.1f} MB put in {took_ms:.0f} ms, read, and deleted")


def _is_refused(store: ObjectStore, name: str) -> bool:
    try:
        store.put(name, [b"second"])
    except ObjectExists:
        return True
    return False


def database(url: str) -> CheckFinding:
    """Open the queue; its schema is this version's, or will be at the next start."""
    if not has_queue(url):
        return ok(f"there is no queue yet; the first `{command('serve')}` makes it")
    queue = Database(url)
    try:
        revision = queue.revision()
    finally:
        queue.close()
    if revision == SCHEMA_REVISION:
        return ok(f"schema revision {revision}, as this version needs")
    if revision is None:
        return ok(f"empty; the first `{command('serve')}` makes the tables")
    if revision in revisions():
        return failed(
            f"schema revision {revision}, and this version needs {SCHEMA_REVISION}",
            f"stop contourd and run `{command('db upgrade')}`, which makes a backup first",
        )
    return failed(
        f"schema revision {revision} is not known to this version",
        "install the newer contourd that wrote it, or restore the backup of before",
    )


def decoders() -> CheckFinding:
    """Return which transfer syntaxes can be read here; uncompressed ones always can."""
    read = ["uncompressed", "deflated", *(UID(syntax).name for syntax in DECODERS if has_decoder(syntax))]
    missing = [UID(syntax).name for syntax in DECODERS if not has_decoder(syntax)]
    if missing:
        return ok(
            f"{', '.join(read)} can be read; senders are refused {', '.join(missing)}",
            "where senders compress: pip install 'contourd[codecs]'",
        )
    return ok("every transfer syntax that contourd knows can be decoded")


def second_reader() -> CheckFinding:
    """See that rt-utils is there, where the settings ask for it."""
    if second_reader_loads():
        return ok("rt-utils loads")
    return failed(
        "check.rt_utils is set, and rt-utils does not load",
        "pip install 'contourd[check]' and the system's libGL (Debian: libgl1), or set check.rt_utils = false",
    )


def segmentation() -> CheckFinding:
    """See that highdicom is there, where a destination is to get segmentations."""
    if can_write_segmentations():
        return ok("highdicom is installed")
    return failed('a destination has products = ["seg"], and highdicom is not installed', HOW_TO_INSTALL)


def clock() -> CheckFinding:
    """See that the clock tells a possible year, and that time goes forwards."""
    now, before = datetime.now(UTC).astimezone(), time.monotonic_ns()
    text = f"{now:%Y-%m-%d %H:%M:%S} {now.tzname()} (UTC{now:%z})"
    if not FIRST_YEAR <= now.year < LAST_YEAR:
        return failed(text, "set the clock of this machine")
    if any(time.monotonic_ns() < before for _ in range(1000)):
        return failed(f"{text}: the monotonic clock runs backwards", "look at the machine's clock source")
    return ok(text)


def time_service() -> CheckFinding:
    """Ask systemd, where there is one, whether the clock is kept by NTP."""
    command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMMAND_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return unknown("not known: there is no timedatectl here", "see to it that the clock is kept by NTP")
    answer = ran.stdout.strip()
    if ran.returncode or answer not in ("yes", "no"):
        return unknown("not known: timedatectl does not answer", "see to it that the clock is kept by NTP")
    if answer == "no":
        return failed("the clock is not kept by NTP", "set up chrony or systemd-timesyncd: timedatectl set-ntp true")
    return ok("the clock is kept by NTP")
