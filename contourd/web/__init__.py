"""The web page: its process, who may act, the pages and pictures."""

__all__ = ["access", "launcher"]
