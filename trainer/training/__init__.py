"""A data set and a recipe -> a bundle; and recipes compared at one budget.

May import the trainer's shared modules, ``trainer.evaluation`` by its face, and of contourd ``model`` and ``imaging``;
nothing of ``trainer.curation``. Others use what is named here. Each is loaded when it is first asked for: listing the
recipes takes no training loop.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.training.ablate import ABLATION_REPORT, run_ablation
    from trainer.training.config import find_recipe, load_recipe, recipe_names
    from trainer.training.fit import run_training

__all__ = ["ABLATION_REPORT", "find_recipe", "load_recipe", "recipe_names", "run_ablation", "run_training"]

HOMES = {
    **dict.fromkeys(("find_recipe", "load_recipe", "recipe_names"), "config"),
    **{"ABLATION_REPORT": "ablate", "run_ablation": "ablate", "run_training": "fit"},
}


def __getattr__(name: str) -> object:
    """Load what is asked for (PEP 562)."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
