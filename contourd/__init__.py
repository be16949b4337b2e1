"""contourd: a DICOM node that contours the organs at risk of head-and-neck CT series."""

__version__ = "0.1.0"
