"""``python -m tests.chaos.launcher serve --config ...``: contourd itself, with faults armed at its public seams.

A worker and a receiver import this module too, so that the same faults are armed there.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session, object_session

from tests.chaos.faults import MARKER, THREAD, VARIABLE, Fault, unpack

TABLES = ("series", "instances", "jobs", "deliveries")
STALL_S, LOOK_S = 0.2, 0.1
WORKER = ("contourd.node.worker:", "contourd.contour.contouring:")  # they load torch, which no other process does
inside = threading.local()


def strike(fault: Fault) -> None:
    if fault.action == "stall":
        stall()
    if fault.action == "raise":
        raise RuntimeError("a fault of the chaos tests")
    try:
        os.close(os.open(os.environ[MARKER], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return  # it has struck
    daemon = multiprocessing.parent_process()
    if fault.action == "kill node" and daemon is not None:
        assert daemon.pid is not None
        os.kill(daemon.pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    threading.Event().wait()  # the signal is on its way


def stall() -> None:
    """Wait for ever; a worker ends with its daemon, as it does at work."""
    daemon = multiprocessing.parent_process()
    while daemon is None or daemon.is_alive():
        time.sleep(STALL_S)
    os._exit(1)


def find(name: str) -> tuple[Any, str]:
    """Resolve ``module:attribute.attribute`` to the last attribute's owner and name."""
    module, _, path = name.partition(":")
    *owners, last = path.split(".")
    return functools.reduce(getattr, owners, importlib.import_module(module)), last


def wrap(name: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    owner, last = find(name)
    setattr(owner, last, functools.wraps(getattr(owner, last))(around(getattr(owner, last))))


def counter(fault: Fault) -> Callable[[], None]:
    """Return what is called on each pass, and strikes on the n-th; a stall and an error strike on every one."""
    passes = itertools.count(1)

    def passed() -> None:
        if fault.inside and not getattr(inside, fault.inside, 0):
            return
        if fault.action == "kill worker" and multiprocessing.parent_process() is None:
            return
        if next(passes) == fault.nth or fault.action in ("stall", "raise"):
            strike(fault)

    return passed


def arm_call(fault: Fault) -> None:
    passed = counter(fault)

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if fault.when == "enter":
                passed()
            result = original(*arguments, **named)
            if fault.when == "leave":
                passed()
            return result

        return call

    wrap(fault.what, around)


def note_inside(name: str) -> None:
    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            setattr(inside, name, getattr(inside, name, 0) + 1)
            try:
                return original(*arguments, **named)
            finally:
                setattr(inside, name, getattr(inside, name) - 1)

        return call

    wrap(name, around)


def transitions(session: Session) -> set[str]:
    """Name the transitions that a flush is about to write, and new instances."""
    found = set()
    for row in (*session.new, *session.dirty):
        table = getattr(row, "__tablename__", "")
        if table not in TABLES:
            continue
        if row in session.new:
            found.add(f"{table} - {getattr(row, 'state', 'STORED')}")
        elif table != "instances" and (history := inspect(row).attrs.state.history).deleted:
            found.add(f"{table} {history.deleted[0]!s} {history.added[0]!s}")
    return found


def arm_transitions(faults: list[Fault]) -> None:
    armed = [(fault, counter(fault)) for fault in faults]

    def before_flush(session: Session, context: object, instances: object) -> None:  # noqa: ARG001
        session.info.setdefault("transitions", set()).update(transitions(session))

    def at(when: str, session: Session) -> None:
        found = session.info.get("transitions", set())
        for fault, passed in armed:
            if fault.when == when and fault.what in found:
                passed()

    def over(session: Session) -> None:
        session.info.clear()

    def before_commit(session: Session) -> None:
        session.flush()
        at("before", session)

    def after_commit(session: Session) -> None:
        at("after", session)
        over(session)

    def changed(row: Any, new: object, old: object, initiator: object) -> None:  # noqa: ARG001
        session = object_session(row)
        if session is not None and isinstance(old, str):  # two changes of one transaction are two transitions
            session.info.setdefault("transitions", set()).add(f"{row.__tablename__} {old!s} {new!s}")

    tables = importlib.import_module("contourd.store.tables")
    for row in (tables.SeriesRow, tables.JobRow, tables.DeliveryRow):
        event.listen(row.state, "set", changed)
    event.listen(Session, "before_flush", before_flush)
    event.listen(Session, "before_commit", before_commit)
    event.listen(Session, "after_commit", after_commit)
    event.listen(Session, "after_rollback", over)


def arm(faults: list[Fault]) -> None:
    arm_transitions([fault for fault in faults if fault.when in ("before", "after")])
    in_worker = multiprocessing.current_process().name.startswith("worker")
    for fault in faults:
        if fault.when in ("enter", "leave") and (in_worker or not fault.what.startswith(WORKER)):
            arm_call(fault)
    for name in {fault.inside for fault in faults if fault.inside}:
        note_inside(name)


def end_threads(order: Path) -> None:
    """End the thread that a file names, as soon as it is in Python again: SystemExit is raised where it stands."""
    while True:
        time.sleep(LOOK_S)
        with suppress(FileNotFoundError):
            name = order.read_text()
            found = [thread.ident for thread in threading.enumerate() if thread.name.startswith(name)]
            if name and found:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(found[0] or 0), ctypes.py_object(SystemExit))
                order.unlink()


arm(unpack(os.environ[VARIABLE]))
if __name__ == "__main__":
    threading.Thread(target=end_threads, args=[Path(os.environ[THREAD])], name="chaos", daemon=True).start()
    from contourd.cli import main

    main()
