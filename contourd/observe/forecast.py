"""What the node would do with the series of a folder, and why: its own gate, routes and limits; nothing is written.

Whether the images show a head and neck, and whether the organs are plausible, shows only when they are contoured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
    model: str
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
        Why it would be held or refused; empty where it would be contoured.
    destinations
        Name -> profile.
    confirm
        Whether a person would have to confirm before anything is sent.
    """

    first: Instance
    images: int
    outcome: ForecastOutcome
    reason: str = ""
    routes: tuple[RouteAnswer, ...] = ()
    model: ModelIdentity | None = None
    destinations: Mapping[str, str] | None = None
    confirm: bool = False


@dataclass(frozen=True, slots=True)
class FolderForecast:
    """The series of a folder, and the CT images that cannot be read, with the reason."""

    series: tuple[Forecast, ...]
    unreadable: Mapping[Path, str]


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
        """Say what would become of each series below a folder."""
        found, unreadable = survey_series(folder)
        series = tuple(self.foresee_series(instances) for instances in found.values())
        return FolderForecast(series, {path: str(error) for path, error in unreadable.items()})

    def foresee_series(self, instances: Sequence[Instance]) -> Forecast:
        """Say what would become of one series."""
        first, images = instances[0], len(instances)
        if refused := self._refusal(images):
            return Forecast(first, images, ForecastOutcome.REFUSED, refused)
        try:
            series = gate(instances)
        except SeriesUnusable as error:
            return Forecast(first, images, ForecastOutcome.HELD, str(error))
        return self._routed(series, images)

    def _refusal(self, images: int) -> str:
        allowed, most = self._settings.node.allowed_callers, self._settings.series.max_instances
        if allowed and self._calling_ae not in allowed:
            sender = self._calling_ae or "a sender without a name"
            return f"{sender} is not in node.allowed_callers ({', '.join(allowed)}); give --calling-ae, or add it"
        if images > most:
            return f"{images} images are more than series.max_instances allows ({most})"
        return ""

    def _routed(self, series: Series, images: int) -> Forecast:
        first, caller = series.instances[0], self._calling_ae
        taken = choose_route(self._settings.route, first, caller)
        routes = tuple(
            RouteAnswer(n, route.model, route.destinations, unmet_conditions(route, first, caller), route is taken)
            for n, route in enumerate(self._settings.route, 1)
        )
        if taken is None:
            return Forecast(first, images, ForecastOutcome.HELD, "no route fits; add a [[route]], or widen one", routes)
        profiles = {d.name: d.profile for d in self._settings.destination}
        sent_to = {name: str(profiles[name]) for name in taken.destinations}
        try:
            model, beyond = self._limits(taken, series)
        except ModelError as error:
            return Forecast(first, images, ForecastOutcome.HELD, str(error), routes, None, sent_to, taken.confirm)
        reason = f"the series is outside the limits of {model.name}: {'; '.join(beyond)}" if beyond else ""
        outcome = ForecastOutcome.HELD if beyond else ForecastOutcome.CONTOURED
        return Forecast(first, images, outcome, reason, routes, model, sent_to, taken.confirm)

    def _limits(self, route: Route, series: Series) -> tuple[ModelIdentity, tuple[str, ...]]:
        found = find_model(route.model, self._settings.spool.root, self._active.get(route.model))
        bundle = load_found(found)
        return bundle.identity, outside(bundle.config.limits, acquisition_of(series))
