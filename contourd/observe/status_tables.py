"""The report of a node for a terminal: one line for each job, and one job or series in full."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from contourd.commands import command
from contourd.model.model_use import ModelUse
from contourd.models.listing import ModelLine, routed_models
from contourd.observe.archive import ArchiveLine
from contourd.observe.host_figures import HostStore, disks_of, stores_of
from contourd.observe.hosts import ProcessLine
from contourd.observe.report import DeliveryLine, JobLine, QueueReport, SeriesLine
from contourd.observe.status import configured_destinations
from contourd.reasons.catalogue import command_for_job, command_for_series
from contourd.settings import Settings
from contourd.store.constancy_standing import ConstancyLight, ConstancyStatus
from contourd.store.states import JOBS_STOPPED, ProcessRole, SeriesState
from contourd.system.logs import one_line

# Of the settings' hash, which is enough to tell one version from another.
SETTINGS_DIGITS = 12
STYLE = {
    "CONFIRMING": "bold yellow",
    "HELD": "bold red",
    "FAILED": "bold red",
    "REFUSED": "bold red",
    "DELIVERED": "green",
    "PENDING": "yellow",
    "SENT": "yellow",
    "DOWN": "bold red",
    "UP": "green",
    "SUPERSEDED": "dim",
    "CANCELLED": "dim",
    "SILENT": "bold yellow",
    "GONE": "bold red",
}


LIGHTS = {
    ConstancyLight.GREEN: "bold green",
    ConstancyLight.RED: "bold red",
    ConstancyLight.UNBASED: "yellow",
    ConstancyLight.UNCHECKED: "yellow",
}


def to_table(report: QueueReport, settings: Settings, now: datetime) -> RenderableType:
    """Return the report for a terminal of 80 columns or more: a line for each series and job, the open ones first."""
    counts = "  ".join(f"{state} {number}" for state, number in report.counts.items() if number) or "nothing yet"
    free_gb = shutil.disk_usage(settings.spool.root).free / 1e9
    models = ", ".join(_told_model(m) for m in routed_models(settings, report.activations))
    parts: list[RenderableType] = [
        Text(f"{settings.node.ae_title}   disk free {free_gb:.0f} GB   models: {models}"),
        Text(counts),
    ]
    if report.constancy is not None and report.constancy.light is not ConstancyLight.OFF:
        parts.append(constancy_text(report.constancy, now))
    parts += [store_text(one, now) for one in stores_of(report.hosts)]
    if report.series:
        parts.append(_series_table(report.series, now))
        parts.append(Text(f"A series in full, with what to do: {command('status', '--series', 'SERIES')}", "dim"))
    if report.jobs:
        parts.append(_jobs_table(report.jobs, now))
        parts.append(Text(f"A job in full, with what to do: {command('status', 'JOB')}", "dim"))
    if report.destinations:
        parts.append(_destinations_table(report, settings, now))
    if report.hosts:
        parts.append(_hosts_table(report.hosts, now))
    return Group(*parts)


def _told_model(model: ModelLine) -> str:
    since = f" since {model.activation.at.astimezone():%Y-%m-%d %H:%M}" if model.activation else ""
    commissioned = ", not commissioned" if model.uncommissioned else ""
    return f"{one_line(model.name)} {one_line(model.version)} ({model.origin.value}{since}{commissioned})"


def constancy_text(standing: ConstancyStatus, now: datetime) -> Text:
    """Return how the constancy check stands, in a line, and a line for each remark."""
    text = Text("constancy ") + Text(standing.light, style=LIGHTS.get(standing.light, ""))
    if standing.last is not None and standing.last.ended_at is not None:
        at = standing.last.ended_at
        text.append(f"   checked {at.astimezone():%Y-%m-%d %H:%M}, {age(now - at)} ago")
    if standing.under_way:
        text.append("   one is under way")
    for line in filter(None, [standing.reason, *standing.remarks]):
        text.append("\n  ").append_text(_outside(line))
    return text


def store_text(one: HostStore, now: datetime) -> Text:
    """Return how the object store answers a host, in a line, and a line for what was wrong last."""
    standing = one.standing
    text = Text(f"object store on {one_line(one.host)} ")
    text.append("UP" if standing.reachable else "DOWN", STYLE["UP" if standing.reachable else "DOWN"])
    text.append(f" for {age(now - standing.since)}")
    if one.waiting is not None:
        text.append(f"   images that wait for it: {one.waiting}")
    if not standing.reachable:
        text.append("\n  ").append_text(_outside(standing.said))
    return text


def _lines(title: str, *columns: str) -> Table:
    """Make a table whose rows are one line each: of the last column (``_cut``) there is what fits."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in columns[:-1]:
        table.add_column(name, no_wrap=True)
    table.add_column(columns[-1])
    return table


