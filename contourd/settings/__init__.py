"""The settings of a node: a frozen tree, read from one TOML file."""

from contourd.settings.alerts import AlertSettings, MailSettings
from contourd.settings.constancy import ConstancySettings
from contourd.settings.destination import Destination, DestinationTLS, Reviewer, Route, SenderNode
from contourd.settings.loading import SEARCHED, find_settings_file, load_settings, require_models
from contourd.settings.node import NodeSettings, NodeTLS
from contourd.settings.shown import settings_sha256, shown_settings
from contourd.settings.spool import SpoolSettings, StoreSettings
from contourd.settings.tree import (
    DatabaseSettings,
    DeliverySettings,
    PlausibilitySettings,
    ReadBackSettings,
    RetentionSettings,
    SeriesSettings,
    Settings,
    WorkerSettings,
)
from contourd.settings.values import Precision, Verdict
from contourd.settings.web import WebSettings

__all__ = [
    "SEARCHED",
    "AlertSettings",
    "ConstancySettings",
    "DatabaseSettings",
    "DeliverySettings",
    "Destination",
    "DestinationTLS",
    "MailSettings",
    "NodeSettings",
    "NodeTLS",
    "PlausibilitySettings",
    "Precision",
    "ReadBackSettings",
    "RetentionSettings",
    "Reviewer",
    "Route",
    "SenderNode",
    "SeriesSettings",
    "Settings",
    "SpoolSettings",
    "StoreSettings",
    "Verdict",
    "WebSettings",
    "WorkerSettings",
    "configuration",
    "find_settings_file",
    "load_settings",
    "require_models",
    "settings_sha256",
    "shown_settings",
]
