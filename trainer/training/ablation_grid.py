"""A grid of training runs to compare: each table's rows are one recipe with some keys changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from contourd.errors import SettingsError
from contourd.model.structures import etc_folder
from trainer.training.config import TrainConfig, check_recipe, find_recipe, read_toml

GRIDS = "grids"
# What a budget is made of: the same for all variants, so that a row differs by what its table is about.
BUDGET = ("schedule", "compute", "seed")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Variant(_Section):
    """One row.

    set
        Dotted keys of the recipe -> values.
    sources
        Archives that are trained on; empty: all.
    cases
        How many cases are trained on, drawn by the seed; None: all.
    published
        The paper's average Dice in per cent of the row, where it has one.
    """

    name: str = Field(min_length=1)
    set: Mapping[str, Any] = {}
    sources: tuple[str, ...] = ()
    cases: int | None = Field(default=None, ge=1)
    published: float | None = None


class AblationTable(_Section):
    """Rows that differ in one respect; ``title`` says in which."""

    title: str = Field(min_length=1)
    variant: tuple[Variant, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [variant.name for variant in self.variant]
        if len(set(names)) != len(names):
            raise ValueError("two variants have one name")
        return self


class GridConfig(_Section):
    """A grid.

    recipe
        What every variant begins from: a shipped recipe's name, or a file.
    set
        Changes to the recipe for all of them, the budget among them.
    seeds
        Every variant is trained once with each.
    """

    title: str
    recipe: str
    set: Mapping[str, Any] = {}
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    table: tuple[AblationTable, ...] = Field(min_length=1)


def grid_names() -> tuple[str, ...]:
    """Name the grids that ship with the package."""
    return tuple(sorted(path.stem for path in (etc_folder() / GRIDS).glob("*.toml")))


def load_grid(name_or_file: str) -> GridConfig:
    """Read a grid, by the name of a shipped one or by its file, and check every variant's recipe.

    Raises
    ------
    SettingsError
        Every problem, with the key's path.
    """
    shipped = etc_folder() / GRIDS / f"{name_or_file}.toml"
    path = shipped if shipped.is_file() else Path(name_or_file)
    if not path.is_file():
        problem = f"no such grid: give a TOML file that exists or one of: {', '.join(grid_names())}"
        raise SettingsError(name_or_file, [problem])
    try:
        grid = GridConfig.model_validate(read_toml(path))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError(str(path), problems) from error
    for table in grid.table:
        for variant in table.variant:
            recipe_of(grid, variant, grid.seeds[0], f"{path}, {table.title}, {variant.name}")
    return grid


def recipe_of(grid: GridConfig, variant: Variant, seed: int, source: str) -> TrainConfig:
    """Return a variant's recipe; it is validated at its end alone, so that no checkpoint is chosen.

    Raises
    ------
    SettingsError
        A key does not exist, a value cannot be, or the variant changes the budget.
    """
    spent = [key for key in variant.set if key.split(".")[0] in BUDGET]
    if spent:
        raise SettingsError(source, [f"{', '.join(spent)}: the budget is the same for all variants; set it above them"])
    content = read_toml(find_recipe(grid.recipe))
    for key, value in (*grid.set.items(), *variant.set.items(), ("seed", seed)):
        _put(content, key.split("."), value, source)
    config = check_recipe(content, source)
    schedule = config.schedule.model_copy(update={"validate_every": config.schedule.length})
    return config.model_copy(update={"schedule": schedule})


def _put(content: dict[str, Any], keys: list[str], value: object, source: str) -> None:
    inner = content
    for key in keys[:-1]:
        inner = inner.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(source, [f"{'.'.join(keys)}: {key} is no section; set it as a whole"])
    inner[keys[-1]] = value


def run_key(config: TrainConfig, variant: Variant) -> str:
    """Name the run of a variant; variants that come to the same share one."""
    recipe = config.model_dump(mode="json", by_alias=True, exclude={"pairs"} if config.pairs is None else None)
    content = [recipe, sorted(variant.sources), variant.cases]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