def _cut(text: str) -> Text:
    """Return a text that may hold words of a peer, which ends with an ellipsis where it does not fit."""
    return Text(one_line(text), no_wrap=True, overflow="ellipsis")


def _destinations_table(report: QueueReport, settings: Settings, now: datetime) -> Table:
    table = _lines("Destinations", "destination", "state", "since", "last success", "waiting", "tries")
    configured = {destination.name for destination in settings.destination}
    for d in configured_destinations(report, settings):
        gone = "" if d.name in configured else "not in the settings: nothing is sent to it; "
        table.add_row(
            Text(one_line(d.name)),
            _styled(d.state),
            age(now - d.since) if d.since else "",
            f"{age(now - d.last_success)} ago" if d.last_success else "",
            str(d.waiting),
            _cut(gone + ", ".join(f"{t.text}: {t.number}" for t in d.tries)),
        )
    return table


def _hosts_table(lines: Sequence[ProcessLine], now: datetime) -> Table:
    table = _lines(
        "Hosts",
        "host",
        "role",
        "state",
        "version",
        "device",
        "heartbeat",
        "job",
        "jobs/h",
        "GB free",
        "loaded; leaves to others",
    )
    free_gb = {disk.host: disk.free_bytes / 1e9 for disk in disks_of(lines)}
    for one in lines:
        table.add_row(
            Text(one_line(one.host)),
            one.role,
            _styled(one.state),
            Text(one_line(one.version)),
            one.device,
            f"{age(now - one.heartbeat_at)} ago",
            "" if one.job is None else str(one.job),
            str(one.jobs_an_hour) if one.role == ProcessRole.WORKER else "",
            f"{free_gb[one.host]:.0f}" if one.host in free_gb else "",
            _cut("; ".join(filter(None, [", ".join(m.text() for m in one.loaded), *map(str, one.declined)]))),
        )
    return table


def _series_table(lines: Sequence[SeriesLine], now: datetime) -> Table:
    table = _lines("Series received or held", "series", "state", "came", "patient", "from", "images", "reason")
    for s in lines:
        calling, reason = Text(one_line(s.calling_ae)), _cut(str(s.reason or ""))
        number, came = str(s.id), _when(s.created_at, now)
        table.add_row(number, _styled(s.state), came, Text(one_line(s.patient)), calling, str(s.instances), reason)
    return table


def _jobs_table(lines: Sequence[JobLine], now: datetime) -> Table:
    table = _lines("Jobs", "job", "state", "came", "patient", "reason or remarks; deliveries")
    for job in lines:
        deliveries = ", ".join(_delivery_text(d, now) for d in job.deliveries)
        text = "; ".join(filter(None, [str(job.reason or ""), job.remarks.text(), deliveries]))
        when = _when(job.created_at, now)
        table.add_row(str(job.id), _styled(job.state), when, Text(one_line(job.patient)), _cut(text))
    return table


def archive_table(lines: Sequence[ArchiveLine], names: Mapping[str, str], tells: bool) -> RenderableType:
    """Return a list of jobs and series for a terminal, a line each.

    Parameters
    ----------
    names
        SeriesInstanceUID -> who is shown in the place of the pseudonym.
    tells
        Whether descriptions may be shown.
    """
    table = _lines("", "came", "job", "state", "patient", "from", "series", "model", "reason or remarks; deliveries")
    for line in lines:
        one = line.job or line.series
        assert one is not None
        known = line.described if tells else None
        described = (
            [known.description, known.body_part, known.protocol, known.station, known.study_date] if known else []
        )
        job = line.job
        deliveries = ", ".join(f"{d.destination} {d.state}" for d in job.deliveries) if job else ""
        told = [str(one.reason or ""), job.remarks.text() if job else "", deliveries]
        table.add_row(
            f"{line.at.astimezone():%Y-%m-%d %H:%M}",
            str(one.id) if job else f"series {one.id}",
            _styled(one.state),
            Text(one_line(names.get(one.series_uid, one.patient))),
            Text(one_line(line.sender)),
            Text(one_line(", ".join(filter(None, described)))),
            Text(one_line(job.asked if job else "")),
            _cut("; ".join(filter(None, told))),
        )
    return table


