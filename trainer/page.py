"""Reports as one HTML file that needs no network: the templates, and pictures inside the page.

What a case or an archive calls itself is not trusted: every value is escaped (autoescape).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainer.atomic import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Path(__file__).resolve().parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["decimals"] = decimals
    return environment


def decimals(value: float | None, places: int = 3) -> str:
    """Write a figure with fixed decimals, a dash where there is none."""
    return "\N{EN DASH}" if value is None or value != value else f"{value:.{places}f}"


def write_page(path: Path, template: str, context: Mapping[str, object]) -> None:
    """Fill a template of ``trainer/templates`` and write it through a temporary file."""
    text = _environment().get_template(template).render(context)
    write_text(path, text)


def inline(figure: Figure, dpi: int = 110) -> str:
    """Draw a figure as PNG and return it as a data URI."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", metadata={"Software": None})
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
