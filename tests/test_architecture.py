"""The rules of the architecture, read from the source: contracts, what packages offer, sizes, names, broad excepts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LINES = 500

PATCHES = frozenset({"setattr", "getattr", "delattr", "hasattr", "attrgetter"})
DOCUMENTED = frozenset({"_replace", "_exit"})
# pynetdicom's own documentation sets its options there; of the product one module alone does.
PYNETDICOM_OPTIONS = "_config"
# Module of the tests, name -> why there is no public one.
FOREIGN_PRIVATE = {
    ("tests.terminal", "_export_format"): "rich keeps the template of its pictures there",
    ("tests.unit.dicom.test_arriving", "_assoc"): "pynetdicom's service provider in a process without an association",
    ("tests.unit.dicom.test_pynetdicom_internals", "_accepted_cx"): "the test takes one away that is to be missed",
    ("tests.unit.dicom.test_malformed", "_context_id"): "pynetdicom keeps a request's presentation context there",
}

BANNED_WORDS = frozenset({"util", "utils", "helper", "helpers", "common", "manager", "impl", "core"})
BANNED_VERBS = frozenset({"process", "handle", "data", "info"})
CATCHES_EVERYTHING = (
    "contourd.node.worker",
    "contourd.node.shadow_contourer",  # as the worker does for a job
    "contourd.web.server",
    "contourd.dicom.network.scp",
    "contourd.node.receivers.channel",
    "contourd.system.threads",  # what must outlive anything
    "contourd.cli",
    "contourd.cli.installing",
)


@cache
def sources() -> Mapping[str, Path]:
    """Module name -> file, of everything that is installed."""
    found = {}
    for package in ("contourd", "trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that one imports anywhere in its file, those under TYPE_CHECKING included."""
    names = set()
    for node in ast.walk(tree(sources()[module])):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in sources() else str(node.module) for name in submodules}
    return frozenset(names)


def ours(module: str) -> set[str]:
    return {name for name in imports(module) if name in sources() and name != module}


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(place + ".") for place in places)


def names(path: Path) -> Iterator[tuple[int, str]]:
    """Names that a file gives to classes, functions and their arguments."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def is_package(module: str) -> bool:
    return sources()[module].name == "__init__.py"


def offered(package: str) -> set[str]:
    """What a package's ``__all__`` names: its modules that others import, or names of theirs."""
    for node in tree(sources()[package]).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@cache
def imported_from_outside() -> frozenset[str]:
    """Every module that is imported by another package than its own; what stands at the root is everybody's."""
    return frozenset(
        name
        for module in sources()
        for name in ours(module)
        if not is_package(name) and "." in name.partition(".")[2] and not within(module, (name.rpartition(".")[0],))
    )


def test_the_contracts_of_the_packages_are_kept() -> None:
    """They are in pyproject.toml; ``lint-imports`` shows them, and what breaks one. It silences all loggers."""
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    ran = subprocess.run(
        [sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"{len(contracts())} kept, 0 broken" in ran.stdout


@cache
def contracts() -> list[Mapping[str, Any]]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["tool"]["importlinter"]["contracts"]


def test_every_package_has_its_floor() -> None:
    floors = {name.strip() for layer in contracts()[0]["layers"] for name in layer.split("|")}
    at_the_root = {name for name in sources() if name.count(".") == 1 and name.startswith("contourd.")}
    assert {*at_the_root, "trainer"} - {"contourd.__main__"} == floors


@pytest.mark.parametrize("package", ["contourd", "trainer"])
def test_few_modules_at_the_root(package: str) -> None:
    at_the_root = [name for name in sources() if name.rpartition(".")[0] == package and not is_package(name)]
    assert 0 < len(at_the_root) <= 8


def test_every_package_says_what_lives_there() -> None:
    assert not [name for name in sources() if is_package(name) and not ast.get_docstring(tree(sources()[name]))]


def test_others_import_only_what_a_package_offers() -> None:
    parts = (name.rpartition(".") for name in imported_from_outside())
    wrong = sorted(f"{package}.{module}" for package, _, module in parts if module not in offered(package))
    assert not wrong, "name them in __all__ of their package, or import what it offers"


def test_a_package_offers_no_module_that_nobody_imports() -> None:
    unused = [
        f"{package}.{name}"
        for package in sources()
        if is_package(package)
        for name in offered(package)
        if f"{package}.{name}" in sources() and f"{package}.{name}" not in imported_from_outside()
    ]
    assert not sorted(unused)


def test_contourd_imports_the_trainer_only_in_cli() -> None:
    users = {m for m in sources() if within(m, ("contourd",)) and any(within(n, ("trainer",)) for n in imports(m))}
    assert users <= {"contourd.cli.training", "contourd.cli.importing", "contourd.cli.commissioning"}


def test_no_private_name_of_another_is_touched() -> None:
    """A library's parts are reached by its public names; pynetdicom's private ones in one module alone."""
    wrong = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, path in sources().items()
        if module != "contourd.dicom.network.pynetdicom_internals"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in DOCUMENTED
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    ]
    assert not wrong


@cache
def suite() -> Mapping[str, Path]:
    """Module name -> file, of the tests and the benchmarks."""
    files = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}


