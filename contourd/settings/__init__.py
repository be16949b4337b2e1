"""The settings of a node: a frozen tree, read from one TOML file."""

from contourd.settings.alerts import AlertSettings, MailSettings
from contourd.settings.constancy import ConstancySettings
from contourd.settings.destination import Destination, DestinationTLS, Route, SenderNode
from contourd.settings.loading import find_settings_file, load_settings, require_models
from contourd.settings.node import NodeSettings, NodeTLS
from contourd.settings.shown import shown_settings
from contourd.settings.tree import (
    CheckSettings,
    DatabaseSettings,
    DeliverySettings,
    PlausibilitySettings,
    RetentionSettings,
    SeriesSettings,
    Settings,
    SpoolSettings,
    WorkerSettings,
)
from contourd.settings.values import Verdict
from contourd.settings.web import WebSettings

__all__ = [
    "AlertSettings",
    "CheckSettings",
    "ConstancySettings",
    "DatabaseSettings",
    "DeliverySettings",
    "Destination",
    "DestinationTLS",
    "MailSettings",
    "NodeSettings",
    "NodeTLS",
    "PlausibilitySettings",
    "RetentionSettings",
    "Route",
    "SenderNode",
    "SeriesSettings",
    "Settings",
    "SpoolSettings",
    "Verdict",
    "WebSettings",
    "WorkerSettings",
    "find_settings_file",
    "load_settings",
    "require_models",
    "shown_settings",
]
