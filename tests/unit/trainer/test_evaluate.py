"""An evaluation: through the structure set, statistics by hand, pictures, reports, and going on after a stop."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest

from contourd.errors import DatasetError
from contourd.imaging.volume import Volume
from contourd.model.bundle import load_bundle, save_bundle
from contourd.model.kinds import predictor_for
from contourd.model.plausibility import OrganGeometry, distribution_of
from contourd.model.predictor import Predictor
from tests.bright import BALL_CC, phantom
from tests.training import TRUTH, ball
from trainer.case import Annotation, Case, write_case
from trainer.evaluation.card import bounds, write_card
from trainer.evaluation.evaluate import CASES, Results, evaluate, evaluate_case, run_evaluation
from trainer.evaluation.figures import GREEN, OPACITY, RED, WINDOW_HU, YELLOW, largest_slice, overlay
from trainer.evaluation.results import CaseResult, OrganOutcome, OrganResult, mean_of_means, spread, statistics


@pytest.fixture
def predictor(bright_bundle) -> Predictor:
    return predictor_for(load_bundle(bright_bundle), "cpu")


def test_it_goes_through_the_structure_set(predictor):
    compared = evaluate_case(ball(), predictor)
    brainstem, cord = compared.result.organ("Brainstem"), compared.result.organ("SpinalCord")
    assert brainstem.outcome is OrganOutcome.FOUND
    assert brainstem.dice > 0.9
    assert brainstem.hausdorff_95_mm < 5
    assert brainstem.islands == 0
    assert (cord.outcome, cord.dice, cord.hausdorff_95_mm) == (OrganOutcome.MISSED, 0, None)
    assert compared.result.organ("Larynx") is None  # the model does not know it
    assert compared.masks.keys() == {"Brainstem"}


def test_an_organ_outside_of_the_field_of_view(predictor):
    said = {"Brainstem": Annotation.ABSENT, "SpinalCord": Annotation.ABSENT}
    result = evaluate_case(Case("p1", phantom(), {}, said), predictor).result
    assert result.organ("Brainstem").outcome is OrganOutcome.INVENTED
    assert result.organ("SpinalCord").outcome is OrganOutcome.ABSENT
    assert result.organ("SpinalCord").dice is None


def test_a_series_that_is_held_scores_nothing(predictor):
    volume = phantom()
    case = Case("p1", Volume(volume.grid, np.full_like(volume.hu, -1000)), ball().masks, TRUTH)
    result = evaluate_case(case, predictor).result
    assert "no patient" in result.held
    assert [(o.outcome, o.dice) for o in result.organs] == [(OrganOutcome.HELD, 0)] * 2


def test_a_series_with_nothing_recognised_is_held(bright_bundle, tmp_path):
    bundle = load_bundle(bright_bundle)
    cases = [
        [
            OrganGeometry("Brainstem", 1000 * BALL_CC, (0, 0, 0), cut=False),
            OrganGeometry("SpinalCord", 20, (0, 0, -200), cut=False),
        ]
        for _ in range(10)
    ]
    fields = bundle.config.model_dump(mode="json")
    fields["distribution"] = {n: s.model_dump(mode="json") for n, s in distribution_of(cases).items()}
    other = predictor_for(save_bundle(tmp_path / "other", fields, bundle.network()), "cpu")
    result = evaluate_case(ball(), other).result
    # One organ that is unlike its training set leaves nothing that is recognised: the series is held.
    assert "does not look like a head and neck" in result.held


def organ(dice: float | None, outcome: OrganOutcome = OrganOutcome.FOUND, **more) -> OrganResult:
    return OrganResult(name=more.pop("name", "X"), outcome=outcome, dice=dice, **more)


def case(identifier: str, *organs: OrganResult) -> CaseResult:
    return CaseResult(identifier=identifier, organs=organs)


def test_statistics_by_hand():
    results = [
        case("a", organ(0.2, hausdorff_95_mm=9.0, islands=1), organ(1.0, name="Y")),
        case("b", organ(0.6, hausdorff_95_mm=3.0)),
        case("c", organ(0.7, hausdorff_95_mm=3.0), organ(None, OrganOutcome.ABSENT, name="Y")),
        case("d", organ(0.0, OrganOutcome.WITHHELD), organ(0.0, OrganOutcome.INVENTED, name="Y")),
    ]
    summary = statistics(results)
    x, y = summary.organs
    assert (x.cases, x.found, x.withheld, x.islands, x.failures) == (4, 3, 1, 1, 0.5)
    assert x.dice.mean == pytest.approx(1.5 / 4)
    assert (x.dice.median, x.dice.least, x.dice.most) == (pytest.approx(0.4), 0, 0.7)
    assert (x.hausdorff_95_mm.cases, x.hausdorff_95_mm.mean) == (3, 5.0)
    assert (y.cases, y.dice.mean, y.dice.low, y.invented) == (1, 1.0, None, 1)
    assert x.dice.low < x.dice.mean < x.dice.high


def test_the_mean_is_over_the_organs_means():
    scores = np.array([[0.2, 1.0, math.nan], [0.6, math.nan, math.nan], [0.7, math.nan, math.nan]])
    assert mean_of_means(scores) == pytest.approx((0.5 + 1.0) / 2)
    assert math.isnan(mean_of_means(scores[:, 2:]))


def test_the_interval_of_two_values_reaches_from_one_to_the_other():
    """Half of all resamples of two values are one of them twice: the 95 % interval is the whole range."""
    found = spread([0.2, 0.8, None])
    assert (found.low, found.high, found.cases) == (pytest.approx(0.2), pytest.approx(0.8), 2)
    same = spread([0.5, 0.5, 0.5])
    assert (same.low, same.high) == (0.5, 0.5)


def test_colours_of_an_overlay():
    low, high = WINDOW_HU
    plane = np.array([[low, low, low, low, high]], dtype=np.int16)
    truth = np.array([[False, True, False, True, False]])
    predicted = np.array([[False, False, True, True, False]])
    picture = overlay(plane, truth, predicted)
    np.testing.assert_allclose(picture[0, 0], 0)
    for column, colour in ((1, GREEN), (2, RED), (3, YELLOW)):
        np.testing.assert_allclose(picture[0, column], OPACITY * np.array(colour))
    np.testing.assert_allclose(picture[0, 4], 1)


def test_the_slice_of_the_largest_area():
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[1, 0, :2] = mask[3, 1:3, 3:5] = True
    assert [largest_slice(mask, axis) for axis in range(3)] == [3, 0, 3]
    assert largest_slice(np.zeros((4, 5, 6), dtype=bool), 0) == 2


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset" / "validation"
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        write_case(ball(name), folder / f"{name}.npz")
    return folder.parent


def test_a_report_and_going_on_after_a_stop(bright_bundle, dataset, tmp_path, capsys):
    output = tmp_path / "report"
    bundle = load_bundle(bright_bundle)
    results = Results(output / CASES, bundle)
    first = evaluate(bundle, dataset / "validation", results)
    stopped_after = next(first)
    first.close()
    assert stopped_after.identifier == "a"
    stamp = (output / CASES / "a.json").stat().st_mtime_ns

    run_evaluation(str(bright_bundle), dataset, output, device="cpu")
    assert (output / CASES / "a.json").stat().st_mtime_ns == stamp
    printed = capsys.readouterr().out
    assert re.search(r"^Brainstem +2  0\.9", printed, re.M)
    report = json.loads((output / "report.json").read_text())
    assert report["schema_version"] == 1
    assert report["bundle_sha256"] == bundle.sha256
    assert [c["identifier"] for c in report["cases"]] == ["a", "b"]
    assert report["summary"]["organs"][0]["name"] == "Brainstem"
    page = (output / "report.html").read_text()
    assert "SpinalCord" in page
    assert "nothing was drawn" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # it needs no network
    assert page.count("data:image/png;base64,") == 3 + 2 * 3  # best, median and worst of each organ
    assert "| Brainstem | 2 |" in (output / "CARD.md").read_text()


def test_another_model_s_report_is_not_continued(bright_bundle, dataset, tmp_path):
    output = tmp_path / "report"
    bundle = load_bundle(bright_bundle)
    list(evaluate(bundle, dataset / "validation", Results(output / CASES, bundle)))
    fields = {**bundle.config.model_dump(mode="json"), "version": "other"}
    other = save_bundle(tmp_path / "other", fields, bundle.network())
    with pytest.raises(DatasetError, match="another model"):
        run_evaluation(str(other.folder), dataset, output, device="cpu")


def test_a_changed_case_is_measured_again(bright_bundle, dataset, tmp_path):
    bundle = load_bundle(bright_bundle)
    results = Results(tmp_path / "kept", bundle)
    path = dataset / "validation" / "a.npz"
    results.keep(path, evaluate_case(ball("a"), predictor_for(bundle, "cpu")))
    assert results.find(path) is not None
    shifted = ball("a")
    write_case(
        Case("a", shifted.volume, {"Brainstem": shifted.masks["Brainstem"]}, {"Brainstem": TRUTH["Larynx"]}), path
    )
    assert results.find(path) is None
    (tmp_path / "kept" / "a.json").write_text("{")
    assert results.find(path) is None


def test_a_card_keeps_what_was_written_by_hand(bright_bundle, tmp_path):
    bundle = load_bundle(shutil.copytree(bright_bundle, tmp_path / "bundle"))
    (bundle.folder / "notes.md").write_text("## Data\nCords of 500 cc & <more>.\n")
    write_card(tmp_path / "CARD.md", bundle, None, "validation")
    card = (tmp_path / "CARD.md").read_text()
    assert "Cords of 500 cc & <more>." in card
    assert "Not evaluated" in card
    assert bundle.config.weights_sha256 in card


def test_limits_in_words():
    assert bounds(None, "mm") == bounds((None, None), "mm") == "not limited"
    assert bounds((18.0, 120.0), "years") == "18 to 120 years"
    assert (bounds((None, 3.0), "mm"), bounds((0.5, None), "mm")) == ("up to 3 mm", "from 0.5 mm")