def fixtures(module: str) -> set[str]:
    """Names of the fixtures that a module of the tests defines."""
    return {
        node.name
        for node in ast.walk(tree(suite()[module]))
        if isinstance(node, ast.FunctionDef) and any("fixture" in ast.unparse(by) for by in node.decorator_list)
    }


def test_fixtures_are_asked_for_and_not_imported() -> None:
    """Fixtures come from the plugin tests/fixtures.py or a conftest.py; nothing is imported out of a test's module."""
    assert "bright_bundle" in fixtures("tests.fixtures")
    wrong = []
    for module, path in suite().items():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            for name in names:
                place, _, last = name.rpartition(".")
                is_test = name in suite() and last.startswith(("test_", "conftest", "fixtures"))
                if is_test or (place in suite() and last in fixtures(place)):
                    wrong.append(f"{module}:{node.lineno} imports {name}")
    assert not wrong


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(path: Path) -> Iterator[tuple[int, str]]:
    """Find the private names of others in a file: attributes but of ``self``, imports, and names given to a patch."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if private(node.attr) and not own:
                yield node.lineno, node.attr
        elif isinstance(node, ast.Import | ast.ImportFrom):
            parts = [part for alias in node.names for part in alias.name.split(".")]
            if isinstance(node, ast.ImportFrom) and node.module != "__future__":
                parts += str(node.module).split(".")
            yield from ((node.lineno, part) for part in parts if private(part))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in PATCHES:
            given = [str(one.value) for one in node.args if isinstance(one, ast.Constant)]
            yield from ((node.lineno, part) for one in given for part in one.split(".") if private(part))


def test_no_test_pokes_at_a_private_name() -> None:
    """A test that needs what is private needs another way in: an argument of the constructor, a public function."""
    wrong = [
        f"{module}:{line} {name}"
        for module, path in suite().items()
        for line, name in private_names(path)
        if (module, name) not in FOREIGN_PRIVATE and name not in DOCUMENTED | {PYNETDICOM_OPTIONS}
    ]
    assert not wrong


def test_no_long_file() -> None:
    files = [
        path
        for folder in ("contourd", "trainer", "migrations", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    ]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path: n for path, n in lengths.items() if n > LINES} == {}


def test_no_banned_name() -> None:
    wrong = [module for module in sources() if words(module.rpartition(".")[2]) & (BANNED_WORDS | BANNED_VERBS)]
    for module, path in sources().items():
        for line, name in names(path):
            if words(name) & BANNED_WORDS or name.lower().strip("_") in BANNED_VERBS or name.startswith("handle_"):
                wrong.append(f"{module}:{line} {name}")
    assert not wrong


def test_everything_is_caught_in_few_places_only() -> None:
    wrong = []
    for module, path in sources().items():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = ast.unparse(node.type) if node.type else "BaseException"
            raised_again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if re.search(r"\b(Base)?Exception\b", caught) and not raised_again and module not in CATCHES_EVERYTHING:
                wrong.append(f"{module}:{node.lineno} except {caught}")
    assert not wrong


def test_series_jobs_and_deliveries_are_made_in_one_place_only() -> None:
    made = {
        (module, node.func.id)
        for module, path in sources().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if node.func.id in ("SeriesRow", "JobRow", "DeliveryRow")
    }
    assert made == {("contourd.store.transitions", name) for name in ("SeriesRow", "JobRow", "DeliveryRow")}


def test_series_jobs_and_deliveries_are_moved_in_one_place_only() -> None:
    """A commitment, a request for one, a constancy check and a shadow are moved where their tables are written."""
    moved = {
        module
        for module, path in sources().items()
        if module.startswith("contourd.")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "state"
    }
    others = {"contourd.delivery.commitments", "contourd.delivery.commitment_requests", "contourd.constancy.requests"}
    assert moved == {"contourd.store.transitions", "contourd.store.shadows"} | others


def test_one_module_knows_where_a_model_lies_and_it_loads_no_network() -> None:
    names = {"model.json", "weights.safetensors", "CARD.md"}
    spelt = {
        module
        for module, path in sources().items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and node.value in names
    }
    assert spelt == {"contourd.model.library"}
    code = (
        "import sys; import contourd.model.library; print(*sorted({'torch', 'numpy', 'sqlalchemy'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_future_annotations_everywhere() -> None:
    wrong = [
        module
        for module, path in sources().items()
        if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree(path).body)
        and "from __future__ import annotations" not in path.read_text(encoding="utf-8").splitlines()
    ]
    assert not wrong


def test_status_and_help_do_not_load_the_network() -> None:
    """They must start in under a second, which torch alone would take."""
    code = (
        "import sys, contourd.cli, contourd.settings, contourd.observe.status\n"
        "print(sorted({'torch', 'scipy', 'matplotlib', 'pynetdicom'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert ran.stdout.strip() == "[]"
