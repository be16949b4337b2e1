"""One item of an archive becomes a case: whose labels are whose, and what is unknown."""

from __future__ import annotations

import numpy as np

from tests.archives import ball, head
from trainer.case import Annotation, Case, read_case, write_case
from trainer.curation.archive import Item, Kind
from trainer.curation.conversion import ConversionOptions, case_file, convert


def test_two_organs_of_a_case_that_the_review_file_takes_for_one_must_agree(tmp_path):
    volume, masks = head()
    masks = {**masks, "Eye_L": masks["Brainstem"], "Eye_R": ball((30, 20, 20), 2)}
    said = {**dict.fromkeys(masks, Annotation.PRESENT), "Larynx": Annotation.ABSENT, "Lens_L": Annotation.UNKNOWN}
    write_case(Case("one", volume, masks, said, "clinic"), tmp_path / "one.npz")
    item = Item("clinic", "one", Kind.CASE, (tmp_path / "one.npz",), (), "one", (), tuple(sorted(said)))
    organs = {name: name for name in said} | {"Eye_L": "Brainstem", "Eye_R": "Parotid_L"}
    folder = tmp_path / "work"
    folder.mkdir()
    made = convert(ConversionOptions(item, "one", organs, keep_chest=True, folder=folder))
    assert made.remarks == (
        "Parotid_L: two structures are taken for it and differ; it is unknown until names.toml decides",
    )
    case = read_case(case_file(folder, "one"))
    assert case.annotations == {
        **dict.fromkeys(("Brainstem", "Parotid_R", "SpinalCord"), Annotation.PRESENT),
        "Larynx": Annotation.ABSENT,
    }
    assert np.array_equal(case.masks["Brainstem"], masks["Brainstem"])
