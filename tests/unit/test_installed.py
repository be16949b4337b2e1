"""The package as a wheel lays it out: settings, catalogue, recipes, migrations and templates are found inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from contourd.settings import load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lay the files out as pyproject.toml tells hatchling to, somewhere else than the checkout."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    folder = tmp_path_factory.mktemp("site")
    without = shutil.ignore_patterns("__pycache__")
    for package in wheel["packages"]:
        shutil.copytree(ROOT / package, folder / package, ignore=without)
    for source, target in wheel["force-include"].items():
        shutil.copytree(ROOT / source, folder / target, ignore=without)
    return folder


def run(site: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=site, env=environment, timeout=280)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_what_is_beside_the_code_is_found_inside_the_package(site: Path) -> None:
    code = (
        "import contourd, trainer.training.config as config\n"
        "from contourd.store.database import Database, alembic_config\n"
        "from contourd.model.structures import catalogue, etc_folder\n"
        "from contourd.model.bundle import load_bundle\n"
        "database = Database('sqlite:///queue.sqlite'); database.upgrade(); database.check(); database.close()\n"
        "assert 'Brainstem' in catalogue() and load_bundle('hn7') and 'quick' in config.recipe_names()\n"
        "print(contourd.__file__, etc_folder(), alembic_config().get_main_option('script_location'), sep='\\n')\n"
    )
    found = [Path(line).relative_to(site) for line in run(site, "-c", code).splitlines()]
    assert found == [Path("contourd/__init__.py"), Path("contourd/etc"), Path("contourd/migrations")]


def test_the_wheel_is_made_without_the_development_environment() -> None:
    # Where `make test` runs this, make would speak of being within make.
    alone = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    dry = ["make", "--dry-run", "wheel"]
    ran = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True, env=alone)
    steps = ran.stdout.splitlines()
    assert [step for step in steps if ".venv" in step or "[test" in step or "-e ." in step] == []
    assert steps[0] == "python3 -m venv .wheel"
    assert "cp constraints.txt dist/" in steps


def test_init_and_a_dry_run_of_accept_work(site: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "contourd.toml"
    run(site, "-m", "contourd", "init", "--yes", "--output", str(configuration))
    assert load_settings(configuration).web.enabled
    accept = ("accept", "pacs", "--dry-run", "--config", str(configuration), "--output", str(tmp_path / "out"))
    assert "Cube_L" in run(site, "-m", "contourd", *accept)
