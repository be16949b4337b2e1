"""DICOMweb as a user (PS3.18): what is sent by STOW-RS, and what the other side says of it. httpx is an extra."""

__all__ = ["availability", "stow"]
