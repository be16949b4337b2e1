"""One series on disk -> a structure set that was read back, with a network whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pydicom
import pytest

from contourd.contour.contouring import ContouringOptions, contour_series
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series, gate
from contourd.dicom.rtstruct.reader import rasterise, read_structure_set
from contourd.errors import OrgansRejected, OutsideLimits, SeriesUnusable, StructureSetRejected
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement
from contourd.model.anatomynet import AnatomyNet, AnatomyNetConfig
from contourd.model.bundle import ModelBundle, load_bundle, save_bundle
from contourd.model.kinds import predictor_for
from contourd.model.lattice_predictor import LatticePredictor
from contourd.model.plausibility import OrganGeometry, distribution_of
from contourd.model.predictor import Predictor, RunOptions
from contourd.model.runtime import choose_device
from contourd.model.runtime_description import RuntimeDescription
from contourd.profiles import PROFILES, STRICT
from contourd.reasons.catalogue import HoldReason
from contourd.settings import PlausibilitySettings
from tests.bright import BALL_CC, phantom


@pytest.fixture
def predictor(bright_bundle) -> Predictor:
    return predictor_for(load_bundle(bright_bundle), "cpu")


def written(folder, volume: Volume):
    (instances,) = find_series(write_ct_series(volume, folder, SeriesIdentity("p1", "A^B"))).values()
    return instances


def test_what_is_bright_becomes_the_organ(tmp_path, predictor):
    stages = []
    instances = written(tmp_path, phantom())
    contoured = contour_series(instances, predictor, progress=lambda stage, fraction: stages.append((stage, fraction)))
    volumes = {roi.name: roi.volume_cc for roi in contoured.structures.rois}
    assert volumes["Brainstem"] == pytest.approx(BALL_CC, rel=0.12)
    assert volumes["SpinalCord"] == 0
    (roi,) = read_structure_set(contoured.dataset)
    assert roi.name == "Brainstem"
    mask = rasterise(roi.contours, gate(instances).grid)
    np.testing.assert_array_equal(mask, contoured.masks["Brainstem"].on(mask.shape))
    assert [stage for stage, fraction in stages if fraction == 1.0] == ["read", "prepare", "contour", "trace", "write"]


def test_the_same_job_gives_the_same_bytes(tmp_path, predictor):
    instances = written(tmp_path, phantom())
    files = []
    for order in (instances, instances[::-1]):
        contour_series(order, predictor).dataset.save_as(tmp_path / "rt.dcm", enforce_file_format=True)
        files.append((tmp_path / "rt.dcm").read_bytes())
    assert files[0] == files[1]


def test_another_revision_is_another_structure_set(tmp_path, predictor):
    instances = written(tmp_path, phantom())
    one, two = (contour_series(instances, predictor, ContouringOptions(revision)).dataset for revision in (1, 2))
    assert one.SOPInstanceUID != two.SOPInstanceUID


def test_nothing_found_is_refused(tmp_path, predictor):
    volume = phantom()
    dark = Volume(volume.grid, np.minimum(volume.hu, 40).astype(np.int16))
    with pytest.raises(StructureSetRejected, match="no organ was found"):
        contour_series(written(tmp_path, dark), predictor)


def test_what_a_second_reader_refuses_is_no_result(tmp_path, predictor, monkeypatch):
    def refuse(dataset, _):
        raise StructureSetRejected(
            HoldReason.SECOND_READER_FINDS_NOTHING, rois=dataset.StructureSetROISequence[0].ROIName
        )

    monkeypatch.setattr("contourd.contour.products.check_with_second_reader", refuse)
    instances = written(tmp_path, phantom())
    contour_series(instances, predictor)
    with pytest.raises(StructureSetRejected, match="finds nothing of Brainstem"):
        contour_series(instances, predictor, ContouringOptions(second_reader=True))


def test_no_patient_is_refused(tmp_path, predictor):
    volume = phantom()
    with pytest.raises(SeriesUnusable, match="no patient"):
        contour_series(written(tmp_path, Volume(volume.grid, np.full_like(volume.hu, -1000))), predictor)


def test_nothing_of_the_input_is_changed(tmp_path, predictor):
    instances = written(tmp_path, phantom())
    before = {i.path: i.path.read_bytes() for i in instances}
    contour_series(instances, predictor)
    assert {path: path.read_bytes() for path in before} == before
    assert pydicom.dcmread(instances[0].path).Modality == "CT"


def test_a_small_organ_between_coarse_voxels_is_kept(tmp_path, predictor):
    """A ball of 12 mm on a fine grid: smaller than four voxels of the network's lattice."""
    grid = Grid.regular((40, 200, 200), (2.0, 1.0, 1.0), (-100.0, -100.0, 0.0))
    z, y, x = np.indices(grid.shape)
    hu = np.where(((x - 100) / 75) ** 2 + ((y - 100) / 90) ** 2 <= 1, 40, -1000)
    hu[(x - 100) ** 2 + (y - 100) ** 2 + (2 * z - 40) ** 2 <= 6**2] = 1500
    contoured = contour_series(written(tmp_path, Volume(grid, hu.astype(np.int16))), predictor)
    (organ,) = [r for r in contoured.structures.rois if r.contours]
    centre = np.concatenate([c.points_mm for c in organ.contours]).mean(axis=0)
    np.testing.assert_allclose(centre, [0, 0, 40], atol=1.0)


