"""What the node tells of itself: status, figures, alerts, forecasts. Reads what is remembered, and changes nothing."""

__all__ = [
    "alerts",
    "forecast",
    "host_figures",
    "hosts",
    "metrics",
    "notices",
    "overview",
    "pulse",
    "report",
    "status",
    "status_tables",
    "timeline",
]
