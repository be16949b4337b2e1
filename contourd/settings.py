"""The settings tree: read once, validated as a whole, every problem at once with its key's path."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork, ValidationError, model_validator

from contourd.errors import SettingsError
from contourd.profiles import PROFILES, HoleStyleName, Profile, ProfileName

SEARCHED = (Path("contourd.toml"), Path("/etc/contourd/contourd.toml"))
SHIPPED_MODELS = Path(__file__).resolve().parent / "model" / "bundles"


def _ae_title(text: str) -> str:
    if not 0 < len(text.strip()) <= 16 or not text.isascii() or not text.isprintable() or "\\" in text:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return text.strip()


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return text


AETitle = Annotated[str, AfterValidator(_ae_title)]
Regex = Annotated[str, AfterValidator(_regex)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]
Verdict = Literal["send", "flag", "withhold"]
InterpretedType = Literal["ORGAN", "AVOIDANCE", "CONTROL", ""]
StructureSetLabel = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[ -\[\]-~]+$")]
ROIName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_+~^-]{1,64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeTLS(_Section):
    """The listening side's certificate and key (PEM), and who must have signed those of the senders."""

    certificate: Path
    key: Path
    authorities: Path | None = None
    require_certificate: bool = True

    @model_validator(mode="after")
    def _authorities_are_there(self) -> Self:
        if self.require_certificate and self.authorities is None:
            raise ValueError("require_certificate needs authorities: the certificates that sign those of the senders")
        return self


class DestinationTLS(_Section):
    """Who must have signed the destination's certificate, and the certificate and key that contourd shows it (PEM)."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_host: bool = True


class NodeSettings(_Section):
    """The listening side."""

    ae_title: AETitle = "CONTOURD"
    host: str = "0.0.0.0"
    port: Port = 11112
    allowed_callers: tuple[AETitle, ...] = ()
    allowed_peers: tuple[IPvAnyNetwork, ...] = ()
    max_associations: int = Field(default=20, ge=1)
    network_timeout_s: Seconds = 60.0
    request_timeout_s: Seconds = 10.0
    association_limit_s: Seconds = 7200.0
    max_pdu_kb: int = Field(default=1024, ge=256)
    max_instance_mb: int = Field(default=64, ge=1)
    tls: NodeTLS | None = None


class SpoolSettings(_Section):
    """Where instances and structure sets are kept."""

    root: Path = Path("/var/lib/contourd")
    min_free_gb: float = Field(default=2.0, ge=0)


class DatabaseSettings(_Section):
    """The queue's database; empty: SQLite inside the spool."""

    url: str = ""


class SeriesSettings(_Section):
    """When a series is complete."""

    quiet_s: float = Field(default=15.0, ge=0)
    gapped_s: float = Field(default=180.0, ge=0)


class WorkerSettings(_Section):
    """The process that contours."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    lease_s: Seconds = 60.0
    time_limit_s: Seconds = 1800.0
    max_attempts: int = Field(default=3, ge=1)


class DeliverySettings(_Section):
    """Retries of a delivery: first_retry_s, doubled each time up to max_retry_s, until give_up_after_s."""

    first_retry_s: Seconds = 30.0
    max_retry_s: Seconds = 1800.0
    give_up_after_s: Seconds = 86400.0


class PlausibilitySettings(_Section):
    """What becomes of an organ that fails a check, and how many robust standard deviations are still plausible."""

    volume: Verdict = "flag"
    position: Verdict = "flag"
    laterality: Verdict = "withhold"
    symmetry: Verdict = "flag"
    limit_sd: float = Field(default=4.5, gt=0)

    def verdict(self, check: str) -> Verdict:
        """Return what is to be done for one check, by its key."""
        verdict: Verdict = getattr(self, check)
        return verdict


class CheckSettings(_Section):
    """The check of each structure set before it is sent: always ours, and by rt-utils too where that is wanted."""

    rt_utils: bool = False


class Destination(_Section):
    """A DICOM node that takes structure sets; holes to interpreted_type replace what its profile says."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    connect_timeout_s: Seconds = 15.0
    response_timeout_s: Seconds = 60.0
    profile: ProfileName = "strict"
    holes: HoleStyleName | None = None
    decimals: int | None = Field(default=None, ge=2, le=4)
    label: StructureSetLabel | None = None
    interpreted_type: InterpretedType | None = None
    names: Mapping[str, ROIName] = Field(default_factory=dict)
    tls: DestinationTLS | None = None

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        longest = PROFILES[self.profile].name_length
        long = [name for name in self.names.values() if len(name) > longest]
        if long:
            raise ValueError(f"names: {', '.join(long)}: profile {self.profile} takes {longest} characters")
        twice = [name for name, n in Counter(name.casefold() for name in self.names.values()).items() if n > 1]
        if twice:
            raise ValueError(f"names: {', '.join(twice)} is given to several organs")
        return self

    @property
    def structure_set_profile(self) -> Profile:
        """How its structure sets are written."""
        asked = ("holes", "decimals", "label", "interpreted_type")
        changed = {key: value for key in asked if (value := getattr(self, key)) is not None}
        return replace(PROFILES[self.profile], names=dict(self.names), **changed)


