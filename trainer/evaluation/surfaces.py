"""Surfaces of masks by scikit-image's marching cubes, which the extra ``train`` brings."""

from __future__ import annotations

from contourd.errors import DatasetError
from contourd.imaging.grid import FloatArray


def marching_cubes(
    volume: FloatArray, spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0), method: str = "lewiner"
) -> FloatArray:
    """Return the triangles (n, 3 corners, 3 axes) of the surface at 0.5, the axes as the volume's.

    Parameters
    ----------
    method
        ``lewiner``, or ``lorensen`` with the tables of Lorensen and Cline.

    Raises
    ------
    DatasetError
        scikit-image is not installed.
    """
    try:
        from skimage import measure
    except ImportError as error:
        raise DatasetError("surfaces need scikit-image: pip install 'contourd[train]'") from error
    vertices, faces, _, _ = measure.marching_cubes(volume, 0.5, spacing=spacing_mm, method=method)
    corners: FloatArray = vertices[faces]
    return corners
