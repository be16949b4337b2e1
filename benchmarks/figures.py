"""A figure of ``docs/performance.md``: ours beside a peer's of the same run.

A benchmark prints its figures with ``tell``. Run by ``python benchmarks``, what it tells goes into the table too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

TOLD_TO = "CONTOURD_BENCHMARK_FIGURES"
# A ratio that is so much larger than the last one has lost something.
LOSS = 1.2


@dataclass(frozen=True, slots=True)
class Figure:
    """One row; the less, the better.

    Attributes
    ----------
    subject
        What was measured, unique in the table.
    unit
        Of ``ours``, ``theirs``, ``limit`` and ``floor``.
    peer
        What ``theirs`` was measured with; empty: there is no peer.
    goal
        The largest ratio that is aimed at.
    limit
        The largest ``ours`` that is aimed at.
    floor
        What no program could go under here.
    """

    subject: str
    unit: str
    ours: float
    peer: str = ""
    theirs: float | None = None
    goal: float | None = None
    limit: float | None = None
    floor: float | None = None

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's."""
        return self.ours / self.theirs if self.theirs else None

    @property
    def reached(self) -> bool | None:
        """Whether the goal and the limit are kept; None where there are none."""
        kept = []
        if self.goal is not None and self.ratio is not None:
            kept.append(self.ratio <= self.goal)
        if self.limit is not None:
            kept.append(self.ours <= self.limit)
        return all(kept) if kept else None

    def line(self) -> str:
        """Return the figure for a terminal."""
        words = [f"{self.subject}: {self.ours:.3g} {self.unit}".rstrip()]
        if self.theirs is not None:
            words.append(f"{self.peer} {self.theirs:.3g} {self.unit}, ratio {self.ratio:.2f}")
        return "; ".join([*words, *self.aims()])

    def aims(self) -> Iterator[str]:
        """Yield what was aimed at, in words."""
        if self.goal is not None:
            yield f"ratio at most {self.goal:.3g}"
        if self.limit is not None:
            yield f"at most {self.limit:g} {self.unit}".rstrip()


def tell(figure: Figure) -> None:
    """Print a figure, and hand it to whoever runs the benchmark."""
    print(figure.line(), flush=True)
    told_to = os.environ.get(TOLD_TO)
    if told_to:
        with Path(told_to).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(figure)) + "\n")


def read_told(path: Path) -> list[Figure]:
    """Read what benchmarks told."""
    return [Figure(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def kept_figure(row: Mapping[str, Any]) -> Figure:
    """Return the figure of a row of figures.json, which has more beside it: the command, the machine."""
    return Figure(**{field.name: row[field.name] for field in fields(Figure)})


def lost(new: Sequence[Figure], old: Mapping[str, Figure]) -> list[str]:
    """Name the figures whose ratio is worse than before by more than ``LOSS``."""
    found = []
    for figure in new:
        known = old.get(figure.subject)
        before = known.ratio if known is not None and known.peer == figure.peer else None
        if figure.ratio is not None and before is not None and figure.ratio > before * LOSS:
            found.append(f"{figure.subject}: ratio {figure.ratio:.2f}, and {before:.2f} before")
    return found


def table(figures: Sequence[Figure], commands: Mapping[str, str]) -> str:
    """Return the rows of docs/performance.md.

    Parameters
    ----------
    commands
        Subject -> what measured it.
    """
    lines = ["| what | contourd | peer | ratio | aim | floor | command |", "|---|---|---|---|---|---|---|"]
    for f in figures:
        aims = ", ".join(f.aims())
        judged = {None: "", True: ": kept", False: ": **missed**"}[f.reached]
        cells = (
            f.subject,
            f"{f.ours:.3g} {f.unit}".rstrip(),
            f"{f.peer} {f.theirs:.3g} {f.unit}".rstrip() if f.theirs is not None else "",
            f"{f.ratio:.2f}" if f.ratio is not None else "",
            f"{aims}{judged}" if aims else "",
            f"{f.floor:.3g} {f.unit}" if f.floor is not None else "",
            f"`{commands[f.subject]}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