def changed(bundle_folder, tmp_path, **fields) -> Predictor:
    """The same network in a bundle with other limits, or another distribution."""
    bundle = load_bundle(bundle_folder)
    config = {**bundle.config.model_dump(mode="json"), **fields}
    return predictor_for(save_bundle(tmp_path / "changed", config, bundle.network()), "cpu")


def distribution_with(volume_cc: float) -> dict[str, object]:
    """A training set in which the brainstem has this volume, and the spinal cord lies far from it."""
    cases = [
        [
            OrganGeometry("Brainstem", volume_cc, (0, 0, 0), cut=False),
            OrganGeometry("SpinalCord", 20, (0, 0, -200), cut=False),
        ]
        for _ in range(10)
    ]
    return {name: spread.model_dump(mode="json") for name, spread in distribution_of(cases).items()}


def test_out_of_the_limits_is_held_until_a_person_answers_for_it(bright_bundle, tmp_path):
    predictor = changed(bright_bundle, tmp_path, limits={"slice_spacing_mm": [None, 2.5]})
    instances = written(tmp_path / "ct", phantom())
    with pytest.raises(OutsideLimits, match=r"slices are 3\.00 mm apart, the model is for at most 2\.5.*--override"):
        contour_series(instances, predictor)
    released = contour_series(instances, predictor, ContouringOptions(override="seen by the physicist (mp)"))
    assert "released: seen by the physicist (mp) (slices are 3.00 mm apart" in released.dataset.StructureSetDescription
    assert released.remarks.text().startswith("outside the model's limits, released: seen by")


def test_no_head_and_neck_is_held(bright_bundle, tmp_path):
    predictor = changed(bright_bundle, tmp_path, distribution=distribution_with(BALL_CC * 10))
    instances = written(tmp_path / "ct", phantom())
    with pytest.raises(SeriesUnusable, match=r"does not look like a head and neck.*are: none; check what was scanned"):
        contour_series(instances, predictor)


@pytest.mark.parametrize(("verdict", "label"), [("send", "Brainstem"), ("flag", "CHECK"), ("withhold", None)])
def test_an_implausible_organ(bright_bundle, tmp_path, verdict, label):
    predictor = changed(bright_bundle, tmp_path, distribution=distribution_with(BALL_CC * 10))
    instances = written(tmp_path / "ct", phantom())
    order = ContouringOptions(plausibility=PlausibilitySettings(volume=verdict), override="a phantom (mp)")
    if label is None:
        with pytest.raises(StructureSetRejected, match=r"every organ that was found is withheld \(Brainstem: volume 4"):
            contour_series(instances, predictor, order)
        return
    contoured = contour_series(instances, predictor, order)
    (observation,) = contoured.dataset.RTROIObservationsSequence
    assert observation.ROIObservationLabel == label
    assert ("check: Brainstem (volume 4" in contoured.dataset.StructureSetDescription) == (verdict == "flag")
    assert ("volume 4" in observation.get("ROIObservationDescription", "")) == (verdict == "flag")
    assert contoured.remarks.text().startswith("check: Brainstem (volume 4") == (verdict == "flag")


class OnEverySecond(LatticePredictor):
    """A predictor whose network finds the organ on the first lattice, and nothing on the second."""

    asked = 0

    def probabilities(self, image):
        self.asked += 1
        found = super().probabilities(image)
        return found if self.asked % 2 else np.zeros_like(found)


