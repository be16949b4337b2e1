"""The ablation: one table of equal budgets, that a failing variant or a stop does not end."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import trainer.training.ablate
from contourd.cli import app
from contourd.errors import DatasetError, SettingsError
from tests.archives import write_csv, write_pddca
from tests.training import BASE, ORGANS, write_case
from trainer.case import find_cases, read_case
from trainer.curation.curate import Options, curate
from trainer.curation.discovery import parse_sources
from trainer.curation.splits import Shares
from trainer.training.ablate import RESULT, RunResult, ablate, choose_cases
from trainer.training.ablation_grid import GridConfig, Variant, grid_names, load_grid, recipe_of, run_key

pytestmark = pytest.mark.usefixtures("one_thread")
POOLS = {
    "title": "Pools",
    "variant": [
        {"name": "one", "set": {"model.pools": 1}, "published": 76.8},
        {"name": "two", "set": {"model.pools": 2}},
    ],
}
DATA = {
    "title": "Data",
    "variant": [
        {"name": "two cases", "cases": 2},
        {"name": "nowhere", "sources": ["Atlantis"]},
        {"name": "all", "set": {"model.pools": 1}},
    ],
}


def grid(*tables, **more) -> GridConfig:
    return GridConfig.model_validate({"title": "Tiny", "recipe": "quick", "set": BASE, "table": tables, **more})


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the runs that were trained."""
    done, fit = [], trainer.training.ablate.fit

    def noting(training_set, output, config, device):
        done.append(output.parent.name)
        return fit(training_set, output, config, device)

    monkeypatch.setattr(trainer.training.ablate, "fit", noting)
    return done


