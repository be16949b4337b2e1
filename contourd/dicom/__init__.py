"""DICOM: its network, reading its files, RT structure sets. Nothing of the queue is known here."""

__all__ = ["ct_write", "uids"]
