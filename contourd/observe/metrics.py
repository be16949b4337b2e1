"""The node's figures for Prometheus, by its conventions: base units, ``_total`` for what only grows.

https://prometheus.io/docs/practices/naming/. No label holds anything of a patient.
"""

from __future__ import annotations

import shutil
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from contourd import __version__
from contourd.observe.counts import STAGES, EventCounters, QueueCounts, read_standing
from contourd.observe.host_figures import disks_of, stores_of
from contourd.observe.hosts import GONE, ProcessLine, read_hosts
from contourd.observe.pulse import Pulse
from contourd.reasons.codes import HOLDING
from contourd.settings import Settings
from contourd.store.constancy_standing import ConstancyLight, read_constancy
from contourd.store.database import Database
from contourd.store.states import ProcessRole

BUCKETS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 21600, 86400)
OUTCOMES = ("accepted", "rejected", "aborted", "cut off")
Models = Callable[[], Sequence[tuple[str, str, str]]]


class NodeMetrics(Collector):
    """Reads the queue when it is asked.

    Parameters
    ----------
    models
        Gives name, version and hash of each model that a route names.
    """

    def __init__(self, settings: Settings, database: Database, models: Models, pulse: Pulse | None = None) -> None:
        self._settings = settings
        self._database = database
        self._models = models
        self._pulse = pulse
        self._lock = threading.Lock()
        self._stages = {stage: [0] * (len(BUCKETS_S) + 1) for stage in STAGES}
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._history = EventCounters(database, self._observe)

    def _observe(self, stage: str, seconds: float) -> None:
        self._stages[stage][bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[stage] += seconds

    def describe(self) -> Iterator[Metric]:
        """Describe nothing before the first look: the database may not be there yet."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Look."""
        with self._lock:
            self._history.catch_up()
            standing = read_standing(self._database)
            metrics = [*self._of_queue(standing), *self._of_deliveries(standing), *self._of_history(), *self._of_node()]
            metrics += self._of_constancy()
            metrics += self._of_hosts()
        yield from metrics

    def _of_queue(self, standing: QueueCounts) -> Iterator[Metric]:
        instances = CounterMetricFamily("contourd_instances_received", "Images that were stored and acknowledged.")
        instances.add_metric([], standing.instances)
        yield instances
        series = GaugeMetricFamily("contourd_series", "Series by state.", labels=["state"])
        for state, number in standing.series.items():
            series.add_metric([state.lower()], number)
        yield series
        jobs = GaugeMetricFamily("contourd_jobs", "Jobs by state.", labels=["state"])
        for state, number in standing.jobs.items():
            jobs.add_metric([state.lower()], number)
        yield jobs
        age_s = (datetime.now(UTC) - standing.oldest_open).total_seconds() if standing.oldest_open else 0.0
        yield GaugeMetricFamily(
            "contourd_oldest_job_age_seconds", "Age of the oldest job that is neither ended nor held.", max(0.0, age_s)
        )

    def _of_deliveries(self, standing: QueueCounts) -> Iterator[Metric]:
        known = [d.name for d in self._settings.destination]
        states = GaugeMetricFamily("contourd_deliveries", "Deliveries by state.", labels=["destination", "state"])
        for (destination, state), number in standing.deliveries.items():
            states.add_metric([destination, state.lower()], number)
        yield states
        success = GaugeMetricFamily(
            "contourd_destination_last_success_timestamp_seconds",
            "When a destination took a structure set last; 0: never.",
            labels=["destination"],
        )
        for destination in known:
            at = standing.last_success.get(destination)
            success.add_metric([destination], at.timestamp() if at else 0.0)
        yield success
        attempts = CounterMetricFamily(
            "contourd_delivery_attempts",
            "Tries of deliveries by outcome and DIMSE status (empty: no answer).",
            labels=["destination", "outcome", "status"],
        )
        for labels, tries in standing.attempts.items():
            attempts.add_metric(labels, tries)
        yield attempts

    def _of_history(self) -> Iterator[Metric]:
        associations = CounterMetricFamily(
            "contourd_associations", "Associations by how they fared.", labels=["outcome"]
        )
        for outcome in OUTCOMES:
            associations.add_metric([outcome.replace(" ", "_")], self._history.associations[outcome])
        yield associations
        held = CounterMetricFamily("contourd_held", "Series and jobs that were held.", labels=["reason"])
        for name in HOLDING:
            held.add_metric([name], self._history.held[name])
        yield held
        remarks = CounterMetricFamily(
            "contourd_remarks", "Remarks on structure sets by what was looked at.", labels=["check", "verdict"]
        )
        for labels, number in sorted(self._history.remarks.items()):
            remarks.add_metric(labels, number)
        yield remarks
        seconds = HistogramMetricFamily("contourd_job_stage_seconds", "Time of jobs by stage.", labels=["stage"])
        for stage, counts in self._stages.items():
            seconds.add_metric([stage], _cumulative(counts), self._seconds[stage])
        yield seconds

    def _of_constancy(self) -> Iterator[Metric]:
        standing = read_constancy(self._database, self._settings, datetime.now(UTC))
        last = standing.last
        lights = GaugeMetricFamily(
            "contourd_constancy_state", "How the constancy check stands: 1 for its state.", labels=["state"]
        )
        for light in ConstancyLight:
            lights.add_metric([light.lower().replace(" ", "_")], int(light is standing.light))
        yield lights
        at = last.ended_at.timestamp() if last is not None and last.ended_at is not None else 0.0
        yield GaugeMetricFamily(
            "contourd_constancy_last_timestamp_seconds", "When a constancy check ended last; 0: never.", at
        )
        seconds = GaugeMetricFamily("contourd_constancy_seconds", "Time of the last check.", labels=["model"])
        dice = GaugeMetricFamily("contourd_constancy_dice", "Dice with the baseline.", labels=["model", "organ"])
        shift = GaugeMetricFamily(
            "contourd_constancy_shift_meters", "Shift of the centroid from the baseline.", labels=["model", "organ"]
        )
        for model in last.result.models if last is not None else ():
            seconds.add_metric([model.name], model.seconds)
            for name, organ in model.organs.items():
                dice.add_metric([model.name, name], organ.dice)
                if organ.shift_mm is not None:
                    shift.add_metric([model.name, name], organ.shift_mm / 1000)
        yield from (seconds, dice, shift)

    def _of_hosts(self) -> Iterator[Metric]:
        lines = read_hosts(self._database, datetime.now(UTC))
        processes = GaugeMetricFamily(
            "contourd_processes", "Processes of all hosts by state.", labels=["host", "role", "version", "state"]
        )
        for labels, number in Counter((o.host, o.role, o.version, o.state.lower()) for o in lines).items():
            processes.add_metric(labels, number)
        yield processes
        jobs = GaugeMetricFamily(
            "contourd_worker_jobs_last_hour", "Jobs that a worker contoured.", labels=["host", "device", "worker"]
        )
        busy = GaugeMetricFamily(
            "contourd_worker_busy", "Whether a worker contours a job.", labels=["host", "device", "worker"]
        )
        loaded = GaugeMetricFamily(
            "contourd_worker_model_loaded_bytes",
            "What a model takes that a worker has loaded, estimated by its weights.",
            labels=["host", "device", "worker", "model", "version", "kind", "runtime"],
        )
        for one in lines:
            for model in one.loaded:
                known = [one.host, one.device, one.id, model.model.name, model.model.version]
                loaded.add_metric([*known, model.kind, model.runtime], model.bytes)
            if one.role == ProcessRole.WORKER and one.state != GONE:
                jobs.add_metric([one.host, one.device, one.id], one.jobs_an_hour)
                busy.add_metric([one.host, one.device, one.id], int(one.job is not None))
        yield from (jobs, busy, loaded)
        yield from _of_figures(lines)

    def _of_node(self) -> Iterator[Metric]:
        disk = shutil.disk_usage(self._settings.spool.root)
        yield GaugeMetricFamily("contourd_disk_free_bytes", "Free space of the spool's file system.", disk.free)
        yield GaugeMetricFamily("contourd_disk_size_bytes", "Size of the spool's file system.", disk.total)
        yield GaugeMetricFamily(
            "contourd_disk_least_bytes",
            "Below so much free space nothing is received.",
            self._settings.spool.min_free_gb * 1e9,
        )
        models = GaugeMetricFamily(
            "contourd_model_info", "Models that routes name.", labels=["model", "version", "sha256"]
        )
        for labels in self._models():
            models.add_metric(labels, 1)
        yield models
        build = GaugeMetricFamily("contourd_build_info", "The running version.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        if self._pulse is not None:
            text = "Whether the node answers a C-ECHO to its own port, and writes to its spool and database."
            yield GaugeMetricFamily("contourd_up", text, int(not self._pulse.is_dead))
            works = self._pulse.is_fresh and self._pulse.worker_is_alive
            yield GaugeMetricFamily("contourd_worker_up", "Whether the worker is alive.", int(works))


def _of_figures(lines: Sequence[ProcessLine]) -> Iterator[Metric]:
    free = GaugeMetricFamily("contourd_host_disk_free_bytes", "Free space of the spool of a host.", labels=["host"])
    size = GaugeMetricFamily("contourd_host_disk_size_bytes", "Size of the file system of that.", labels=["host"])
    for disk in disks_of(lines):
        free.add_metric([disk.host], disk.free_bytes)
        size.add_metric([disk.host], disk.size_bytes)
    up = GaugeMetricFamily("contourd_store_up", "Whether the object store answers a host.", labels=["host"])
    since = GaugeMetricFamily(
        "contourd_store_since_timestamp_seconds", "Since when it does, or does not.", labels=["host"]
    )
    waiting = GaugeMetricFamily(
        "contourd_store_waiting_images", "Images of a host that are not in the object store yet.", labels=["host"]
    )
    for one in stores_of(lines):
        up.add_metric([one.host], int(one.standing.reachable))
        since.add_metric([one.host], one.standing.since.timestamp())
        if one.waiting is not None:
            waiting.add_metric([one.host], one.waiting)
    yield from (free, size, up, since, waiting)


def _cumulative(counts: Sequence[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, map(float, BUCKETS_S)), "+Inf"]
    return [(bound, float(sum(counts[: i + 1]))) for i, bound in enumerate(bounds)]


def exposition(metrics: NodeMetrics) -> bytes:
    """Write the figures in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry)
