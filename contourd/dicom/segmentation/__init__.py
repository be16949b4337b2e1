"""Segmentations (PS3.3 A.51): written by highdicom, and read back before anything is sent.

highdicom is an extra: nothing here imports it before a segmentation is asked for.
"""

__all__ = ["availability", "read_back", "writer"]
