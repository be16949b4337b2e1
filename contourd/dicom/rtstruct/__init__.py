"""RT structure sets (PS3.3 A.19): written, read, and read back before anything is sent."""

__all__ = ["loops", "read_back", "reader", "second_reader", "writer"]
