"""What ``contourd check`` looks at before the first patient: one small function for each thing."""

__all__ = ["finding", "listing", "network"]
