"""The rules of the architecture, read from the source: layers, places of the libraries, sizes, names, broad excepts."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from tests.layers import LAYER, PLACES, TRAINER_MAY_IMPORT, TRAINER_PACKAGES

ROOT = Path(__file__).resolve().parents[1]
LINES = 500

PATCHES = frozenset({"setattr", "getattr", "delattr", "hasattr", "attrgetter"})
# pynetdicom's own documentation sets its options there; of the product one module alone does.
PYNETDICOM_OPTIONS = "_config"
# Module of the tests, name -> why there is no public one.
FOREIGN_PRIVATE = {
    ("tests.terminal", "_export_format"): "rich keeps the template of its pictures there",
    ("tests.unit.test_dicom_arriving", "_assoc"): "pynetdicom's service provider in a process without an association",
    ("tests.unit.test_pynetdicom_internals", "_accepted_cx"): "the test takes one away that is to be missed",
    ("tests.unit.test_dicom_malformed", "_context_id"): "pynetdicom keeps a request's presentation context there",
}

BANNED_WORDS = frozenset({"util", "utils", "helper", "helpers", "common", "manager", "impl", "core"})
BANNED_VERBS = frozenset({"process", "handle", "data", "info"})
CATCHES_EVERYTHING = (
    "contourd.worker",
    "contourd.web.server",
    "contourd.dicom.scp",
    "contourd.receivers.channel",
    "contourd.threads",  # what must outlive anything
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


def test_every_module_has_a_layer() -> None:
    assert {"contourd.errors", "contourd.cli", "trainer.training.fit"} <= set(sources())
    assert not sorted(set(sources()) - set(LAYER))


def test_imports_go_down_only() -> None:
    wrong = [
        f"{module} ({LAYER[module]}) imports {name} ({LAYER[name]})"
        for module in sources()
        for name in ours(module)
        if LAYER[name] > LAYER[module]
    ]
    assert not wrong


def test_no_cycles() -> None:
    remaining = {module: ours(module) for module in sources()}
    while leaves := {module for module, needs in remaining.items() if not needs & set(remaining)}:
        remaining = {module: needs for module, needs in remaining.items() if module not in leaves}
    assert not remaining


@pytest.mark.parametrize("library", PLACES)
def test_library_only_in_its_place(library: str) -> None:
    users = {module for module in sources() if any(within(name, (library,)) for name in imports(module))}
    assert not sorted(module for module in users if not within(module, PLACES[library]))


def test_imaging_and_model_know_neither_dicom_nor_jobs() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in sources()
        if within(module, ("contourd.imaging", "contourd.model"))
        for name in imports(module)
        if within(name, ("contourd.dicom", "contourd.jobs", "pydicom"))
    ]
    assert not wrong


def test_contourd_imports_the_trainer_only_in_cli() -> None:
    users = {m for m in sources() if within(m, ("contourd",)) and any(within(n, ("trainer",)) for n in imports(m))}
    assert users <= {"contourd.cli.training"}


def test_trainer_imports_the_model_side_only() -> None:
    wrong = [
        f"{module} imports {name}"
        for module in sources()
        if within(module, ("trainer",))
        for name in ours(module)
        if name.startswith("contourd.") and not within(name, TRAINER_MAY_IMPORT)
    ]
    assert not wrong


# Of the standard library, and documented under these names.
DOCUMENTED = frozenset({"_replace", "_exit"})


def test_no_private_name_of_another_is_touched() -> None:
    """A library's parts are reached by its public names; pynetdicom's private ones in one module alone."""
    wrong = [
        f"{module}:{node.lineno} {ast.unparse(node)}"
        for module, path in sources().items()
        if module != "contourd.dicom.pynetdicom_internals"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in DOCUMENTED
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    ]
    assert not wrong


def package_of_trainer(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "trainer" and len(parts) > 1 and parts[1] in TRAINER_PACKAGES else None


def test_the_packages_of_the_trainer_are_entered_by_their_faces_only() -> None:
    """What they share knows none of them, and whoever may use one uses what its ``__init__`` names."""
    wrong = []
    for module in sources():
        own = package_of_trainer(module)
        for name in ours(module):
            entered = package_of_trainer(name)
            if entered in (None, own):
                continue
            allowed = module == "contourd.cli.training" or entered in TRAINER_PACKAGES[own]
            if not allowed or name != f"trainer.{entered}":
                wrong.append(f"{module} imports {name}")
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
    assert made == {("contourd.jobs.transitions", name) for name in ("SeriesRow", "JobRow", "DeliveryRow")}


def test_series_jobs_and_deliveries_are_moved_in_one_place_only() -> None:
    """A commitment, a request for one and a constancy check are moved where their tables are written."""
    moved = {
        module
        for module, path in sources().items()
        if module.startswith("contourd.jobs.")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == "state"
    }
    others = {"contourd.jobs.commitments", "contourd.jobs.commitment_requests", "contourd.jobs.constancy"}
    assert moved == {"contourd.jobs.transitions"} | others


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
        "import sys, contourd.cli, contourd.settings, contourd.status\n"
        "print(sorted({'torch', 'scipy', 'matplotlib', 'pynetdicom'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert ran.stdout.strip() == "[]"
