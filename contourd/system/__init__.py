"""The machine beneath: clocks, files, memory, signals, threads, systemd, logs. Nothing of DICOM or of settings."""

__all__ = [
    "addresses",
    "bounded_exchange",
    "clock",
    "durable_files",
    "exhaustion",
    "folders",
    "identity",
    "logs",
    "loopback",
    "memory",
    "moments",
    "regular_files",
    "signals",
    "systemd",
    "threads",
]
