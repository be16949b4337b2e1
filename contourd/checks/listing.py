"""The checks that settings ask for, in their order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from contourd.checks import alerts, constancy, host, hosts, models, network, reviews
from contourd.checks.finding import InstallationCheck
from contourd.commands import command
from contourd.dicom.segmentation.availability import HOW_TO_INSTALL
from contourd.settings import Settings

REPORT = "look at the message; if it makes no sense, report it"


def checks_of(settings: Settings, file: Path, send_mail: bool = False) -> tuple[InstallationCheck, ...]:
    """List the checks; what takes longest comes last. ``send_mail``: that of the mail server sends a test."""
    return (
        *_of_the_machine(settings, file),
        *_of_the_network(settings),
        *_of_the_alerts(settings, send_mail),
        *_of_the_models(settings),
    )


def _of_the_machine(settings: Settings, file: Path) -> tuple[InstallationCheck, ...]:
    spool = settings.spool
    owner = f"give {spool.root} to the user that runs contourd, on a disk that is whole and not read-only"
    checks = [
        InstallationCheck("settings", partial(host.settings_file, file), REPORT),
        InstallationCheck("spool.write", partial(host.spool_write, spool), owner),
        InstallationCheck("spool.space", partial(host.spool_space, spool), owner),
        InstallationCheck("spool.modes", partial(host.spool_modes, spool), owner),
        InstallationCheck(
            "database",
            partial(host.database, settings.database_url),
            "check database.url, that the server runs, that its driver is installed and who may read the file",
        ),
        InstallationCheck(
            "hosts", partial(hosts.hosts, settings.database_url, settings.alerts.disk_free_gb), "see `database`"
        ),
        InstallationCheck("decoders", host.decoders, "pip install 'contourd[codecs]'"),
        InstallationCheck("clock", host.clock, REPORT),
        InstallationCheck("ntp", host.time_service, REPORT),
        InstallationCheck("constancy", partial(constancy.baseline, settings), REPORT),
        InstallationCheck("reviews", partial(reviews.reviewers, settings), "see `database`"),
    ]
    if spool.store is not None:
        remedy = "check [spool.store]: endpoint, bucket, region and credentials_file"
        checks.insert(4, InstallationCheck("spool.store", partial(host.spool_store, spool), remedy))
    if any("seg" in destination.products for destination in settings.destination):
        checks.append(InstallationCheck("segmentation", host.segmentation, HOW_TO_INSTALL))
    if settings.check.rt_utils:
        checks.append(InstallationCheck("second-reader", host.second_reader, "pip install 'contourd[check]'"))
    return tuple(checks)


def _of_the_network(settings: Settings) -> tuple[InstallationCheck, ...]:
    node = settings.node
    files = "check the certificate's files: PEM, for this purpose, not expired, the key without a passphrase"
    checks = [InstallationCheck("port", partial(network.port, settings), "change node.host or node.port")]
    if settings.web.enabled:
        checks.append(
            InstallationCheck("web", partial(network.page, settings), "change web.host, web.port or web.token_file")
        )
    if node.tls is not None:
        checks.append(InstallationCheck("tls:node", partial(network.node_certificate, node), files))
    for one in settings.destination:
        address = "check destination.url" if one.kind == "stow" else "check destination.host and destination.port"
        if one.tls is not None:
            checks.append(InstallationCheck(f"tls:{one.name}", partial(network.destination_certificate, one), files))
        checks.append(InstallationCheck(f"echo:{one.name}", partial(network.echo, one, node.ae_title), address))
        if one.kind == "dicom":  # whoever is reached by a url calls nobody back
            checks.append(
                InstallationCheck(f"echo-back:{one.name}", partial(network.echo_back, one, settings), address)
            )
    return tuple(checks)


def _of_the_alerts(settings: Settings, send_mail: bool) -> tuple[InstallationCheck, ...]:
    ways, node = settings.alerts, settings.node.ae_title
    checks = []
    if ways.mail.host:
        run = partial(alerts.mail, ways.mail, node, send_mail)
        checks.append(InstallationCheck("mail", run, "check [alerts.mail]"))
    if ways.webhook:
        run = partial(alerts.webhook, ways.webhook, ways.webhook_timeout_s)
        checks.append(InstallationCheck("webhook", run, "check alerts.webhook"))
    return tuple(checks)


def _of_the_models(settings: Settings) -> tuple[InstallationCheck, ...]:
    names = dict.fromkeys(name for route in settings.route for name in route.models)
    listed = command("models list")
    whole = f"install the model again; route.model takes the name of a model of `{listed}`, or a folder"
    shadows = dict.fromkeys(route.shadow for route in settings.route if route.shadow)
    beside = f"patients are contoured without it; route.shadow takes the name of a model of `{listed}`, or a folder"
    fits = "set worker.device to a device that is there and has the memory"
    return (
        *(InstallationCheck(f"model:{name}", partial(models.model, name, settings), whole) for name in names),
        *(InstallationCheck(f"shadow:{name}", partial(models.shadow, name, settings), beside) for name in shadows),
        *(InstallationCheck(f"device:{name}", partial(models.device, name, settings), fits) for name in names),
    )