def test_one_table_with_a_failure_in_it_and_no_run_twice(training_set, tmp_path, trained):
    output = tmp_path / "out"
    rows = ablate(grid(POOLS, DATA), training_set, output, "cpu")
    assert [(r.table, r.variant.name) for r in rows] == [
        ("Pools", "one"),
        ("Pools", "two"),
        ("Data", "two cases"),
        ("Data", "nowhere"),
        ("Data", "all"),
    ]
    assert len(trained) == 3  # "all" is "one"
    assert rows[4].outcomes == rows[0].outcomes
    assert "no case is of Atlantis; the data set's sources: none that is named" in rows[3].failures[0]
    assert rows[3].mean is None
    assert [r.done[0].cases for r in rows if r.done] == [3, 3, 2, 3]
    assert rows[1].done[0].parameters > rows[0].done[0].parameters
    with (output / "ablation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["variant"] for row in table] == ["one", "two", "two cases", "nowhere", "all"]
    assert float(table[0]["mean"]) == rows[0].mean == pytest.approx(sum(float(table[0][o]) for o in ORGANS) / 3)
    assert table[0]["paper_percent"] == "76.8"
    assert "Atlantis" in table[3]["failed"]
    assert [row["mean"] for row in json.loads((output / "ablation.json").read_text())["rows"]] == [r.mean for r in rows]
    page = (output / "ablation.html").read_text()
    assert "3 steps of 1 volume" in page
    assert "Atlantis" in page
    assert "still to come" not in page


def test_a_run_that_was_stopped_goes_on_and_failures_are_tried_again(training_set, tmp_path, trained):
    output = tmp_path / "out"
    ablate(grid(POOLS), training_set, output, "cpu")
    assert len(trained) == 2
    first = Path(output / "runs" / trained[0] / RESULT).read_bytes()
    ablate(grid(POOLS, DATA), training_set, output, "cpu")
    assert len(trained) == 3
    assert (output / "runs" / trained[0] / RESULT).read_bytes() == first
    broken = output / "runs" / trained[1] / RESULT
    broken.write_text(RunResult(failed="out of memory").model_dump_json())
    rows = ablate(grid(POOLS), training_set, output, "cpu")
    assert not rows[1].failures
    assert len(trained) == 4


def test_a_run_out_of_memory_is_an_entry(training_set, tmp_path, monkeypatch):
    def fit(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 TiB")

    monkeypatch.setattr(trainer.training.ablate, "fit", fit)
    rows = ablate(grid(POOLS), training_set, tmp_path / "out", "cpu")
    assert [r.mean for r in rows] == [None, None]
    assert "out of memory" in (tmp_path / "out" / "ablation.html").read_text()


def test_seeds_give_a_spread(training_set, tmp_path):
    table = {"title": "Pools", "variant": POOLS["variant"][:1]}
    (row,) = ablate(grid(table, seeds=(0, 1)), training_set, tmp_path / "out", "cpu")
    a, b = (outcome.mean for outcome in row.outcomes)
    assert row.mean == pytest.approx((a + b) / 2)
    assert row.spread == pytest.approx(abs(a - b) / 2**0.5)


def test_cases_are_drawn_by_the_seed(training_set):
    for i in range(3, 12):
        write_case(training_set / "train" / f"pt_{i}.npz", i)
    paths = find_cases(training_set / "train")
    five = Variant(name="five", cases=5)
    assert choose_cases(paths, five, 0) == choose_cases(paths, five, 0)
    assert choose_cases(paths, five, 0) != choose_cases(paths, five, 1)
    assert set(choose_cases(paths, Variant(name="three", cases=3), 0)) < set(choose_cases(paths, five, 0))
    with pytest.raises(DatasetError, match="99 cases are wanted, and there are 12"):
        choose_cases(paths, Variant(name="n", cases=99), 0)


def test_cases_are_chosen_by_source(tmp_path):
    write_csv(tmp_path / "kbp" / "pt_1", 1)
    write_pddca(tmp_path / "miccai" / "0522c0001", 2)
    shares = Shares(0.0, 0.0)
    curate(parse_sources([str(tmp_path / "kbp"), str(tmp_path / "miccai")]), tmp_path / "set", Options(shares=shares))
    paths = find_cases(tmp_path / "set" / "train")
    (chosen,) = choose_cases(paths, Variant(name="s", sources=("miccai",)), 0)
    assert read_case(chosen).source == "miccai"
    assert choose_cases(paths, Variant(name="s", sources=("kbp", "miccai")), 0) == paths
    with pytest.raises(DatasetError, match="no case is of x; the data set's sources: kbp, miccai"):
        choose_cases(paths, Variant(name="s", sources=("x",)), 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schedule.length": 9}, "the budget is the same for all variants"),
        ({"model.pols": 2}, "model.pols"),
        ({"model.pools": 7}, "model.pools"),
        ({"name.first": "x"}, "name is no section"),
    ],
)
def test_a_variant_that_cannot_be_is_refused_before_anything_is_trained(change, told):
    own = grid({"title": "t", "variant": [{"name": "v", "set": change}]})
    with pytest.raises(SettingsError, match=told):
        recipe_of(own, own.table[0].variant[0], 0, "grid.toml")


def test_a_checkpoint_is_never_chosen_by_validation():
    own = grid(POOLS, set=BASE | {"schedule.validate_every": 1})
    assert recipe_of(own, own.table[0].variant[0], 0, "g").schedule.validate_every == 3


def test_a_run_is_known_by_all_that_it_depends_on():
    own = grid(POOLS)
    one, two = own.table[0].variant
    keys = {
        run_key(recipe_of(own, one, 0, "g"), one),
        run_key(recipe_of(own, two, 0, "g"), two),
        run_key(recipe_of(own, one, 1, "g"), one),
        run_key(recipe_of(own, one, 0, "g"), Variant(name="one", cases=2)),
    }
    assert len(keys) == 4


def test_shipped_grids_can_be_read():
    assert grid_names() == ("paper", "quick")
    for name in grid_names():
        assert load_grid(name).table


@pytest.mark.parametrize(
    ("text", "told"),
    [("[[", "not valid TOML"), ("title = 1", "recipe"), ('title = "t"\nrecipe = "quick"\ntable = []', "table")],
)
def test_a_damaged_grid_is_refused(tmp_path, text, told):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=told):
        load_grid(str(path))
    with pytest.raises(SettingsError, match="one of: paper, quick"):
        load_grid("no such grid")


def test_by_the_command_line(training_set, tmp_path):
    path = tmp_path / "grid.toml"
    values = "\n".join(f'"{k}" = {json.dumps(v)}' for k, v in BASE.items())
    path.write_text(
        f'title = "T"\nrecipe = "quick"\n[set]\n{values}\n[[table]]\ntitle = "Pools"\n'
        'variant = [{ name = "one", set = { "model.pools" = 1 } }]\n'
    )
    arguments = ["ablate", path, training_set, "--output", tmp_path / "out", "--device", "cpu"]
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0
    assert "Pools\n  one " in result.output
    assert "ablation.html" in result.output
    with pytest.raises(DatasetError, match="no case"):
        CliRunner().invoke(app, [str(a) for a in [*arguments[:2], tmp_path, *arguments[3:]]], catch_exceptions=False)
