"""`contourd evaluate` and `contourd train` on data sets that are made to hang them or to fill the memory."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contourd.cli import app
from contourd.errors import DatasetError
from tests.training import ball, write_dataset
from trainer.case import write_case
from trainer.evaluation.evaluate import CASES

pytestmark = pytest.mark.timeout(120)
GIB = 2**30


def claiming(path: Path) -> None:
    """An .npz that claims 42 GB, and holds a hundred bytes."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("hu.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (42, 1000, 1000, 1000)}
        )
        file.write(bytes(100))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "claims 42 GB": (claiming, "its arrays claim 39 GiB, and at most 5 are read"),
    "no npz": (lambda path: path.write_text("no npz"), "File is not a zip file"),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is no regular file"),
    "a folder": (Path.mkdir, "Is a directory"),
    "nothing": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
}
REMEDY = "; curate its source anew, or take it out of the data set"


@pytest.fixture
def little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * GIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def put(dataset: Path, split: str, kind: str) -> Path:
    path = dataset / split / "pt_0.npz"
    path.unlink()
    HOSTILE[kind][0](path)
    return path


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_a_case_that_is_none_is_named(tmp_path: Path, bright_bundle: Path, command: str, kind: str) -> None:
    dataset = write_dataset(tmp_path / "dataset", 1)
    path = put(dataset, "validation" if command == "evaluate" else "train", kind)
    words = [str(bright_bundle), str(dataset)] if command == "evaluate" else [str(dataset), "--recipe", "quick"]
    ran = CliRunner().invoke(app, [command, *words, "--output", str(tmp_path / "out"), "--device", "cpu"])
    assert isinstance(ran.exception, DatasetError)
    assert str(ran.exception) == f"{path}: {HOSTILE[kind][1]}{REMEDY}"


def test_a_case_that_was_evaluated_before_and_is_a_pipe_now(tmp_path: Path, bright_bundle: Path) -> None:
    dataset = tmp_path / "dataset"
    (dataset / "validation").mkdir(parents=True)
    write_case(ball("pt_0"), dataset / "validation" / "pt_0.npz")
    words = ["evaluate", str(bright_bundle), str(dataset), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert (tmp_path / "out" / CASES / "pt_0.json").exists()
    path = put(dataset, "validation", "a pipe")
    ran = CliRunner().invoke(app, words)
    assert str(ran.exception) == f"{path}: it is no regular file{REMEDY}"


def test_the_command_ends_with_its_status_and_one_sentence(tmp_path: Path, bright_bundle: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", 1)
    path = put(dataset, "validation", "a pipe")
    ran = subprocess.run(
        [sys.executable, "-m", "contourd", "evaluate", bright_bundle, dataset, "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 1
    assert re.sub(r"evaluat.*\r?", "", ran.stderr).strip() == f"contourd: {path}: it is no regular file{REMEDY}"
