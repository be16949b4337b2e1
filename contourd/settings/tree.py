"""The settings tree, and its sections that are of a few keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from contourd.settings.alerts import AlertSettings
from contourd.settings.constancy import ConstancySettings
from contourd.settings.destination import Destination, Reviewer, Route, SenderNode
from contourd.settings.node import NodeSettings
from contourd.settings.spool import SpoolSettings
from contourd.settings.values import Precision, RuntimeName, Seconds, Section, Verdict
from contourd.settings.web import WebSettings

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"


class DatabaseSettings(Section):
    """The queue's database; empty: SQLite inside the spool; else the URL of PostgreSQL."""

    url: str = ""


class SeriesSettings(Section):
    """When a series is complete, how many images it may have, and what of it is told in lists."""

    quiet_s: float = Field(default=15.0, ge=0)
    gapped_s: float = Field(default=180.0, ge=0)
    max_instances: int = Field(default=5000, ge=1)
    descriptions: bool = False


class WorkerSettings(Section):
    """The processes that contour; ``processes = 0``: none here, other hosts do."""

    device: str = Field(default="auto", pattern=DEVICE)
    devices: tuple[Annotated[str, Field(pattern=DEVICE)], ...] = ()
    processes: int = Field(default=1, ge=0, le=64)
    runtime: RuntimeName = "auto"
    precision: Precision = "auto"
    lease_s: Seconds = 60.0
    time_limit_s: Seconds = 1800.0
    max_attempts: int = Field(default=2, ge=1)
    memory_gb: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _one_says_how_many(self) -> Self:
        if self.devices and self.processes != 1:
            raise ValueError(
                "devices: each gets a process of its own, and one that is named twice gets two; leave out processes"
            )
        return self

    def of_each(self) -> tuple[WorkerSettings, ...]:
        """Return the settings of each process, with the device that is its own."""
        devices = self.devices or (self.device,) * self.processes
        return tuple(self.model_copy(update={"device": one, "devices": (), "processes": 1}) for one in devices)


class DeliverySettings(Section):
    """Retries of a delivery: first_retry_s, doubled each time up to max_retry_s, until give_up_after_s."""

    first_retry_s: Seconds = 30.0
    max_retry_s: Seconds = 1800.0
    give_up_after_s: Seconds = 86400.0


class RetentionSettings(Section):
    """For how many days files are kept: finished images and structure sets, and the work that a person must look at."""

    input_days: float = Field(default=3.0, ge=0)
    output_days: float = Field(default=30.0, ge=0)
    failed_days: float = Field(default=30.0, ge=0)

    @model_validator(mode="after")
    def _failed_last_longest(self) -> Self:
        if self.failed_days < self.input_days:
            raise ValueError("failed_days: what a person must look at is kept at least as long as what is finished")
        return self


class PlausibilitySettings(Section):
    """What becomes of an organ that fails a check, and how many robust standard deviations are still plausible."""

    volume: Verdict = "flag"
    position: Verdict = "flag"
    laterality: Verdict = "withhold"
    symmetry: Verdict = "flag"
    agreement: Verdict = "withhold"
    limit_sd: float = Field(default=4.5, gt=0)

    def verdict(self, check: str) -> Verdict:
        """Return what is to be done for one check, by its key."""
        verdict: Verdict = getattr(self, check)
        return verdict


class StructuresSettings(Section):
    """A site's own organs: a file of the form of etc/structures.toml, which adds to the catalogue that ships."""

    file: Path | None = None


class ReadBackSettings(Section):
    """The check of each structure set before it is sent: always ours, and by rt-utils too where that is wanted."""

    rt_utils: bool = False


class Settings(Section):
    """The whole configuration file."""

    node: NodeSettings = NodeSettings()
    spool: SpoolSettings = SpoolSettings()
    database: DatabaseSettings = DatabaseSettings()
    series: SeriesSettings = SeriesSettings()
    worker: WorkerSettings = WorkerSettings()
    delivery: DeliverySettings = DeliverySettings()
    retention: RetentionSettings = RetentionSettings()
    plausibility: PlausibilitySettings = PlausibilitySettings()
    check: ReadBackSettings = ReadBackSettings()
    structures: StructuresSettings = StructuresSettings()
    constancy: ConstancySettings = ConstancySettings()
    web: WebSettings = WebSettings()
    alerts: AlertSettings = AlertSettings()
    destination: tuple[Destination, ...]
    route: tuple[Route, ...]
    sender: tuple[SenderNode, ...] = ()
    reviewer: tuple[Reviewer, ...] = ()

    @model_validator(mode="after")
    def _hosts_have_a_server(self) -> Self:
        if self.spool.shared and not self.database.url:
            raise ValueError("spool.shared: hosts that share a folder need database.url: SQLite is of one host alone")
        return self

    @property
    def database_url(self) -> str:
        """URL of the queue's database."""
        return self.database.url or f"sqlite:///{self.spool.root.resolve() / 'contourd.sqlite'}"
