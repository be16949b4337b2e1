"""A grid of training runs with one budget -> one table, in the form of the paper's Tables II to VII."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from contourd import __version__
from contourd.errors import ContourdError, DatasetError
from trainer.atomic import replacing, write_text
from trainer.case import find_cases, read_case
from trainer.page import write_page
from trainer.training.ablation_grid import GridConfig, Variant, load_grid, recipe_of, run_key
from trainer.training.config import TrainConfig
from trainer.training.fit import fit
from trainer.training.log import read_steps

RUNS, RESULT = "runs", "result.json"
ABLATION_REPORT = "ablation.html"
TABLE = "ablation.csv"
TABLE_JSON = "ablation.json"


class RunResult(BaseModel):
    """What came of one run.

    Attributes
    ----------
    failed
        Why there is no figure; empty: there is one.
    dice
        Organ -> mean over the validation cases, with the weights at the run's end.
    seconds
        Per step, median.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: str = ""
    dice: Mapping[str, float] = {}
    cases: int = 0
    parameters: int = 0
    seconds: float | None = None

    @property
    def mean(self) -> float:
        """Over the organs."""
        return float(np.mean(list(self.dice.values())))


@dataclass(frozen=True, slots=True)
class Row:
    """A variant with the outcome of each seed."""

    table: str
    variant: Variant
    outcomes: tuple[RunResult, ...]

    @property
    def done(self) -> tuple[RunResult, ...]:
        """The outcomes that have figures."""
        return tuple(outcome for outcome in self.outcomes if not outcome.failed)

    @property
    def mean(self) -> float | None:
        """Mean Dice over organs and seeds."""
        means = [outcome.mean for outcome in self.done]
        return float(np.mean(means)) if means else None

    @property
    def spread(self) -> float | None:
        """Standard deviation of the mean Dice over the seeds; None under two of them."""
        means = [outcome.mean for outcome in self.done]
        return float(np.std(means, ddof=1)) if len(means) > 1 else None

    @property
    def failures(self) -> tuple[str, ...]:
        """Why runs of it have no figure."""
        return tuple(dict.fromkeys(outcome.failed for outcome in self.outcomes if outcome.failed))

    def dice(self, organ: str) -> float | None:
        """One organ's Dice over the seeds."""
        values = [outcome.dice[organ] for outcome in self.done if organ in outcome.dice]
        return float(np.mean(values)) if values else None


def ablate(grid: GridConfig, dataset: Path, output: Path, device: str = "auto") -> list[Row]:
    """Train every variant and write the table after each; what an earlier run finished is not trained again.

    A variant that fails is an entry of the table. It is tried again by the next run.

    Raises
    ------
    DatasetError
        The data set has no training or no validation case.
    """
    for split in ("train", "validation"):
        find_cases(dataset / split)
    planned = [(table.title, variant) for table in grid.table for variant in table.variant]
    outcomes: dict[str, RunResult] = {}
    rows: list[Row] = []
    for number, (title, variant) in enumerate(planned, 1):
        found = []
        for seed in grid.seeds:
            config = recipe_of(grid, variant, seed, f"{title}, {variant.name}")
            key = run_key(config, variant)
            if key not in outcomes:
                print(f"{number} of {len(planned)}: {title}: {variant.name}, seed {seed}", flush=True)
                outcomes[key] = _outcome(config, variant, dataset, output / RUNS / key, device)
            found.append(outcomes[key])
        rows.append(Row(title, variant, tuple(found)))
        write_table(output, grid, rows, len(planned))
    return rows


def _outcome(config: TrainConfig, variant: Variant, dataset: Path, folder: Path, device: str) -> RunResult:
    """Return what an earlier run made of it, or train."""
    try:
        known = RunResult.model_validate_json((folder / RESULT).read_bytes())
        if not known.failed:
            return known
    except (OSError, ValidationError):
        pass
    folder.mkdir(parents=True, exist_ok=True)
    try:
        outcome = _train(config, variant, dataset, folder, device)
    except (ContourdError, RuntimeError, ValueError, OSError) as error:  # torch says what went wrong by these
        outcome = RunResult(failed=f"{type(error).__name__}: {error}".splitlines()[0])
        print(f"failed: {outcome.failed}", flush=True)
    write_text(folder / RESULT, outcome.model_dump_json(indent=1) + "\n")
    return outcome


