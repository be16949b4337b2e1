"""A progress bar on stderr, on a terminal only; what is printed on stdout stands above it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
# A step of training may take half a minute, and what is left is guessed from several.
ESTIMATED_OVER_S = 600.0


@dataclass(frozen=True, slots=True, eq=False)
class Bar:
    """A bar that moves by one."""

    progress: Progress
    task: TaskID

    def advance(self) -> None:
        """Move on by one."""
        self.progress.advance(self.task)


@contextmanager
def bar(total: int, description: str, done: int = 0, shown: bool = True) -> Iterator[Bar]:
    """Show a bar; ``done`` of ``total`` were there before."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    disabled = not (shown and console.is_terminal)
    with Progress(
        *columns, console=console, disable=disabled, transient=True, speed_estimate_period=ESTIMATED_OVER_S
    ) as progress:
        yield Bar(progress, progress.add_task(description, total=total, completed=done))


def tracked(items: Iterable[Item], total: int, description: str) -> Iterator[Item]:
    """Yield the items and move a bar after each."""
    with bar(total, description) as shown:
        for item in items:
            yield item
            shown.advance()


def duration_text(seconds: float) -> str:
    """Return a time as a person would guess it."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "under a minute"
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"
