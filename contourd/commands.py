"""The commands that contourd tells people to type, each as it can be typed where it is read.

Every text that names a command takes it from here, so that a test can find them all and type each.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Set by the command line for itself and its child processes, which write reasons and pages too.
_GIVEN = "CONTOURD_CONFIGURATION_GIVEN"


@contextmanager
def use_configuration_path(configuration: Path | None) -> Iterator[None]:
    """Set the configuration file that printed commands name, as the command that was typed did; None: it named none."""
    before = os.environ.pop(_GIVEN, None)
    if configuration is not None:
        os.environ[_GIVEN] = str(configuration.absolute())
    try:
        yield
    finally:
        os.environ.pop(_GIVEN, None)
        if before is not None:
            os.environ[_GIVEN] = before


def command(subcommand: str, *words: str | int) -> str:
    """Return a command of contourd as it can be typed in a shell, with ``--config`` where one was given.

    Parameters
    ----------
    words
        Arguments and options after the subcommand. One in capitals stands for what the person knows.
    """
    given = os.environ.get(_GIVEN)
    typed = ["contourd", *subcommand.split(), *map(str, words), *(["--config", given] if given else [])]
    return shlex.join(typed)
