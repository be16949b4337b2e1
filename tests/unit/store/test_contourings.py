"""What is kept of how a job was contoured."""

from __future__ import annotations

from dataclasses import replace

from contourd.model.model_identity import ModelIdentity
from contourd.model.model_use import ModelUse
from contourd.reasons.catalogue import HoldReason, Reason
from tests.contourings import CONTOURING


def test_each_organ_has_the_model_that_draws_it():
    bones, glands = ModelIdentity("bones", "1", "a" * 64), ModelIdentity("glands", "2", "b" * 64)
    of_bones = ModelUse("bones", bones, None, ("Bone_Mandible",))
    of_glands = ModelUse("glands", glands, None, ("Parotid_L",))
    one = replace(CONTOURING, model=bones)
    both = replace(one, several=(of_bones, of_glands))
    failed = replace(one, several=(of_bones, replace(of_glands, failed=Reason(HoldReason.FAULT))))
    owners = [[made.model_of(organ).name for organ in ("Bone_Mandible", "Parotid_L")] for made in (one, both, failed)]
    assert owners == [["bones", "bones"], ["bones", "glands"], ["bones", "glands"]]