class Route(_Section):
    """Which series go to which model and where its structure set goes; the first route that fits is taken."""

    model: str = Field(min_length=1)
    destinations: tuple[str, ...] = Field(min_length=1)
    calling_ae: AETitle | None = None
    series_description: Regex | None = None
    body_part: str | None = None


class Settings(_Section):
    """The whole configuration file."""

    node: NodeSettings = NodeSettings()
    spool: SpoolSettings = SpoolSettings()
    database: DatabaseSettings = DatabaseSettings()
    series: SeriesSettings = SeriesSettings()
    worker: WorkerSettings = WorkerSettings()
    delivery: DeliverySettings = DeliverySettings()
    plausibility: PlausibilitySettings = PlausibilitySettings()
    check: CheckSettings = CheckSettings()
    destination: tuple[Destination, ...]
    route: tuple[Route, ...]

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the queue."""
        return self.database.url or f"sqlite:///{self.spool.root.resolve() / 'contourd.sqlite'}"


def model_exists(name_or_folder: str) -> bool:
    """Tell whether a bundle is there, without loading it."""
    return any((folder / "model.json").is_file() for folder in (SHIPPED_MODELS / name_or_folder, Path(name_or_folder)))


def find_settings_file(path: Path | None) -> Path:
    """Return the file that was named, or the first that is searched.

    Raises
    ------
    SettingsError
        There is none.
    """
    if path is not None:
        return path
    for candidate in SEARCHED:
        if candidate.is_file():
            return candidate
    raise SettingsError(
        "no configuration", [f"neither {' nor '.join(map(str, SEARCHED))} is there; give --config FILE"]
    )


def load_settings(path: Path | None = None) -> Settings:
    """Read and validate a TOML file.

    Raises
    ------
    SettingsError
        Every problem, each with its key's path.
    """
    file = find_settings_file(path)
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(file), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(file), [f"not valid TOML: {error}"]) from error
    problems = _unresolved(content)
    try:
        settings = Settings.model_validate(content)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(map(str, item["loc"]))
            problems.append(f"{key}: {item['msg'].removeprefix('Value error, ')}")
    if problems:
        raise SettingsError(str(file), problems)
    return settings


def _unresolved(content: dict[str, Any]) -> list[str]:
    """Find names that lead nowhere; works on the raw file, so that these are told together with all else."""
    destinations, routes = (content.get(key) for key in ("destination", "route"))
    destinations = [d for d in destinations if isinstance(d, dict)] if isinstance(destinations, list) else []
    routes = [r for r in routes if isinstance(r, dict)] if isinstance(routes, list) else []
    counts = Counter(str(d.get("name")) for d in destinations)
    problems = [
        f"{key}: at least one [[{key}]] is needed" for key in ("destination", "route") if content.get(key) == []
    ]
    problems += [f"destination: the name {name!r} stands {n} times" for name, n in counts.items() if n > 1]
    for i, route in enumerate(routes):
        named = route.get("destinations", [])
        for name in named if isinstance(named, list) else []:
            if str(name) not in counts:
                problems.append(f"route.{i}.destinations: there is no destination {name!r}")
    return problems


def require_models(settings: Settings) -> None:
    """Refuse routes to models that are not there; for ``serve`` alone, so that ``status`` works when one has vanished.

    Raises
    ------
    SettingsError
        Names each route.
    """
    problems = [
        f"route.{i}.model: no model {route.model!r}; give a shipped model's name or a bundle's folder"
        for i, route in enumerate(settings.route)
        if not model_exists(route.model)
    ]
    if problems:
        raise SettingsError("the configuration", problems)