@pytest.mark.parametrize("verdict", ["withhold", "flag"])
def test_an_organ_that_one_lattice_alone_finds_is_named(bright_bundle, tmp_path, verdict):
    bundle = changed(bright_bundle, tmp_path, half_voxel=True).bundle
    order = ContouringOptions(plausibility=PlausibilitySettings(agreement=verdict))
    with pytest.raises(StructureSetRejected) as held:
        contour_series(
            written(tmp_path / "ct", phantom()), OnEverySecond(bundle, RunOptions(choose_device("cpu"))), order
        )
    assert ("withheld (Brainstem: its lattices disagree: 1 of 2 found it)" in str(held.value)) == (
        verdict == "withhold"
    )


def test_a_head_beside_the_box_is_held_until_a_person_answers_for_it(bright_bundle, tmp_path):
    predictor = changed(bright_bundle, tmp_path, preprocess={"half_width_mm": 16.0})
    instances = written(tmp_path / "ct", phantom())
    with pytest.raises(SeriesUnusable, match=r"^\d+% of the head lie beside the 32 mm around its middle") as held:
        contour_series(instances, predictor)
    assert held.value.reason.held_as == "not_head_and_neck"
    assert contour_series(instances, predictor, ContouringOptions(override="seen (mp)")).structures.rois


def test_each_profile_has_a_structure_set_of_its_own(tmp_path, predictor):
    renamed = replace(PROFILES["eclipse"], names={"Brainstem": "Hirnstamm"}, label="ENTWURF")
    instances = written(tmp_path, phantom())
    strict, eclipse = contour_series(instances, predictor, ContouringOptions(profiles=(STRICT, renamed))).datasets
    assert strict.SOPInstanceUID != eclipse.SOPInstanceUID
    assert strict.SOPInstanceUID == contour_series(instances, predictor).dataset.SOPInstanceUID
    assert (strict.StructureSetLabel, eclipse.StructureSetLabel) == ("AI-HN DRAFT", "ENTWURF")
    assert [item.ROIName for item in eclipse.StructureSetROISequence] == ["Hirnstamm"]
    point = eclipse.ROIContourSequence[0].ContourSequence[0].ContourData[0]
    assert len(str(point.original_string).split(".")[1]) == 2
    colours = [list(ds.ROIContourSequence[0].ROIDisplayColor) for ds in (strict, eclipse)]
    assert colours[0] == colours[1]


def test_a_hollow_organ_as_keyhole_and_as_loops_of_their_own(tmp_path, predictor):
    volume = phantom()
    z, y, x = (axis * step for axis, step in zip(np.indices(volume.hu.shape), (3.0, 4.0, 4.0), strict=True))
    hollow = np.where((x - 146) ** 2 + (y - 126) ** 2 + (z - 36) ** 2 <= 12**2, 40, volume.hu)
    instances = written(tmp_path, Volume(volume.grid, hollow.astype(np.int16)))
    order = ContouringOptions(profiles=(STRICT, replace(STRICT, holes="xor")))
    contoured = contour_series(instances, predictor, order)
    types = [{c.ContourGeometricType for c in ds.ROIContourSequence[0].ContourSequence} for ds in contoured.datasets]
    assert types == [{"CLOSED_PLANAR"}, {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}]
    loops = [len(ds.ROIContourSequence[0].ContourSequence) for ds in contoured.datasets]
    assert loops[1] > loops[0]
    grid = gate(instances).grid
    for dataset in contoured.datasets:
        (roi,) = read_structure_set(dataset)
        np.testing.assert_array_equal(rasterise(roi.contours, grid), contoured.masks["Brainstem"].on(grid.shape))
    assert not contoured.masks["Brainstem"].on(grid.shape)[12, 31, 36]


@dataclass(frozen=True)
class TwoTubes:
    """What a network would answer: a brainstem of sixteen voxels on each of ten slices, and a cord of ten voxels.

    The last two voxels of the cord have a probability of 0.501: what they are outlined by is too small to be drawn.
    """

    bundle: ModelBundle
    structures = ("Brainstem", "SpinalCord")
    beyond = 0.0

    @property
    def runtime(self):
        return self

    @property
    def description(self):
        return RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2)

    def compared(self, name):
        return *self.restored(name), LatticeAgreement(1.0, 1, 1, 0.0)

    def predict(self, _volume, _progress=None):
        return self

    def midline_mm(self):
        return None

    def restored(self, name):
        box = (slice(2, 12), slice(4, 8), slice(4, 8))
        values = np.zeros((10, 4, 4), dtype=np.float32)
        if name == "Brainstem":
            return box, values + np.float32(0.9)
        values[:8, 1, 1], values[8:, 1, 1] = 0.9, 0.501
        return box, values


