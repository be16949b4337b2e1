"""What the node tells of itself: status, figures, alerts, forecasts. Reads what is remembered, and changes nothing."""

__all__ = [
    "alerts",
    "archive",
    "archive_filter",
    "forecast",
    "host_figures",
    "hosts",
    "metrics",
    "notices",
    "overview",
    "patient_search",
    "pulse",
    "report",
    "shadows",
    "status",
    "status_tables",
    "timeline",
]
