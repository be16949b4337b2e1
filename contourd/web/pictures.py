"""What the viewer fetches of a job or a held series: one description, then planes and outlines one by one."""

from __future__ import annotations

import gzip
from typing import get_args

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from contourd.errors import SeriesUnusable
from contourd.observe.overview import read_job, read_series
from contourd.store.states import SeriesState
from contourd.web.scene import LETTERS, PLANES, Plane, Scene
from contourd.web.site import may_read, site_of

GZIP_LEVEL = 1


def scene_of(request: Request) -> Scene:
    """Open the pictures that a request is about.

    Raises
    ------
    HTTPException
        403 without sign-in where it is needed, 404 for no such job, 409 with the reason where nothing can be shown.
    """
    if not may_read(request):
        raise HTTPException(403, "sign in first")
    try:
        return _of_series(request) if "series" in request.path_params else _of_job(request)
    except SeriesUnusable as error:
        raise HTTPException(409, str(error)) from error


def _of_job(request: Request) -> Scene:
    site = site_of(request)
    detail = read_job(site.database, request.path_params["job"])
    if detail is None:
        raise HTTPException(404, "there is no such job")
    return site.scenes.scene(detail)


def _of_series(request: Request) -> Scene:
    site = site_of(request)
    detail = read_series(site.database, request.path_params["series"])
    if detail is None or detail.series.state != SeriesState.HELD:
        raise HTTPException(404, "there is no such series that is held")
    return site.scenes.held_scene(detail)


def describe(request: Request) -> Response:
    """Return sizes, letters, positions and organs."""
    try:
        scene = scene_of(request)
    except HTTPException as error:
        return JSONResponse({"problem": error.detail}, error.status_code)
    planes = {
        plane: {
            "count": scene.count(plane),
            "size_mm": [round(v, 3) for v in scene.size_mm(plane)],
            "pixels": [*reversed(scene.pixels(plane, 0).shape)],
            "letters": LETTERS[plane],
            "first": scene.first_look(plane),
            "places": np.round(scene.places(plane), 2).tolist(),
        }
        for plane in PLANES
    }
    organs = [
        {
            "number": organ.number,
            "name": organ.name,
            "colour": organ.colour,
            "volume_cc": round(organ.volume_cc, 2),
            "remark": organ.remark,
            "shadow": organ.shadow,
            "best": {plane: int(np.argmax(organ.areas(plane, scene.count(plane)))) for plane in PLANES},
            "box": [[part.start, part.stop] for part in organ.mask.box],
        }
        for organ in scene.organs
    ]
    return JSONResponse(
        {
            "planes": planes,
            "organs": organs,
            "spacing_mm": [round(v, 4) for v in scene.grid.spacing_mm],
            "depths_mm": np.round(scene.depths_mm(), 2).tolist(),
            "gaps": [
                {"places": [round(z, 2) for z in gap], "from_mm": round(upper, 2), "to_mm": round(lower, 2)}
                for gap, (upper, lower) in zip(scene.gaps, scene.gap_depths_mm(), strict=True)
            ],
            "left_out": scene.left_out,
        }
    )


def pixels(request: Request) -> Response:
    """Give one plane of the CT: little-endian int16 Hounsfield units, row by row."""
    scene = scene_of(request)
    plane, index = _asked(request, scene)
    content = gzip.compress(scene.pixels(plane, index).astype("<i2").tobytes(), GZIP_LEVEL)
    return Response(content, media_type="application/octet-stream", headers={"Content-Encoding": "gzip"})


def outlines(request: Request) -> Response:
    """Give the contours on one plane: number of the organ -> SVG path in mm."""
    scene = scene_of(request)
    plane, index = _asked(request, scene)
    return JSONResponse(scene.outlines(plane, index))


def _asked(request: Request, scene: Scene) -> tuple[Plane, int]:
    plane, index = request.path_params["plane"], request.path_params["index"]
    if plane not in get_args(Plane) or not 0 <= index < scene.count(plane):
        raise HTTPException(404, "there is no such plane")
    return plane, index
