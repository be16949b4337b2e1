"""RT structure sets (PS3.3 A.19): written, read, and read back before anything is sent."""

__all__ = ["read_back", "reader", "references", "roi_masks", "second_reader", "writer"]
