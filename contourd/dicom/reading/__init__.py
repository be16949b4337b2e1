"""DICOM files -> headers, Hounsfield units, a series that may be contoured; what cannot be read is refused here."""

__all__ = [
    "acquisition",
    "completeness",
    "dataset_hash",
    "decoders",
    "files",
    "header_values",
    "instance",
    "integrity",
    "isolation",
    "lenient",
    "patient_identity",
    "pixels",
    "received_images",
    "series",
    "series_description",
    "viewing",
]
