"""The model card: what a bundle was made of and for, and how good it was found to be, in Markdown.

What nobody can compute, faults of the data and the history of a run, stands in the bundle's ``notes.md`` and is taken
into the card as it is.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contourd.imaging.metrics import TOLERANCE_MM
from contourd.model.bundle_config import ModelBundle
from contourd.model.limits import Bounds
from trainer.atomic import write_text
from trainer.evaluation.results import Statistics
from trainer.page import TEMPLATES, decimals

NOTES_FILE = "notes.md"


def write_card(path: Path, bundle: ModelBundle, summary: Statistics | None, split: str) -> None:
    """Write a bundle's card through a temporary file.

    Parameters
    ----------
    summary
        Of its evaluation on ``split``; None: it was not evaluated yet, and the card says so.
    """
    # Markdown, not a page: nothing to escape, and `<` stays what it is.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["decimals"] = decimals
    environment.filters["bounds"] = bounds
    notes = bundle.folder / NOTES_FILE
    text = environment.get_template("card.md").render(
        bundle=bundle,
        config=bundle.config,
        provenance=bundle.config.provenance,
        parameters=bundle.parameters(),
        notes=notes.read_text(encoding="utf-8").strip() if notes.is_file() else "",
        summary=summary,
        split=split,
        tolerance_mm=TOLERANCE_MM,
    )
    write_text(path, text)


def bounds(limit: Bounds | None, unit: str) -> str:
    """Write a limit of a bundle in words."""
    low, high = limit or (None, None)
    if low is None and high is None:
        return "not limited"
    if low is None or high is None:
        return f"up to {high:g} {unit}" if low is None else f"from {low:g} {unit}"
    return f"{low:g} to {high:g} {unit}"
