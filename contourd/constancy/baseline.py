"""The baseline: the reference patient's contours on the day of acceptance, signed with the site's key.

It is one file of JSON in the spool. Who cannot read the site's key cannot change it unnoticed.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from contourd.commands import command
from contourd.constancy.comparison import ModelContours
from contourd.errors import BaselineInvalid, SpoolError
from contourd.imaging.contours import MaskInBox
from contourd.spool.folder import PARTIAL, Spool
from contourd.spool.signed import is_signed, sign
from contourd.store.constancy_standing import BASELINE_FILE
from contourd.system.durable_files import write_durably
from contourd.system.regular_files import read_regular

PURPOSE = "constancy baseline"
LARGEST_BYTES = 64 * 2**20


def _remedy() -> str:
    return f"find out who changed it; then {command('constancy baseline')} makes a new one"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Shape(_Part):
    """Voxels of an organ: the box's first and last indices (z, y, x), and its bits, packed and compressed."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]
    voxels: str


class _Model(_Part):
    model: str
    name: str
    version: str
    sha256: str
    seconds: float
    organs: Mapping[str, _Shape]


class _Content(_Part):
    by: str
    at: datetime
    version: str
    device: str
    models: tuple[_Model, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """What each model made of the reference patient when it was accepted.

    Attributes
    ----------
    by, at
        Who had it made, and when.
    version
        Of contourd.
    device
        Where the network ran.
    """

    by: str
    at: datetime
    version: str
    device: str
    models: tuple[ModelContours, ...]

    def of(self, model: str) -> ModelContours | None:
        """Return what a model made, None for one that was not there."""
        return next((one for one in self.models if one.model == model), None)


def write_baseline(spool: Spool, baseline: Baseline) -> None:
    """Sign and write it, in place of an earlier one.

    Raises
    ------
    SpoolError
        The file system refuses, or the site's key cannot be read.
    """
    models = tuple(
        _Model(
            model=one.model,
            name=one.name,
            version=one.version,
            sha256=one.sha256,
            seconds=one.seconds,
            organs={name: _packed(mask) for name, mask in one.organs.items()},
        )
        for one in baseline.models
    )
    content = _Content(
        by=baseline.by, at=baseline.at, version=baseline.version, device=baseline.device, models=models
    ).model_dump(mode="json")
    signed = {"signature": sign(spool, PURPOSE, content), "baseline": content}
    try:
        write_durably(
            spool.root / PARTIAL / uuid4().hex, spool.root / BASELINE_FILE, [json.dumps(signed, indent=1).encode()]
        )
    except OSError as error:
        raise SpoolError(f"{spool.root / BASELINE_FILE} cannot be written: {error.strerror}") from error


def read_baseline(spool: Spool) -> Baseline:
    """Read it, if its signature is this site's.

    Raises
    ------
    BaselineInvalid
        There is none, or it was changed or not signed by this site; with the remedy.
    SpoolError
        The site's key cannot be read.
    """
    path = spool.root / BASELINE_FILE
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise BaselineInvalid(f"{path} is larger than any baseline; {_remedy()}")
        signed = json.loads(read_regular(path))
        content, signature = signed["baseline"], str(signed["signature"])
    except FileNotFoundError as error:
        raise BaselineInvalid(f"there is no baseline {path}; {command('constancy baseline')} makes one") from error
    except OSError as error:
        raise BaselineInvalid(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BaselineInvalid(f"{path} is no baseline, or not signed; {_remedy()}") from error
    if not is_signed(spool, PURPOSE, content, signature):
        raise BaselineInvalid(f"{path} was changed, or signed with another key than this site's; {_remedy()}")
    try:
        read = _Content.model_validate(content)
        return Baseline(read.by, read.at, read.version, read.device, tuple(map(_contoured, read.models)))
    except (ValidationError, ValueError, zlib.error, binascii.Error) as error:
        raise BaselineInvalid(
            f"{path} is of another version of contourd; {command('constancy baseline')} makes a new one"
        ) from error


def _packed(organ: MaskInBox) -> _Shape:
    z, y, x = organ.box
    bits = zlib.compress(np.packbits(organ.mask).tobytes(), 9)
    return _Shape(
        first=(z.start, y.start, x.start), last=(z.stop, y.stop, x.stop), voxels=base64.b64encode(bits).decode()
    )


def _contoured(model: _Model) -> ModelContours:
    organs = {name: _unpacked(shape) for name, shape in model.organs.items()}
    return ModelContours(model.model, model.name, model.version, model.sha256, model.seconds, organs)


def _unpacked(shape: _Shape) -> MaskInBox:
    z, y, x = (slice(first, last) for first, last in zip(shape.first, shape.last, strict=True))
    size = tuple(part.stop - part.start for part in (z, y, x))
    bits = np.frombuffer(zlib.decompress(base64.b64decode(shape.voxels)), np.uint8)
    return MaskInBox((z, y, x), np.unpackbits(bits, count=int(np.prod(size))).reshape(size).astype(bool))
