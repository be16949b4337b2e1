"""What a command says: words for a person, or one JSON object for a program.

The keys of each object are in docs/commands.md, and a test holds the two together.
"""

from __future__ import annotations

import json as json_format
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer

# Columns of what goes to a file or a program: whole lines.
UNFOLDED = 10_000
JsonOption = Annotated[
    bool, typer.Option("--json", help="For programs: one JSON object; docs/commands.md names its keys.")
]


def tell(content: Mapping[str, object], words: str, json: bool) -> None:
    """Print an object for a program, or else words for a person."""
    typer.echo(as_json(content) if json else words)


def as_json(content: Mapping[str, object]) -> str:
    """Lay an object out."""
    return json_format.dumps(content, indent=1)


@contextmanager
def redirect_text(json: bool) -> Iterator[None]:
    """Send what is printed meanwhile to standard error, where standard output is a program's."""
    if not json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield
