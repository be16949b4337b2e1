"""How long a run takes: bounded by steps, and told while it lasts."""

from __future__ import annotations

import csv
import re

import pytest

from tests.training import config, write_case
from trainer.progress import duration_text
from trainer.training.fit import fit
from trainer.training.learning_rate import learning_rate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_run_ends_after_so_many_steps_at_the_latest(tmp_path, capsys):
    """Its rate has then decayed, as at the recipe's own end; more steps go on from there."""
    for split in ("train", "validation"):
        (tmp_path / "data" / split).mkdir(parents=True)
        write_case(tmp_path / "data" / split / "pt_0.npz")
    recipe = config(50, optimiser={"stage": [{"learning_rate": 1e-3, "decay": "linear"}]})
    short = fit(tmp_path / "data", tmp_path / "short", recipe, "cpu", 3)
    assert (short.step, short.best_step) == (3, 3)
    told = capsys.readouterr().out
    assert re.search(r"step 1/3 .* s/step, .* of it for data, (under a minute|about \d+ min) left$", told, re.MULTILINE)
    with (tmp_path / "short.run" / "log.csv").open() as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([learning_rate(recipe.optimiser, step, 3) for step in range(3)])
    assert fit(tmp_path / "data", tmp_path / "short", recipe, "cpu", 4).step == 4
    assert recipe.ending_at(None) == recipe.ending_at(50) == recipe.ending_at(99) == recipe


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under a minute"),
        (29, "under a minute"),
        (31, "about 1 min"),
        (5340, "about 89 min"),
        (9000, "about 2 h 30 min"),
    ],
)
def test_what_is_left_is_told_as_a_person_would(seconds, words):
    assert duration_text(seconds) == words
