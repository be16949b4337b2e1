"""Settings of other nodes: destinations, senders that are called back, and the routes that lead to destinations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from contourd.model.model_names import LONGEST_TEXT, PartialRule, text_of_names
from contourd.profiles import PROFILES, RTSTRUCT, HoleStyleName, ProductName, Profile
from contourd.settings.values import (
    AETitle,
    InterpretedType,
    Port,
    Regex,
    ROIName,
    Seconds,
    Section,
    StructureSetLabel,
)


class DestinationTLS(Section):
    """Who must have signed the other node's certificate, and the certificate and key that contourd shows it (PEM)."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    check_host: bool = True


class SenderNode(Section):
    """A sender that is called back with what was committed."""

    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    connect_timeout_s: Seconds = 15.0
    response_timeout_s: Seconds = 60.0
    tls: DestinationTLS | None = None

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self.ae_title


MOST_MODELS = 8


class Reviewer(Section):
    """A node that may send structure sets back: what a planning system made of the contours."""

    ae_title: AETitle
    tps: str = Field(default="", pattern=r"^[A-Za-z0-9_. -]{0,32}$")
    destination: str = ""


def _known_profile(name: str) -> str:
    if name not in PROFILES:
        raise ValueError(f"Input should be {', '.join(map(repr, PROFILES))}")
    return name


ProfileName = Annotated[str, AfterValidator(_known_profile)]


def _of_url(values: dict[str, object]) -> dict[str, object]:
    """Take host and port of a STOW-RS destination from its url, for whoever shows or tries the address."""
    try:
        url = urlsplit(str(values.get("url", "")))
        port = url.port or {"http": 80, "https": 443}.get(url.scheme, 0)
    except ValueError as error:
        raise ValueError("url: its port is none") from error
    if not port or not url.hostname or url.username or url.query or url.fragment:
        raise ValueError('url: give it as "https://pacs.hospital.example/dicom-web", without a name, ? or #')
    if values.get("token_file") and url.scheme != "https" and url.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError("token_file: a token goes by https alone")
    if values.get("commitment"):
        raise ValueError("commitment: a destination of kind stow has none; verify asks whether it is there")
    taken = {"ae_title": "STOW-RS", "host": url.hostname, "port": port}
    given = [key for key in taken if key in values]
    if given and any(values.get(key) != value for key, value in taken.items()):  # all of them: as they are shown
        raise ValueError(f"{', '.join(given)}: a destination of kind stow is reached by its url")
    return {**values, **taken}


class Destination(Section):
    """A DICOM node that takes what is drawn; holes to interpreted_type replace what its profile says."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")
    kind: Literal["dicom", "stow"] = "dicom"
    url: str = ""
    token_file: Path | None = None
    verify: bool = False
    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    connect_timeout_s: Seconds = 15.0
    response_timeout_s: Seconds = 60.0
    commitment: bool = False
    commitment_wait_s: Seconds = 3600.0
    profile: ProfileName = "strict"
    holes: HoleStyleName | None = None
    decimals: int | None = Field(default=None, ge=2, le=4)
    label: StructureSetLabel | None = None
    interpreted_type: InterpretedType | None = None
    names: Mapping[str, ROIName] = Field(default_factory=dict)
    products: tuple[ProductName, ...] = Field(default=(RTSTRUCT,), min_length=1)
    tls: DestinationTLS | None = None

    @model_validator(mode="before")
    @classmethod
    def _reached_by_its_kind(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        if values.get("kind") == "stow":
            return _of_url(values)
        if given := [key for key in ("url", "token_file", "verify") if values.get(key)]:
            raise ValueError(f"{', '.join(given)}: only of a destination of kind stow")
        return values

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

    @model_validator(mode="after")
    def _each_product_once(self) -> Self:
        if len(set(self.products)) != len(self.products):
            raise ValueError(f"products: each is given once: {', '.join(dict.fromkeys(self.products))}")
        return self

    @property
    def profiles(self) -> tuple[Profile, ...]:
        """How each of its products is written."""
        return tuple(replace(self.structure_set_profile, product=product) for product in self.products)

    @property
    def identities(self) -> Mapping[str, str]:
        """Product -> what makes it differ from another destination's."""
        return {profile.product: profile.identity() for profile in self.profiles}

    @property
    def structure_set_profile(self) -> Profile:
        """How its structure sets are written."""
        asked = ("holes", "decimals", "label", "interpreted_type")
        changed = {key: value for key in asked if (value := getattr(self, key)) is not None}
        return replace(PROFILES[self.profile], names=dict(self.names), **changed)


ModelName = Annotated[str, Field(min_length=1)]


class Route(Section):
    """Which series go to which models and where their structure set goes; the first route that fits is taken."""

    model: ModelName | Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MOST_MODELS)]
    partial: PartialRule = "hold"
    destinations: tuple[str, ...] = Field(min_length=1)
    calling_ae: AETitle | None = None
    series_description: Regex | None = None
    body_part: str | None = None
    protocol: Regex | None = None
    station: str | None = None
    confirm: bool = False
    shadow: str = ""

    @model_validator(mode="after")
    def _shadow_is_another(self) -> Self:
        if self.shadow and self.shadow in self.models:
            raise ValueError(f"shadow: {self.shadow} is the route's model already; name another one")
        return self

    @model_validator(mode="after")
    def _models_differ(self) -> Self:
        twice = [name for name, times in Counter(self.models).items() if times > 1]
        if twice:
            raise ValueError(f"model: {', '.join(twice)} stands twice")
        if len(self.models) > 1 and len(self.asked) > LONGEST_TEXT:
            raise ValueError(f"model: the names have more than {LONGEST_TEXT} characters together")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Names or folders, in the order in which they draw."""
        return (self.model,) if isinstance(self.model, str) else self.model

    @property
    def asked(self) -> str:
        """The same as one text, as jobs keep it."""
        return text_of_names(self.models)
