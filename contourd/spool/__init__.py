"""The folder in which received images and structure sets lie, the object store behind it, and the series' journal."""

__all__ = ["access", "folder", "grouping", "marks", "objects", "opening", "packing", "signed", "watching"]
