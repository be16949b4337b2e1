"""Published figures to stand beside: MICCAI 2015 test set, 10 cases (Zhu et al., arXiv 1808.05238, tables VIII and IX).

They were measured on other patients, with other scanners and other people's contours, so they rank no one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Published:
    """One organ's figures as printed; empty where the paper has none.

    Attributes
    ----------
    miccai_2015, fritscher_2016, ren_2018, wang_2018, anatomynet
        Dice in per cent.
    anatomynet_hd_mm, miccai_hd_mm
        95 % Hausdorff distance.
    """

    miccai_2015: str
    fritscher_2016: str
    ren_2018: str
    wang_2018: str
    anatomynet: str
    anatomynet_hd_mm: str
    miccai_hd_mm: str


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "Brainstem": Published("88", "", "", "90 ± 4", "86.65 ± 2", "6.42 ± 2.38", "4-6"),
        "OpticChiasm": Published("55", "49 ± 9", "58 ± 17", "", "53.22 ± 15", "5.76 ± 2.49", "3-4"),
        "Bone_Mandible": Published("93", "", "", "94 ± 1", "92.51 ± 2", "6.28 ± 2.21", "2-13"),
        "OpticNrv_L": Published("62", "", "72 ± 8", "", "72.10 ± 6", "4.85 ± 2.32", "3-8"),
        "OpticNrv_R": Published("62", "", "70 ± 9", "", "70.64 ± 10", "4.77 ± 4.27", "3-8"),
        "Parotid_L": Published("84", "81 ± 4", "", "83 ± 6", "88.07 ± 2", "9.31 ± 3.32", "5-8"),
        "Parotid_R": Published("84", "81 ± 4", "", "83 ± 6", "87.35 ± 4", "10.08 ± 5.09", "5-8"),
        "Glnd_Submand_L": Published("78", "65 ± 8", "", "", "81.37 ± 4", "7.01 ± 4.44", "4-9"),
        "Glnd_Submand_R": Published("78", "65 ± 8", "", "", "81.30 ± 4", "6.02 ± 1.78", "4-9"),
    }
)
