"""What the node would do with the series of a folder, and why: its own gate, routes and limits; nothing is written.

Whether the images show a head and neck, and whether the organs are plausible, shows only when they are contoured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from contourd.dicom.reading.acquisition import acquisition_of
from contourd.dicom.reading.instance import Instance, survey_series
from contourd.dicom.reading.series import Series, gate
from contourd.errors import ModelError, SeriesUnusable
from contourd.intake.routing import choose_route, unmet_conditions
from contourd.model.library import Activation, find_model, in_force
from contourd.model.limits import outside
from contourd.model.model_identity import ModelIdentity
from contourd.models.activation import load_found
from contourd.reasons.catalogue import HoldReason, Reason
from contourd.settings import Route, Settings


class ForecastOutcome(Enum):
    """What would become of a series."""

    CONTOURED = "contoured"
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class RouteAnswer:
    """One route: the conditions that do not fit, in words; ``taken``: the first that has none."""

    number: int
    models: tuple[str, ...]
    destinations: tuple[str, ...]
    unfit: tuple[str, ...]
    taken: bool


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would become of one series.

    Attributes
    ----------
    first
        Its first image.
    reason
        Why it would be held or refused; None where it would be contoured.
    destinations
        Name -> profile.
    models
        Each that would draw, in its turn.
    confirm
        Whether a person would have to confirm before anything is sent.
    missing
        Of several models, those that would not draw although the others are sent: with why.
    """

    first: Instance
    images: int
    outcome: ForecastOutcome
    reason: Reason | None = None
    routes: tuple[RouteAnswer, ...] = ()
    models: tuple[ModelIdentity, ...] = ()
    destinations: Mapping[str, str] | None = None
    confirm: bool = False
    missing: Mapping[str, Reason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FolderForecast:
    """The series of a folder, and the CT images that cannot be read, with the reason."""

    series: tuple[Forecast, ...]
    unreadable: Mapping[Path, Reason]


class Forecaster:
    """Applies a node's settings to what has not been sent yet.

    Parameters
    ----------
    activations
        All of the node's, so that a name stands for the model that it stands for there.
    calling_ae
        AE title of the sender; empty: none, so that no route fits that asks for one.
    """

    def __init__(self, settings: Settings, activations: Iterable[Activation], calling_ae: str) -> None:
        self._settings = settings
        self._active = in_force(activations)
        self._calling_ae = calling_ae

    def foresee(self, folder: Path) -> FolderForecast:
        """Return what would become of each series below a folder."""
        found, unreadable = survey_series(folder)
        series = tuple(self.foresee_series(instances) for instances in found.values())
        return FolderForecast(series, {path: error.reason for path, error in unreadable.items()})

    def foresee_series(self, instances: Sequence[Instance]) -> Forecast:
        """Return what would become of one series."""
        first, images = instances[0], len(instances)
        if (refused := self._refusal(images)) is not None:
            return Forecast(first, images, ForecastOutcome.REFUSED, refused)
        try:
            series = gate(instances)
        except SeriesUnusable as error:
            return Forecast(first, images, ForecastOutcome.HELD, error.reason)
        return self._routed(series, images)

    def _refusal(self, images: int) -> Reason | None:
        allowed, most = self._settings.node.allowed_callers, self._settings.series.max_instances
        if allowed and self._calling_ae not in allowed:
            return Reason.of(HoldReason.SENDER_NOT_ALLOWED, sender=self._sender, allowed=", ".join(allowed))
        if images > most:
            return Reason.of(HoldReason.MORE_IMAGES_THAN_ALLOWED, images=images, most=most)
        return None

    @property
    def _sender(self) -> str:
        return self._calling_ae or "a sender without a name"

    def _routed(self, series: Series, images: int) -> Forecast:
        first, caller = series.instances[0], self._calling_ae
        taken = choose_route(self._settings.route, first, caller)
        routes = tuple(
            RouteAnswer(n, route.models, route.destinations, unmet_conditions(route, first, caller), route is taken)
            for n, route in enumerate(self._settings.route, 1)
        )
        if taken is None:
            body_part = first.body_part or "not given"
            unrouted = Reason.of(HoldReason.NO_ROUTE, calling_ae=self._sender, body_part=body_part)
            return Forecast(first, images, ForecastOutcome.HELD, unrouted, routes)
        profiles = {d.name: d.profile for d in self._settings.destination}
        sent_to = {name: str(profiles[name]) for name in taken.destinations}
        models, missing = self._models(taken, series)
        if missing and (taken.partial != "send" or not models):
            held = next(iter(missing.values()))
            return Forecast(first, images, ForecastOutcome.HELD, held, routes, models, sent_to, taken.confirm)
        return Forecast(first, images, ForecastOutcome.CONTOURED, None, routes, models, sent_to, taken.confirm, missing)

    def _models(self, route: Route, series: Series) -> tuple[tuple[ModelIdentity, ...], dict[str, Reason]]:
        """Return which of a route's models would draw, and why each other one would not."""
        models, missing = list[ModelIdentity](), dict[str, Reason]()
        for name in route.models:
            try:
                bundle = load_found(find_model(name, self._settings.spool.root, self._active.get(name)))
            except ModelError as error:
                missing[name] = error.reason
                continue
            beyond = outside(bundle.config.limits, acquisition_of(series))
            if beyond:
                missing[name] = Reason.of(HoldReason.OUTSIDE_LIMITS, model=bundle.name, beyond=beyond)
            else:
                models.append(bundle.identity)
        return tuple(models), missing
