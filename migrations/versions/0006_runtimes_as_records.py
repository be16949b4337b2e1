"""What ran the network and the libraries' versions, as records, which were words.

The words of earlier versions are read here and nowhere else. Where they do not say everything that a record holds,
they are kept in it and told as they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ROWS = sa.table(
    "contourings",
    *(sa.column(name, sa.Integer if name == "id" else sa.Text) for name in ("id", "device", "libraries")),
    *(sa.column(name, sa.Text) for name in ("runtime", "versions")),
)
TITLES = {"torch": "torch", "OpenVINO": "openvino"}
# As cpu (x86_64, AVX2, 8 threads, torch 2.9.1 fp32), or cuda:0 (NVIDIA H200, CUDA 13.0, torch 2.9.1 fp16).
SAID = re.compile(
    r"(?P<device>cpu|cuda:\d+) \((?P<hardware>.+), (?:(?P<threads>\d+) threads|CUDA (?P<cuda>\S+)), "
    r"(?P<name>torch|OpenVINO) (?P<version>\S+) (?P<precision>fp32|fp16|bf16)\)"
)


def upgrade() -> None:
    with _changeable():
        for name in ("runtime", "versions"):
            op.add_column("contourings", sa.Column(name, sa.Text, nullable=False, server_default=""))
        rows = op.get_bind().execute(sa.select(ROWS.c.id, ROWS.c.device, ROWS.c.libraries)).all()
        for number, device, libraries in rows:
            values = {"runtime": json.dumps(_runtime(device)), "versions": json.dumps(_versions(libraries))}
            op.execute(ROWS.update().where(ROWS.c.id == number).values(values))
        for name in ("device", "libraries"):
            op.drop_column("contourings", name)


def downgrade() -> None:
    with _changeable():
        for name in ("device", "libraries"):
            op.add_column("contourings", sa.Column(name, sa.Text, nullable=False, server_default=""))
        rows = op.get_bind().execute(sa.select(ROWS.c.id, ROWS.c.runtime, ROWS.c.versions)).all()
        for number, runtime, versions in rows:
            words = ", ".join(f"{name} {version}" for name, version in json.loads(versions).items())
            values = {"device": _words(json.loads(runtime)), "libraries": words}
            op.execute(ROWS.update().where(ROWS.c.id == number).values(values))
        for name in ("runtime", "versions"):
            op.drop_column("contourings", name)


def _runtime(words: str) -> dict[str, object]:
    said = SAID.fullmatch(words)
    if said is not None:
        threads = said["threads"]
        return {
            "name": TITLES[said["name"]],
            "version": said["version"],
            "precision": said["precision"],
            "device": said["device"],
            "hardware": said["hardware"],
            "threads": int(threads) if threads else None,
            "cuda": said["cuda"] or "",
            "words": "",
        }
    device, precision = re.match(r"cpu|cuda(:\d+)?", words), re.search(r"\b(bf16|fp16)\b", words)
    return {
        "name": "openvino" if "OpenVINO" in words else "torch",
        "version": "",
        "precision": precision.group() if precision else "fp32",
        "device": device.group() if device else "auto",
        "hardware": "",
        "threads": None,
        "cuda": "",
        "words": words,
    }


def _words(runtime: dict[str, object]) -> str:
    if runtime["words"]:
        return str(runtime["words"])
    where = f"CUDA {runtime['cuda']}" if runtime["threads"] is None else f"{runtime['threads']} threads"
    title = {name: title for title, name in TITLES.items()}[str(runtime["name"])]
    what = f"{title} {runtime['version']} {runtime['precision']}"
    return f"{runtime['device']} ({runtime['hardware']}, {where}, {what})"


def _versions(words: str) -> dict[str, str]:
    """Return name -> version of words as "Python 3.12.1, torch 2.9.1"."""
    found = (part.rpartition(" ") for part in words.split(", "))
    return {name or version: version if name else "" for name, _, version in found}


@contextmanager
def _changeable() -> Iterator[None]:
    """Let the rows be changed, which are only appended to otherwise."""
    sqlite = op.get_bind().dialect.name == "sqlite"
    if sqlite:
        op.execute("DROP TRIGGER contourings_refuses_update")
    else:
        op.execute("ALTER TABLE contourings DISABLE TRIGGER contourings_refuses")
    yield
    if sqlite:
        op.execute(
            "CREATE TRIGGER contourings_refuses_update BEFORE UPDATE ON contourings "
            "BEGIN SELECT RAISE(ABORT, 'the record of contourings is only appended to'); END"
        )
    else:
        op.execute("ALTER TABLE contourings ENABLE TRIGGER contourings_refuses")
