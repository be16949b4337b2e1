"""Processes that receive: one listens and hands each connection to one of several, which store what it brings."""

__all__ = ["dispatcher", "receiver"]
