"""The folder in which received images and structure sets lie, and the journal of what stands against a series."""

__all__ = ["access", "folder", "marks"]
