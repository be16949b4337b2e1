"""The shipped model's contours are the same with a couch and without; docs/bodies/README.md has all objects."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.acceptance.reference_patient import load_reference
from contourd.imaging.grid import Grid
from contourd.imaging.volume import AIR_HU, Volume
from contourd.model.bundle import load_bundle
from contourd.model.kinds import predictor_for
from contourd.model.predictor import Prediction, Predictor
from tests.couches import with_object


@pytest.fixture(scope="module")
def clean() -> Volume:
    """The reference patient at 2.5 mm in a field of view with room for a couch."""
    hu = np.pad(load_reference().volume.hu, ((0, 0), (50, 50), (12, 12)), constant_values=AIR_HU)
    return Volume(Grid.regular(hu.shape, (2.5, 2.5, 2.5)), hu)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_for(load_bundle("hn7"), "cpu")


@pytest.fixture(scope="module")
def alone(clean: Volume, predictor: Predictor) -> Prediction:
    return predictor.predict(clean)


@pytest.mark.parametrize("name", ["head rest", "mask with frame"])
def test_the_contours_are_the_same_with_and_without(name, clean, predictor, alone) -> None:
    beside = predictor.predict(with_object(clean, name))
    for organ in alone.structures:
        one, other = (prediction.mask(organ).on(clean.grid.shape) for prediction in (alone, beside))
        assert one.any()
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= 0.99, organ