def test_an_organ_that_does_not_read_back_is_withheld_by_name(tmp_path, bright_bundle):
    on = Grid.regular((18, 16, 16), (3.0, 4.7, 4.7), (-35.0, -35.0, 0.0))
    volume = Volume(on, np.full(on.shape, 40, dtype=np.int16))
    two = TwoTubes(load_bundle(bright_bundle))
    contoured = contour_series(
        written(tmp_path, volume), two, ContouringOptions(profiles=(STRICT, PROFILES["eclipse"]))
    )
    for dataset in contoured.datasets:
        assert [roi.name for roi in read_structure_set(dataset)] == ["Brainstem"]
        assert "withheld: SpinalCord (reads back with Dice 0.8889: 2 voxels differ" in dataset.StructureSetDescription
    assert contoured.remarks.withheld == {
        "SpinalCord": "reads back with Dice 0.8889: 2 voxels differ, of 10 on its surface at most 1 may"
    }


def test_an_organ_of_which_a_second_reader_finds_nothing_is_withheld_by_name(tmp_path, bright_bundle, monkeypatch):
    def refuse(dataset, _):
        if "SpinalCord" in {roi.ROIName for roi in dataset.StructureSetROISequence}:
            raise OrgansRejected(HoldReason.ORGANS_DIFFER, organs={"SpinalCord": "rt-utils finds nothing of it"})

    monkeypatch.setattr("contourd.contour.products.check_with_second_reader", refuse)
    monkeypatch.setattr(TwoTubes, "restored", lambda _, name: whole_tube(name))
    on = Grid.regular((18, 16, 16), (3.0, 4.7, 4.7), (-35.0, -35.0, 0.0))
    volume = Volume(on, np.full(on.shape, 40, dtype=np.int16))
    order = ContouringOptions(second_reader=True)
    contoured = contour_series(written(tmp_path, volume), TwoTubes(load_bundle(bright_bundle)), order)
    assert contoured.remarks.withheld == {"SpinalCord": "rt-utils finds nothing of it"}
    assert [roi.name for roi in read_structure_set(contoured.dataset)] == ["Brainstem"]


def whole_tube(name):
    start = 2 if name == "Brainstem" else 9
    return (slice(2, 12), slice(start, start + 4), slice(4, 8)), np.full((10, 4, 4), 0.9, dtype=np.float32)


@dataclass(frozen=True)
class Parotids(TwoTubes):
    """Parotids of a patient whose middle is x = 0: the left one at negative x is on the right."""

    exchanged: bool = False
    structures = ("Parotid_L", "Parotid_R", "Brainstem")

    def midline_mm(self):
        return 0.0

    def restored(self, name):
        start = {"Parotid_L": 1 if self.exchanged else 11, "Parotid_R": 11 if self.exchanged else 1, "Brainstem": 6}
        return (slice(2, 12), slice(4, 8), slice(start[name], start[name] + 4)), np.full((10, 4, 4), 0.9, np.float32)


@pytest.mark.parametrize("exchanged", [False, True])
def test_sides_are_judged_without_a_training_set(tmp_path, bright_bundle, exchanged):
    """Nothing but the patient and the other organs is needed, and that the rest is not compared is told."""
    config = {**load_bundle(bright_bundle).config.model_dump(mode="json"), "pairs": None}
    config["model"]["structures"] = ["Parotid_L", "Parotid_R", "Brainstem"]
    bundle = save_bundle(tmp_path / "parotids", config, AnatomyNet(AnatomyNetConfig.model_validate(config["model"])))
    on = Grid.regular((18, 16, 16), (3.0, 4.7, 4.7), (-35.0, -35.0, 0.0))
    volume = Volume(on, np.full(on.shape, 40, dtype=np.int16))
    contoured = contour_series(written(tmp_path, volume), Parotids(bundle, exchanged))
    drawn = {roi.name for roi in read_structure_set(contoured.dataset)}
    told = "not commissioned: the model does not know the usual size and place of any organ, only sides are checked"
    assert told in contoured.dataset.StructureSetDescription
    assert contoured.remarks.text().startswith(told)
    assert drawn == ({"Brainstem"} if exchanged else {"Parotid_L", "Parotid_R", "Brainstem"})
    assert set(contoured.remarks.withheld) == ({"Parotid_L", "Parotid_R"} if exchanged else set())
