"""The series reader against hostile files: header, gate, pixels, and the structure set reader."""

from __future__ import annotations

import random
import struct
import time
import traceback
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    RTStructureSetStorage,
)

from contourd.dicom.network.file_meta import file_meta
from contourd.dicom.network.image_identifiers import naming_of, read_usual_dataset
from contourd.dicom.reading.instance import Instance, read_encoded, read_instance
from contourd.dicom.reading.isolation import PixelDecoder
from contourd.dicom.reading.pixels import hounsfield, same_image
from contourd.dicom.reading.series import Series, gate
from contourd.dicom.rtstruct.reader import misplaced, rasterise, read_structure_set
from contourd.errors import ContourdError
from tests.fuzz.bounds import FILES, FOR_EVER, Figures, Memory, TooSlow, within
from tests.fuzz.datasets import PIXELS, havoc, hostile_dataset
from tests.fuzz.elements import END_OF_SEQUENCE, Element, changed, read_elements
from tests.phantom import grid, phantom, read_series, structure_set, write_series

CORPUS = Path(__file__).parent / "corpus"
SLICES, WIDTH = 16, 16
PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
META_EVERY, PACKED_EVERY, STRUCTURES_EVERY = 20, 10, 8
CT = "1.2.840.10008.5.1.4.1.1.2"


def small_series(folder: Path) -> Path:
    return write_series(folder, phantom(grid(shape=(SLICES, WIDTH, WIDTH))))


def packed(path: Path) -> list[Element]:
    """Take an image apart whose pixels are encapsulated: the value holds the items, and says an undefined length."""
    found = read_elements(path)
    (pixels,) = (e for e in found if e.tag == PIXELS)
    assert isinstance(pixels.value, bytes)
    end = struct.pack("<HHL", END_OF_SEQUENCE >> 16, END_OF_SEQUENCE & 0xFFFF, 0)
    return changed(found, PIXELS, value=pixels.value.removesuffix(end) + end, said=0xFFFFFFFF)


@dataclass
class Reader:
    """The files that hostile ones are made of, and the decoder that lasts from input to input."""

    folder: Path

    def __post_init__(self) -> None:
        self.series: Series = read_series(small_series(self.folder / "ct"))
        self.path = self.folder / "hostile.dcm"
        self.elements = read_elements(self.series.instances[5].path)
        self.packed = {RLELossless: packed(CORPUS / "rle.dcm"), JPEGLosslessSV1: packed(CORPUS / "jpeg.dcm")}
        plan = self.folder / "rtstruct.dcm"
        drawn = read_series(write_series(self.folder / "drawn"))
        dataset = structure_set(drawn)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.save_as(plan, enforce_file_format=True)
        self.structures, self.grid = read_elements(plan), drawn.grid
        self.decoder = PixelDecoder()

    def close(self) -> None:
        self.decoder.close()

    def read(self, rng: random.Random, number: int) -> None:
        """Make one input and read it all the way that its kind goes."""
        if number % STRUCTURES_EVERY == 0:
            self._read_structures(rng)
            return
        syntax = rng.choice(PLAIN) if number % PACKED_EVERY else rng.choice(tuple(self.packed))
        content = hostile_dataset(rng, self.packed.get(syntax, self.elements), syntax)
        if number % 3 == 0:
            named = read_usual_dataset(memoryview(content), syntax)
            read = read_encoded(BytesIO(content), syntax)
            assert named is None or named == naming_of(read)
        meta = file_meta(CT, "1.2.3", syntax)
        if number % META_EVERY == 0:
            meta = havoc(rng, meta)
        self.path.write_bytes(meta + content)
        instance = read_instance(self.path)
        self._contourable(instance)

    def _contourable(self, instance: Instance) -> None:
        same_image(self.path, self.series.instances[5].path)
        others = [i for k, i in enumerate(self.series.instances) if k != 5]
        admitted = gate([*others, instance])
        for one in admitted.instances:
            if one is instance:
                hounsfield(one, self.decoder)

    def _read_structures(self, rng: random.Random) -> None:
        syntax = rng.choice(PLAIN[:2])
        content = hostile_dataset(rng, self.structures, syntax)
        self.path.write_bytes(file_meta(RTStructureSetStorage, "1.2.3", syntax) + content)
        try:
            dataset = pydicom.dcmread(self.path)
        except Exception:  # the caller's affair: no code of ours has run yet
            return
        for roi in read_structure_set(dataset):
            misplaced(roi, self.grid, "1.2.3")
            rasterise(roi.contours, self.grid)


def run_reader(folder: Path, seed: int, numbers: range, seconds: float = FOR_EVER) -> Figures:
    """Read so many hostile inputs; the same seed and number give the same input."""
    figures, reader = Figures("reader"), Reader(folder)
    memory: Memory | None = None
    try:
        for number in numbers:
            if time.monotonic() - figures.began > seconds:
                break
            _one(reader, figures, seed, number)
            if memory is None and number - numbers.start >= min(500, len(numbers) // 4):
                memory = Memory()
            if memory is not None and number % 50 == 0:
                memory.look()
    finally:
        reader.close()
    if memory is not None:
        figures.growth_mb, figures.peak_mb = memory.growth_mb, memory.peak_mb
    figures.seconds = time.monotonic() - figures.began
    figures.failures += [f"stray: {stray}" for stray in FILES.strays]
    return figures


def _one(reader: Reader, figures: Figures, seed: int, number: int) -> None:
    began = time.monotonic()
    figures.inputs += 1
    try:
        with within(), FILES.only(writing=reader.folder, reading=reader.folder):
            reader.read(random.Random(f"reader {seed} {number}"), number)
        figures.accepted += 1
    except ContourdError as error:
        figures.refused += 1
        if not str(error).isprintable():
            figures.failures.append(f"reader {seed} {number}: message not printable: {error!r}"[:300])
    except (Exception, TooSlow) as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in where if "contourd" in f.filename][-1:]
        figures.failures.append(f"reader {seed} {number}: {type(error).__name__} at {ours}: {error}"[:300])
    figures.slowest_s = max(figures.slowest_s, time.monotonic() - began)
