"""Several models, one structure set: who draws what, who is told, and what becomes of one that fails."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contourd.contour.contouring import ContouringOptions, contour_series
from contourd.contour.drawing import ModelInTurn, ModelsInTurn
from contourd.dicom.ct_write import SeriesIdentity, write_ct_series
from contourd.dicom.reading.series import find_series
from contourd.dicom.rtstruct.reader import read_structure_set
from contourd.errors import DeviceError, DeviceUnavailable, ModelError, OutsideLimits, SeriesUnusable
from contourd.imaging.grid import Grid
from contourd.imaging.volume import Volume
from contourd.model.agreement import LatticeAgreement
from contourd.model.bundle_config import BundleConfig, Commissioning, ModelBundle
from contourd.model.limits import Limits
from contourd.model.model_use import ModelUse, hash_of_uses, uses_from_json, uses_to_json
from contourd.model.plausibility import OrganSpread, RobustSpread
from contourd.model.remarks import RemarkCheck
from contourd.model.runtime_description import RuntimeDescription
from contourd.reasons.catalogue import HoldReason

RUNTIME = RuntimeDescription("torch", "2", "fp32", "cpu", "x86_64, AVX2", 2)
BUSY = DeviceUnavailable(HoldReason.DEVICE_OUT_OF_MEMORY, device="cuda:0", said="CUDA out of memory")
FAILURES = [
    ModelError(HoldReason.MODEL_OF_JOB_GONE, model="glands 1"),
    DeviceError(HoldReason.DEVICE_OUT_OF_MEMORY, device="cuda:0", said="too small"),
    SeriesUnusable(HoldReason.HEAD_BESIDE_BOX, part=0.2, width_mm=300.0, model="glands"),
]


def bundle(name: str, organs: dict[str, int], **more) -> ModelBundle:
    config = BundleConfig.model_validate(
        {"name": name, "version": "1", "kind": "k", "model": {"structures": list(organs)}, "weights_sha256": "0" * 64}
        | more
    )
    return ModelBundle(Path(name), config, (name[0].encode().hex() * 32))


@dataclass
class Bars:
    """A model whose organs are bars that begin in these columns; ``fails`` when it is run."""

    bundle: ModelBundle
    starts: dict[str, int]
    fails: Exception | None = None
    beyond: float = 0.0
    width_mm: float = 400.0
    device = torch.device("cpu")
    runs: list[str] = field(default_factory=list)

    @property
    def runtime(self):
        return self

    @property
    def description(self):
        return RUNTIME

    @property
    def structures(self):
        return tuple(self.starts)

    def predict(self, _volume, _progress=None):
        self.runs.append(self.bundle.name)
        if self.fails is not None:
            raise self.fails
        return self

    def midline_mm(self):
        return 0.0

    def compared(self, name):
        start = self.starts[name]
        box = (slice(2, 12), slice(4, 8), slice(start, start + 3))
        return box, np.full((10, 4, 3), 0.9, dtype=np.float32), LatticeAgreement(1.0, 1, 1, 0.0)


def model(name: str, starts: dict[str, int], fails: Exception | None = None, **more) -> Bars:
    return Bars(bundle(name, starts, **more), starts, fails)


def in_turn(*models: Bars, partial="hold") -> ModelsInTurn:
    return ModelsInTurn(
        tuple(
            ModelInTurn(
                ModelUse(one.bundle.name, one.bundle.identity),
                lambda call, one=one: call(one),
                lambda one=one: one.structures,
            )
            for one in models
        ),
        partial,
    )


@pytest.fixture
def instances(tmp_path):
    on = Grid.regular((18, 16, 16), (3.0, 4.7, 4.7), (-35.0, -35.0, 0.0))
    volume = Volume(on, np.full(on.shape, 40, dtype=np.int16))
    (found,) = find_series(write_ct_series(volume, tmp_path / "ct", SeriesIdentity("p1", "A^B"))).values()
    return found


FIRST = {"Brainstem": 6, "Parotid_L": 11}
SECOND = {"Parotid_L": 12, "parotid_r": 1, "Brainstem": 2}


def made_by(dataset) -> dict[str, str]:
    return {roi.ROIName: roi.ROIGenerationDescription for roi in dataset.StructureSetROISequence}


def test_an_organ_comes_from_the_first_that_lists_it_and_says_so(instances):
    first, second = model("hn", FIRST), model("glands", SECOND)
    contoured = contour_series(instances, in_turn(first, second))
    dataset = contoured.dataset
    assert made_by(dataset) == {
        "Brainstem": "contourd hn 1 686868686868",
        "Parotid_L": "contourd hn 1 686868686868",
        "parotid_r": "contourd glands 1 676767676767",
    }
    assert [(use.name, use.organs, use.drew) for use in contoured.models] == [
        ("hn 1", ("Brainstem", "Parotid_L"), True),
        ("glands 1", ("parotid_r",), True),
    ]
    assert [item.ManufacturerModelName for item in dataset.ContributingEquipmentSequence] == ["hn", "glands"]
    assert [item.SoftwareVersions[-1] for item in dataset.ContributingEquipmentSequence] == ["1", "1"]
    assert dataset.ManufacturerModelName == "contourd hn + glands"
    assert dataset.StructureSetName == "hn 1 + glands 1"
    assert dataset.StructureSetDescription.startswith("AI generated, not reviewed. Models hn 1, glands 1; ")
    assert {roi.name for roi in read_structure_set(dataset)} == {"Brainstem", "Parotid_L", "parotid_r"}
    left = contoured.masks["Parotid_L"].on((18, 16, 16))
    assert (left[5, 5, 11], left[5, 5, 14]) == (True, False)  # where the first model has it


def test_what_one_model_draws_is_drawn_beside_others_too(instances):
    alone = contour_series(instances, model("hn", FIRST))
    both = contour_series(instances, in_turn(model("hn", FIRST), model("glands", SECOND)))
    for name in FIRST:
        np.testing.assert_array_equal(alone.masks[name].mask, both.masks[name].mask)
    contours = [{roi.name: roi.contours for roi in read_structure_set(one.dataset)} for one in (alone, both)]
    for ours, theirs in zip(contours[0]["Brainstem"], contours[1]["Brainstem"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert alone.dataset.SOPInstanceUID != both.dataset.SOPInstanceUID


def test_uids_are_of_the_whole_list_in_its_order(instances):
    hn, glands = model("hn", FIRST), model("glands", {"Parotid_R": 1})
    newer = Bars(replace(glands.bundle, sha256="ee" * 32), glands.starts)
    uids = [
        contour_series(instances, in_turn(*models)).dataset.SOPInstanceUID
        for models in ((hn, glands), (hn, glands), (glands, hn), (hn, newer), (hn,))
    ]
    assert uids[0] == uids[1]
    assert len(set(uids)) == 4
    assert uids[4] == contour_series(instances, hn).dataset.SOPInstanceUID  # a list of one is the one


@pytest.mark.parametrize("error", FAILURES)
def test_one_that_fails_holds_the_job(instances, error):
    with pytest.raises(type(error), match=str(error)[:20]):
        contour_series(instances, in_turn(model("hn", FIRST), model("glands", SECOND, error)))


@pytest.mark.parametrize("error", FAILURES[:2])
def test_or_its_organs_are_missing_by_name(instances, error):
    models = in_turn(model("hn", FIRST), model("glands", SECOND, error), partial="send")
    contoured = contour_series(instances, models)
    told = f"incomplete: parotid_r missing, for glands 1 did not draw ({error.reason.code.value.replace('_', ' ')})"
    assert set(made_by(contoured.dataset)) == set(FIRST)
    assert contoured.dataset.StructureSetDescription.startswith(f"AI generated, not reviewed. Models hn 1; {told}")
    assert contoured.dataset.SeriesDescription == "contourd AI generated, not reviewed, incomplete"
    assert contoured.remarks.lines()[0] == told
    assert [(use.drew, use.organs) for use in contoured.models] == [(True, tuple(FIRST)), (False, ("parotid_r",))]
    whole = contour_series(instances, in_turn(model("hn", FIRST), model("glands", SECOND))).dataset
    assert contoured.dataset.SOPInstanceUID != whole.SOPInstanceUID
    again = ModelsInTurn((models.models[0], ModelInTurn(contoured.models[1], models.models[1].run)))
    assert contour_series(instances, again).dataset == contoured.dataset  # what drew nothing is not run again


def test_the_first_that_fails_leaves_its_organs_to_those_after_it(instances):
    models = in_turn(model("hn", FIRST, FAILURES[0]), model("glands", SECOND), partial="send")
    contoured = contour_series(instances, models)
    assert contoured.models[0].organs == ()
    assert made_by(contoured.dataset).keys() == SECOND.keys()
    assert contoured.remarks.lines()[0].startswith("incomplete: its organs missing, for hn 1 did not draw")


def test_when_all_fail_it_is_held_in_any_case(instances):
    models = in_turn(model("hn", FIRST, FAILURES[0]), model("glands", SECOND, FAILURES[1]), partial="send")
    with pytest.raises(ModelError):
        contour_series(instances, models)


def test_a_device_that_is_busy_is_waited_for(instances):
    with pytest.raises(DeviceUnavailable):
        contour_series(instances, in_turn(model("hn", FIRST), model("glands", SECOND, BUSY), partial="send"))


def test_limits_are_each_model_s_own(instances):
    thin = {"limits": Limits(slice_spacing_mm=(None, 1.0)).model_dump()}
    models = model("hn", FIRST), model("glands", SECOND, **thin)
    with pytest.raises(OutsideLimits, match="glands"):
        contour_series(instances, in_turn(*models))
    sent = contour_series(instances, in_turn(*models, partial="send"))
    assert set(made_by(sent.dataset)) == set(FIRST)
    released = contour_series(instances, in_turn(*models), ContouringOptions(override="seen (mp)"))
    assert "released: seen (mp) (glands: slices are 3.00 mm apart" in released.remarks.text()


def spread(cc: float) -> OrganSpread:
    return OrganSpread(log_volume_cc=RobustSpread(median=float(np.log(cc)), sd=0.1), offsets_mm={})


def knowing(one: Bars, cc: dict[str, float]) -> Bars:
    known = Commissioning("marie", {name: spread(value) for name, value in cc.items()}, "", "cd" * 32)
    return Bars(replace(one.bundle, commissioning=known), one.starts)


BAR_CC = 10 * 4 * 3 * 3.0 * 4.7 * 4.7 / 1000


def test_an_organ_is_judged_by_the_model_that_drew_it(instances):
    first = knowing(model("hn", FIRST), {"Brainstem": BAR_CC, "Parotid_L": BAR_CC})
    second = knowing(model("glands", SECOND), {"Brainstem": BAR_CC, "Parotid_L": BAR_CC, "parotid_r": 3 * BAR_CC})
    order = ContouringOptions(override="seen (mp)")
    contoured = contour_series(instances, in_turn(first, second), order)
    assert set(contoured.remarks.flagged) == {"parotid_r"}
    other_way = contour_series(instances, in_turn(second, first), order)
    assert set(other_way.remarks.flagged) == {"parotid_r"}
    assert (
        contoured.dataset.SOPInstanceUID
        != contour_series(instances, in_turn(model("hn", FIRST), model("glands", SECOND)), order).dataset.SOPInstanceUID
    )  # the records are part of it


def test_that_a_model_has_no_record_is_said_of_that_model(instances):
    first = knowing(model("hn", FIRST), {"Brainstem": BAR_CC, "Parotid_L": BAR_CC})
    without = Commissioning("marie", {}, "for research", "cd" * 32)
    second = model("glands", SECOND)
    second = Bars(replace(second.bundle, commissioning=without), second.starts)
    description = contour_series(instances, in_turn(first, second)).dataset.StructureSetDescription
    assert "glands: in use without a commissioning record: for research (marie)" in description
    assert "glands: not commissioned: the model does not know the usual size and place of any organ" in description
    assert "hn: " not in description


def test_what_shows_no_head_is_held_where_no_other_model_knows_one(instances):
    thrice = {"Brainstem": 9 * BAR_CC, "Parotid_L": 9 * BAR_CC}
    blind, other = model("glands", SECOND), knowing(model("hn", FIRST), thrice)
    with pytest.raises(SeriesUnusable, match="head and neck") as caught:
        contour_series(instances, in_turn(other, blind, partial="send"))
    assert caught.value.reason.code is HoldReason.NO_HEAD_AND_NECK
    seeing = knowing(model("glands", SECOND), dict.fromkeys(SECOND, BAR_CC))
    contoured = contour_series(instances, in_turn(other, seeing, partial="send"))
    assert set(made_by(contoured.dataset)) == set(SECOND)


def test_sides_are_judged_across_models(instances):
    """Each model has one parotid; both lie on the patient's right, so that the left one of the other is wrong."""
    left, right = model("hn", {"Parotid_L": 1, "Brainstem": 6}), model("glands", {"Parotid_R": 2})
    contoured = contour_series(instances, in_turn(left, right))
    assert "Parotid_L" in contoured.remarks.withheld
    findings = [r.finding for r in contoured.remarks.records if r.finding.check is RemarkCheck.LATERALITY]
    assert "Parotid_L" in {one.structure for one in findings}


def test_only_one_model_is_held_at_a_time(instances):
    """Each is given back before the next is called: neither its answer nor its predictor is kept."""
    import gc
    import weakref

    alive: list[weakref.ref] = []
    seen = []

    def turn(name, starts):
        def run(call):
            gc.collect()
            seen.append([ref() is not None for ref in alive])
            one = model(name, starts)
            alive.append(weakref.ref(one))
            return call(one)

        return ModelInTurn(ModelUse(name), run)

    contour_series(instances, ModelsInTurn((turn("hn", FIRST), turn("glands", {"Parotid_R": 1}))))
    assert seen == [[], [False]]


def test_what_the_models_did_is_read_as_it_was_written():
    uses = (
        ModelUse("hn", bundle("hn", FIRST).identity, RUNTIME, ("Brainstem",)),
        ModelUse("glands", None, None, ("Parotid_R",), FAILURES[0].reason),
    )
    assert uses_from_json(uses_to_json(uses)) == uses
    assert hash_of_uses(uses[:1]) == "68" * 32
    assert hash_of_uses(uses) != hash_of_uses(uses[::-1])
