"""What a node finds when it tries itself, and when that is told, kept from the watchdog, and the node's end."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from contourd.errors import NodeError
from contourd.node.self_test import DEAF_S, SILENT_S, STUCK_S, SelfTest
from contourd.observe.pulse import DEAD, TOLD, SelfTestFault
from contourd.spool.folder import Spool
from contourd.store import database as database_module
from contourd.store.database import Database


class Port:
    """Answers, or not."""

    answers = True

    def try_echo(self) -> None:
        if not self.answers:
            raise NodeError("the node's own port does not answer a C-ECHO: no answer in time")


class Node:
    """An examination of a real spool and database, by a clock that the test moves."""

    def __init__(self, folder: Path) -> None:
        self.now, self.port, self.root = 1000.0, Port(), folder / "spool"
        self.spool = Spool(self.root)
        self.database = Database(f"sqlite:///{self.root / 'contourd.sqlite'}")
        self.database.upgrade()
        self.examination = SelfTest(self.port, self.spool, self.database, lambda: self.now)

    def after(self, seconds: float) -> SelfTestFault:
        self.now += seconds
        self.examination.seen()
        self.examination.run()
        return self.examination.faults


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_MS", 20)
    made = Node(tmp_path)
    yield made
    made.database.close()


def test_a_node_that_works_is_well_and_leaves_nothing(node: Node) -> None:
    assert node.after(0) == SelfTestFault.NOTHING
    assert list((node.root / "partial").iterdir()) == []


def test_a_port_that_is_silent_is_told_after_a_while_and_ends_the_node_after_longer(node: Node) -> None:
    node.port.answers = False
    assert node.after(0) == SelfTestFault.NOTHING  # a receiver may just have been replaced
    assert node.after(SILENT_S - 0.1) == SelfTestFault.NOTHING
    assert node.after(0.1) == SelfTestFault.PORT
    assert not node.examination.deaf
    assert node.after(DEAF_S - SILENT_S) == SelfTestFault.PORT
    assert node.examination.deaf


def test_a_port_that_answers_again_is_well_and_has_all_its_time_anew(node: Node) -> None:
    node.port.answers = False
    assert node.after(0) | node.after(SILENT_S) == SelfTestFault.PORT
    node.port.answers = True
    assert node.after(1) == SelfTestFault.NOTHING
    node.port.answers = False
    assert node.after(DEAF_S) == SelfTestFault.NOTHING
    assert not node.examination.deaf


def test_a_spool_that_takes_no_file_is_told_at_once(node: Node) -> None:
    shutil.rmtree(node.root / "partial")
    (node.root / "partial").write_text("no folder")
    assert node.after(0) == SelfTestFault.SPOOL
    (node.root / "partial").unlink()
    (node.root / "partial").mkdir()
    assert node.after(5) == SelfTestFault.NOTHING


def test_another_folder_in_the_place_of_the_spool_is_told(node: Node) -> None:
    node.root.rename(node.root.with_name("moved"))
    assert node.after(0) & SelfTestFault.SPOOL
    shutil.copytree(node.root.with_name("moved"), node.root)  # whatever is in it
    assert node.after(0) == SelfTestFault.SPOOL | SelfTestFault.DATABASE


def test_a_full_disk_is_no_reason_to_kill_the_node(node: Node) -> None:
    node.spool.min_free_bytes = 10**18
    assert node.after(0) == SelfTestFault.FULL
    assert not SelfTestFault.FULL & DEAD


@pytest.mark.parametrize("replaced", [False, True])
def test_a_database_whose_file_is_gone_is_told_though_it_can_still_be_written(node: Node, replaced: bool) -> None:
    """Its connections write on, into a file that has no name and ends with the process."""
    file = node.root / "contourd.sqlite"
    content = file.read_bytes()
    file.unlink()
    if replaced:
        file.write_bytes(content)
    node.database.probe()
    assert node.after(0) == SelfTestFault.DATABASE
    assert SelfTestFault.DATABASE & DEAD


def test_a_database_that_another_program_holds_is_no_reason_to_kill_the_node(node: Node) -> None:
    with closing(sqlite3.connect(node.root / "contourd.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert node.after(0) == SelfTestFault.UNAVAILABLE
        other.execute("ROLLBACK")
    assert node.after(0) == SelfTestFault.NOTHING
    assert not SelfTestFault.UNAVAILABLE & DEAD


def test_a_try_or_a_main_thread_that_does_not_come_to_an_end_is_told(node: Node) -> None:
    assert node.after(0) == SelfTestFault.NOTHING
    node.now += STUCK_S - 0.1
    assert node.examination.faults == SelfTestFault.NOTHING
    node.now += 0.1
    assert node.examination.faults == SelfTestFault.STUCK
    node.examination.run()
    assert node.examination.faults == SelfTestFault.STUCK  # the main thread still says nothing
    node.examination.seen()
    assert node.examination.faults == SelfTestFault.NOTHING


def test_everything_has_its_words() -> None:
    assert set(TOLD) == set(SelfTestFault) - {SelfTestFault.NOTHING}
