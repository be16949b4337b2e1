"""Grids, volumes, resampling and contours in millimetres: mathematics alone."""

__all__ = ["contours", "grid", "metrics", "resample", "volume", "written_grid"]
