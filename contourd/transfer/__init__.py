"""What travels between hosts by the object store: images, structure sets and models; fetched, packed, and let go."""

__all__ = ["bundles", "copies", "removal", "uploading"]
