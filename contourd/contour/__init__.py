"""A series -> structure sets that were read back, what they were made with, and pictures of them. No network."""

__all__ = ["contouring", "drawing", "pictures", "provenance", "shadow_comparison"]
