"""Archives of research: what PDDCA and open-kbp hold is read, or said."""

from __future__ import annotations

import numpy as np
import pytest

from contourd.errors import DatasetError
from tests.archives import GRID, found, head, write_csv, write_nrrd, write_pddca
from trainer.curation.discovery import parse_sources
from trainer.curation.openkbp import read_patient as read_csv
from trainer.curation.pddca import read_patient as read_pddca


@pytest.mark.parametrize("space", ["left-posterior-superior", "right-anterior-superior"])
@pytest.mark.parametrize("flip", [(), (0,), (1, 2), (0, 1, 2)])
def test_pddca(tmp_path, space, flip):
    write_pddca(tmp_path / "0522c0001", space=space, flip=flip)
    items, refused = found(tmp_path)
    assert refused == []
    raw = read_pddca(items[0])
    volume, masks = head()
    assert np.array_equal(raw.volume.hu, volume.hu)
    assert np.allclose(raw.volume.grid.slice_origins_mm, GRID.slice_origins_mm)
    assert np.array_equal(raw.masks["Parotid_L"], masks["Parotid_L"])
    assert raw.masks.keys() == {"BrainStem", "Chiasm", "Parotid_L", "Parotid_R"}


def test_pddca_with_odd_files(tmp_path):
    folder = tmp_path / "0522c0001"
    write_pddca(folder)
    write_nrrd(
        folder / "structures" / "Mandible.nrrd", np.zeros((20, 20, 20), dtype=np.uint8), "left-posterior-superior"
    )
    (folder / "structures" / "OpticNerve_L.nrrd").write_bytes(b"NRRD0004\n rubbish")
    raw = read_pddca(found(tmp_path)[0][0])
    assert raw.masks.keys() == {"BrainStem", "Chiasm", "Parotid_L", "Parotid_R"}
    assert "does not lie on the image's grid" in raw.remarks["Mandible"][0]
    assert "OpticNerve_L" in raw.remarks


def test_labels_that_may_be_several_organs_or_lie_on_other_pixels_are_unknown_and_told(tmp_path):
    import nrrd

    folder = tmp_path / "0522c0001"
    write_pddca(folder)
    masks = head()[1]
    both = masks["Parotid_L"].astype(np.uint8) + 2 * masks["Parotid_R"]
    write_nrrd(folder / "structures" / "Parotid_L.nrrd", both, "left-posterior-superior")
    write_nrrd(
        folder / "structures" / "Parotid_R.nrrd", 255 * masks["Parotid_R"].astype(np.uint8), "left-posterior-superior"
    )
    array, header = nrrd.read(str(folder / "structures" / "BrainStem.nrrd"))
    header["space directions"] = np.diag([4.2, 4.0, 3.0])
    nrrd.write(str(folder / "structures" / "BrainStem.nrrd"), array, header)
    raw = read_pddca(found(tmp_path)[0][0])
    assert raw.masks.keys() == {"Chiasm", "Parotid_R"}
    assert np.array_equal(raw.masks["Parotid_R"], masks["Parotid_R"])
    assert raw.remarks == {
        "BrainStem": ["BrainStem.nrrd does not lie on the image's grid"],
        "Parotid_L": ["Parotid_L.nrrd has 2 values beside 0, and may hold several organs"],
    }


@pytest.mark.parametrize("array", [np.zeros((3, 4, 5, 6), dtype=np.int16), np.zeros((5, 6), dtype=np.int16)])
def test_an_image_that_is_no_volume_is_refused(tmp_path, array):
    import nrrd

    folder = tmp_path / "0522c0001"
    write_pddca(folder)
    nrrd.write(str(folder / "img.nrrd"), array)
    with pytest.raises(DatasetError):
        read_pddca(found(tmp_path)[0][0])


def test_an_oblique_image_is_refused(tmp_path):
    import nrrd

    folder = tmp_path / "0522c0001"
    write_pddca(folder)
    turned = [[4.0, 0.5, 0.0], [-0.5, 4.0, 0.0], [0.0, 0.0, 3.0]]
    header = {"space": "left-posterior-superior", "space directions": turned, "space origin": [0.0, 0.0, 0.0]}
    nrrd.write(str(folder / "img.nrrd"), np.zeros((8, 8, 8), dtype=np.int16), header)
    with pytest.raises(DatasetError, match="oblique"):
        read_pddca(found(tmp_path)[0][0])


def test_openkbp_csv(tmp_path):
    write_csv(tmp_path / "train-pats" / "pt_1")
    items, refused = found(tmp_path)
    assert (refused, items[0].splits, items[0].patient) == ([], ("train",), "pt_1")
    raw = read_csv(items[0])
    volume, masks = head()
    corner = [(128 - n) // 2 for n in GRID.shape]
    box = tuple(slice(c, c + n) for c, n in zip(corner, GRID.shape, strict=True))
    assert np.array_equal(raw.volume.hu[box], volume.hu)
    assert np.array_equal(raw.masks["LeftParotid"][box], masks["Parotid_L"])
    assert raw.masks["RightParotid"].sum() == masks["Parotid_R"].sum()
    assert raw.volume.grid.spacing_mm == (3.0, 4.0, 4.0)


def test_a_voxel_that_is_listed_with_0_is_none_of_the_organ(tmp_path):
    write_csv(tmp_path / "pt_1")
    path = tmp_path / "pt_1" / "Brainstem.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join([lines[0], *(line + "1.0" for line in lines[1:-3]), *(line + "0" for line in lines[-3:])])
    )
    assert read_csv(found(tmp_path)[0][0]).masks["Brainstem"].sum() == head()[1]["Brainstem"].sum() - 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ct.csv", ",data\n5,abc\n"),
        ("ct.csv", ",data\n2097152,5.0\n"),
        ("Brainstem.csv", ",data\n-1,\n"),
        ("ct.csv", "garbage"),
        ("voxel_dimensions.csv", "4.0\n4.0\n"),
        ("voxel_dimensions.csv", "4.0\n4.0\n-3.0\n"),
    ],
)
def test_csv_that_is_damaged_is_refused(tmp_path, name, text):
    write_csv(tmp_path / "pt_1")
    (tmp_path / "pt_1" / name).write_text(text)
    with pytest.raises(DatasetError):
        read_csv(found(tmp_path)[0][0])


def test_sources_have_names_of_their_own(tmp_path):
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data").mkdir(parents=True)
    assert [s.name for s in parse_sources([f"north={tmp_path}/a/data", f"{tmp_path}/b/data"])] == ["north", "data"]
    with pytest.raises(DatasetError, match="two sources are called data"):
        parse_sources([f"{tmp_path}/a/data", f"{tmp_path}/b/data"])
    with pytest.raises(DatasetError, match="is no folder"):
        parse_sources([f"{tmp_path}/c"])
