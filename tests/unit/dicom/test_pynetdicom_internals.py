"""pynetdicom's private parts are touched in one module, which says at its import what it misses."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider

from contourd.dicom.network import pynetdicom_internals
from contourd.dicom.network.pynetdicom_internals import CLASSES, NAMES, Seam

ROOT = Path(__file__).resolve().parents[3]
INTERNALS = Path(pynetdicom_internals.__file__)
# Names of its parts that mean nothing else: an association's are reached through them.
PARTS = frozenset({"dul", "dimse", "acse", "state_machine", "msg_queue", "event_queue", "to_user_queue"})
PRIVATE = {name for names in (*NAMES.values(), *CLASSES.values()) for name in names if name.startswith("_")}
PRIVATE |= {seam.value[1] for seam in Seam if seam.value[1].startswith("_")}


def touched(tree: ast.AST) -> Iterator[str]:
    """Name each private part of pynetdicom that a module reaches into, imports or defines anew."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pynetdicom":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.lineno}: imports {name}" for name in names if name.startswith("_"))
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr in PRIVATE or (node.attr in PARTS and not own):
                yield f"{node.lineno}: {ast.unparse(node)}"
            if node.attr == "__class__" and isinstance(node.ctx, ast.Store):
                yield f"{node.lineno}: {ast.unparse(node)} ="
        elif isinstance(node, ast.FunctionDef) and node.name in PRIVATE:
            yield f"{node.lineno}: def {node.name}"


def test_no_other_module_touches_a_private_part() -> None:
    found = {
        str(path.relative_to(ROOT)): told
        for path in sorted((ROOT / "contourd").rglob("*.py"))
        if path != INTERNALS and (told := list(touched(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert found == {}
    assert list(touched(ast.parse(INTERNALS.read_text(encoding="utf-8"))))  # the search finds what is there


@pytest.mark.parametrize(
    "line",
    [
        "from pynetdicom import AE, _config",
        "association._accepted_cx[1]",
        "event.assoc.dul.socket",
        "message.__class__ = Other",
        "class Entity(AE):\n    def _create_socket(self): ...",
    ],
)
def test_a_module_that_reaches_into_pynetdicom_is_found(line: str) -> None:
    assert list(touched(ast.parse(line)))


def imported_anew() -> ModuleType:
    spec = importlib.util.spec_from_file_location("imported_anew", INTERNALS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_can_be_imported_anew() -> None:
    assert imported_anew().NOTHING == (None, None)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        (Association, "_serve_request", "association._serve_request"),
        (DULServiceProvider, "_decode_pdu", "dul._decode_pdu"),
        (AE, "_create_socket", "ApplicationEntity._create_socket"),
        (evt, "trigger", "evt.trigger"),
    ],
)
def test_a_name_that_pynetdicom_lacks_is_told_at_the_import(monkeypatch, kind, name: str, told: str) -> None:
    monkeypatch.delattr(kind, name)
    with pytest.raises(ImportError) as caught:
        imported_anew()
    assert str(caught.value) == (
        f"pynetdicom 3.0.4 lacks {told}, by which contourd bounds and serves associations: "
        "install 'pynetdicom>=3.0.4,<3.1'"
    )


def test_an_attribute_that_only_instances_have_is_missed_too(monkeypatch) -> None:
    begin = Association.__init__

    def without(association, *arguments) -> None:
        begin(association, *arguments)
        del association._accepted_cx

    monkeypatch.setattr(Association, "__init__", without)
    with pytest.raises(ImportError, match=r"lacks association\._accepted_cx, "):
        imported_anew()


def test_the_pin_is_the_package_s() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"pynetdicom{pynetdicom_internals.PINNED}"' in pyproject