def job_in_full(job: JobLine, now: datetime) -> RenderableType:
    """Return all that is known of a job, with its remedy and the command that lets it go on."""
    late = any(d.state == "PENDING" and d.attempts for d in job.deliveries)
    stopped = job.state in JOBS_STOPPED
    advice = command_for_job(job.id, job.reason) if stopped else command("retry", job.id) if late else ""
    rows = [
        ("state", _styled(job.state)),
        ("came", _dated(job.created_at, now)),
        ("changed", _dated(job.updated_at, now)),
        ("patient", _outside(job.patient)),
        ("series", _outside(f"{job.series_uid}, revision {job.revision}")),
        *_models(job),
        ("route", _outside(job.route.text() if job.route else "")),
        ("settings", Text(job.route.settings_sha256[:SETTINGS_DIGITS] if job.route else "")),
        ("attempts", Text(str(job.attempts))),
        *(
            ("to", Text(_delivery_text(d, now) + (f": {one_line(str(d.reason))}" if d.reason else "")))
            for d in job.deliveries
        ),
        ("reason", _outside(str(job.reason or ""))),
        ("code", Text(job.reason.code.value if job.reason else "")),
        ("remarks", _outside(job.remarks.text())),
        ("what to do", Text(job.reason.remedy if job.reason and advice else "")),
        ("command", Text(advice, "bold")),
    ]
    return Group(Text(f"Job {job.id}", "bold"), _facts(rows))


def _models(job: JobLine) -> list[tuple[str, Text]]:
    """Return which models a job has; of several, each with what it drew or why nothing."""
    if len(job.models) == 1:
        return [("model", _outside(job.models[0].name))]
    if not job.models:
        return [("model", _outside(job.asked))]
    return [("model", _outside(f"{use.name}: {_drew(use)}")) for use in job.models]


def _drew(use: ModelUse) -> str:
    organs = ", ".join(use.organs)
    if use.failed is None:
        return organs or "nothing that another did not draw"
    return f"drew nothing, {organs or 'its organs'} missing: {use.failed}"


def series_in_full(series: SeriesLine, now: datetime) -> RenderableType:
    """Return all that is known of a series that is no job yet, with its remedy and the command that releases it."""
    held = series.state == SeriesState.HELD
    rows = [
        ("state", _styled(series.state)),
        ("came", _dated(series.created_at, now)),
        ("patient", _outside(series.patient)),
        ("series", _outside(series.series_uid)),
        ("from", _outside(series.calling_ae)),
        ("images", Text(str(series.instances))),
        ("reason", _outside(str(series.reason or ""))),
        ("code", Text(series.reason.code.value if series.reason else "")),
        ("what to do", Text(series.reason.remedy if series.reason and held else "")),
        ("command", Text(command_for_series(series.id, series.reason) if held else "", "bold")),
    ]
    return Group(Text(f"Series {series.id}", "bold"), _facts(rows))


def _facts(rows: Iterable[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text.plain:
            table.add_row(name, text)
    return table


def _delivery_text(delivery: DeliveryLine, now: datetime) -> str:
    text, attempts = f"{one_line(delivery.to)} {delivery.state}", delivery.attempts
    if attempts > 1 or (attempts and delivery.state != "DELIVERED"):
        text += f", {attempts} {'try' if attempts == 1 else 'tries'}"
    if delivery.next_try is not None and delivery.next_try > now:
        text += f", next in {age(delivery.next_try - now)}"
    return text


def _when(at: datetime, now: datetime) -> str:
    """Return a time in this machine's zone without the year, and how long ago it was."""
    return f"{at.astimezone():%m-%d %H:%M} {age(now - at)}"


def _dated(at: datetime, now: datetime) -> Text:
    return Text(f"{at.astimezone():%Y-%m-%d %H:%M:%S%z}, {age(now - at)} ago")


def _outside(text: str) -> Text:
    """Show what may hold words of a peer: no markup, no escapes to the terminal."""
    return Text("\n").join(Text(one_line(line)) for line in text.split("\n"))


def _styled(state: str) -> Text:
    return Text(state, style=STYLE.get(state, ""))


def age(span: timedelta) -> str:
    """Return a span in the largest unit that fits: 42 s, 17 min, 5 h, 3 d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == "min"):
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
