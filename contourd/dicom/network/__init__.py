"""The DICOM network (PS3.7, PS3.8): associations, the SCP and the SCUs, and what guards them."""

__all__ = [
    "association",
    "commitment_messages",
    "commitment_scp",
    "commitment_scu",
    "events",
    "file_meta",
    "in_memory_scp",
    "listener",
    "outcomes",
    "own_echo",
    "review_scp",
    "scp",
    "scu",
    "sender",
    "tls",
]