def _train(config: TrainConfig, variant: Variant, dataset: Path, folder: Path, device: str) -> RunResult:
    chosen = choose_cases(find_cases(dataset / "train"), variant, config.seed)
    subset = folder / "dataset"
    _link(chosen, subset / "train")
    _link(find_cases(dataset / "validation"), subset / "validation")
    state = fit(subset, folder / "model", config, device)
    last = state.history[-1]
    steps = [step.seconds for step in read_steps(folder / "model.run", state.step)]
    return RunResult(
        dice={name: value for name, value in last.items() if name not in ("step", "mean")},
        cases=len(chosen),
        parameters=sum(p.numel() for p in state.network.parameters()),
        seconds=float(np.median(steps)) if steps else None,
    )


def choose_cases(paths: Sequence[Path], variant: Variant, seed: int) -> list[Path]:
    """Return the training cases of a variant's sources, and so many of them as it wants, drawn by the seed.

    Raises
    ------
    DatasetError
        A source has no case, or there are fewer cases than the variant wants.
    """
    chosen = list(paths)
    if variant.sources:
        sources = {path: read_case(path).source for path in paths}
        missing = set(variant.sources) - set(sources.values())
        if missing:
            known = ", ".join(sorted({*sources.values()} - {""})) or "none that is named"
            raise DatasetError(f"no case is of {', '.join(sorted(missing))}; the data set's sources: {known}")
        chosen = [path for path in paths if sources[path] in variant.sources]
    if variant.cases is not None:
        if len(chosen) < variant.cases:
            raise DatasetError(f"{variant.cases} cases are wanted, and there are {len(chosen)}")
        order = np.random.default_rng([seed, 2]).permutation(len(chosen))
        chosen = sorted(chosen[i] for i in order[: variant.cases])
    return chosen


def _link(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in paths}
    for old in folder.iterdir():
        if old.name not in names:
            old.unlink()
    for path in paths:
        link = folder / path.name
        if not link.is_symlink():
            link.symlink_to(path.resolve())


def write_table(output: Path, grid: GridConfig, rows: Sequence[Row], planned: int) -> None:
    """Write the table as HTML for people, as CSV and as JSON for programs."""
    output.mkdir(parents=True, exist_ok=True)
    organs = sorted({organ for row in rows for outcome in row.outcomes for organ in outcome.dice})
    header = ("table", "variant", "mean", "sd_of_seeds", *organs, "paper_percent", "cases", "parameters", "failed")
    lines = [
        (
            *(row.table, row.variant.name, row.mean, row.spread, *(row.dice(organ) for organ in organs)),
            *(row.variant.published, *_first(row), "; ".join(row.failures)),
        )
        for row in rows
    ]
    with replacing(output / TABLE) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    content = {
        "contourd": __version__,
        "grid": grid.model_dump(mode="json"),
        "rows": [dict(zip(header, line, strict=True)) for line in lines],
    }
    write_text(output / TABLE_JSON, json.dumps(content, indent=1) + "\n")
    budget = recipe_of(grid, grid.table[0].variant[0], grid.seeds[0], grid.title)
    context = {
        "grid": grid,
        "budget": budget,
        "organs": organs,
        "tables": {table.title: [row for row in rows if row.table == table.title] for table in grid.table},
        "best": {t.title: max((r.mean or 0 for r in rows if r.table == t.title), default=0) for t in grid.table},
        "left": planned - len(rows),
        "contourd": __version__,
    }
    write_page(output / ABLATION_REPORT, "ablation.html", context)


def _first(row: Row) -> tuple[int | None, int | None]:
    done = row.done
    return (done[0].cases, done[0].parameters) if done else (None, None)


def run_ablation(grid: str, dataset: Path, output: Path, device: str = "auto") -> list[Row]:
    """Ablate as ``contourd ablate`` does, and print the table.

    Raises
    ------
    SettingsError, DatasetError
        The grid or the data set cannot be used.
    """
    title, rows = "", []
    for row in ablate(load_grid(grid), dataset, output, device):
        if row.table != title:
            title = row.table
            print(f"\n{title}")
        message = "failed: " + "; ".join(row.failures) if row.mean is None else f"{row.mean:.3f}"
        print(f"  {row.variant.name:32} {message}")
        rows.append(row)
    print(f"\ntable: {output / ABLATION_REPORT}")
    return rows
