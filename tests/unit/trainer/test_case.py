"""How a training case is kept on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contourd.errors import DatasetError
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from trainer.case import Annotation, Case, read_case, write_case


def example(organs: int = 2) -> Case:
    """Feet first, prone, with one slice missing, so that nothing of the grid is a default."""
    origins = np.array([[10.0, 20.0, -z] for z in (0.0, 2.5, 5.0, 10.0)])
    grid = Grid((4, 3, 5), (1.25, 0.75), origins, (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    hu = np.arange(60, dtype=np.int16).reshape(4, 3, 5) * 40 - 1000
    masks = {f"Organ{i:02d}": hu % (i + 2) == 0 for i in range(organs)}
    said = {**dict.fromkeys(masks, Annotation.PRESENT), "Larynx": Annotation.ABSENT, "Lips": Annotation.UNKNOWN}
    return Case("a", Volume(grid, hu), masks, said, "clinic")


@pytest.mark.parametrize("organs", [0, 2, 9, 64])
def test_a_case_is_read_as_it_was_written(tmp_path, organs):
    case = example(organs)
    write_case(case, tmp_path / "a.npz")
    read = read_case(tmp_path / "a.npz")
    assert (read.identifier, read.source, read.annotations) == ("a", "clinic", case.annotations)
    assert read.volume.hu.dtype == np.int16
    np.testing.assert_array_equal(read.volume.hu, case.volume.hu)
    assert read.masks.keys() == case.masks.keys()
    for name, mask in case.masks.items():
        np.testing.assert_array_equal(read.masks[name], mask)
    index = np.array([[0.0, 0, 0], [3, 2, 4], [2.5, 1, 1]])
    np.testing.assert_array_equal(read.volume.grid.to_patient(index), case.volume.grid.to_patient(index))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_too_many_organs(tmp_path):
    with pytest.raises(DatasetError, match="65 organs"):
        write_case(example(65), tmp_path / "a.npz")


def test_masks_and_what_is_said_must_agree(tmp_path):
    path = tmp_path / "a.npz"
    write_case(example(), path)
    with np.load(path) as arrays:
        content = dict(arrays)
    content["annotations"] = np.array(json.dumps({"Organ00": "present", "Organ01": "absent"}))
    np.savez(path, **content)
    with pytest.raises(DatasetError, match="Organ01"):
        read_case(path)
    content["bits"] = content["bits"][1:]
    np.savez(path, **content)
    with pytest.raises(DatasetError, match="do not fit"):
        read_case(path)
