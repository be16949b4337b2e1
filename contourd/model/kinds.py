"""The kinds of bundles that there are, and what contours with each; ``kind`` in model.json chooses.

A network of contourd's own kinds stands in NETWORKS (``contourd.model.networks``); whatever brings its own way from the
CT to masks stands in FOREIGN_KINDS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contourd.errors import ModelError
from contourd.model.bundle_config import ModelBundle
from contourd.model.lattice_bundle import LatticeBundle
from contourd.model.lattice_predictor import LatticePredictor
from contourd.model.networks import NETWORKS
from contourd.model.nnunet_bundle import NNUNET, NnunetBundle
from contourd.model.nnunet_predictor import NnunetPredictor
from contourd.model.predictor import Predictor, RunOptions
from contourd.model.runtime import choose_device
from contourd.reasons.catalogue import HoldReason


@dataclass(frozen=True, slots=True)
class BundleKind:
    """What reads a bundle, and what contours with it."""

    bundle: type[ModelBundle]
    predictor: Callable[[Any, RunOptions], Predictor]


OWN = BundleKind(LatticeBundle, LatticePredictor)
# Kind -> what is its own.
FOREIGN_KINDS: Mapping[str, BundleKind] = {NNUNET: BundleKind(NnunetBundle, NnunetPredictor)}


def known_kinds() -> tuple[str, ...]:
    """Name the kinds that ``kind`` in model.json may say."""
    return (*NETWORKS, *FOREIGN_KINDS)


def kind_of(kind: object) -> BundleKind:
    """Return what reads and runs bundles of a kind; one that is not known is refused where its model.json is read."""
    return FOREIGN_KINDS.get(str(kind), OWN)


def predictor_for(bundle: ModelBundle, device: str = "auto", options: RunOptions | None = None) -> Predictor:
    """Make what contours with a bundle.

    Parameters
    ----------
    device
        Where, if ``options`` do not say it.

    Raises
    ------
    ModelError
        The weights do not fit the bundle.
    DeviceError
        The device is not there, or its memory does not suffice.
    """
    return kind_of(bundle.config.kind).predictor(bundle, options or RunOptions(choose_device(device)))


def require_own(bundle: ModelBundle) -> LatticeBundle:
    """Return a bundle whose network contourd builds itself.

    Raises
    ------
    ModelError
        It is of another kind.
    """
    if not isinstance(bundle, LatticeBundle):
        raise ModelError(HoldReason.MODEL_KIND_FOREIGN, path=str(bundle.folder), kind=bundle.config.kind)
    return bundle
