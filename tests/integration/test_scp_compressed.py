"""Compressed series over the network: offered where the decoder is there, kept as they came, the same Hounsfield units.

The encoders are others than the decoder: DCMTK, Pillow, pydicom and zlib.
"""

from __future__ import annotations

import io
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import AE, _config

from contourd.dicom.reading import decoders
from contourd.dicom.reading.decoders import LARGEST_INFLATED_BYTES, has_decoder
from contourd.dicom.reading.instance import read_instance
from contourd.dicom.reading.pixels import same_image
from contourd.dicom.reading.series import gate, read_volume
from contourd.errors import SeriesUnusable
from tests.integration.receiving import Receiver, Start, associate, sending
from tests.peers import LOOPBACK
from tests.phantom import phantom, rewrite, setting

# pynetdicom leaves the sockets of broken connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pynetdicom send the bytes of a file without reading them."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


def dcmtk(*command: str) -> Callable[[Path], None]:
    def compress(path: Path) -> None:
        subprocess.run([*command, path, path], check=True, capture_output=True)

    return compress


def rle(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
    ds.save_as(path)


def jpeg_2000(path: Path) -> None:
    """Pillow writes 16 bits, and none with a sign."""
    ds = pydicom.dcmread(path)
    stream = io.BytesIO()
    PIL.Image.fromarray(ds.pixel_array.astype(np.uint16)).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    ds.BitsStored, ds.HighBit = 16, 15
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.save_as(path)


def deflated(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.save_as(path)


COMPRESS: Mapping[UID, Callable[[Path], None]] = {
    RLELossless: rle,
    JPEGLosslessSV1: dcmtk("dcmcjpeg", "+e1"),
    JPEGLossless: dcmtk("dcmcjpeg", "+el", "+sv", "6"),
    JPEGLSLossless: dcmtk("dcmcjpls", "+el"),
    JPEG2000Lossless: jpeg_2000,
    DeflatedExplicitVRLittleEndian: deflated,
}
MADE_BY_DCMTK = (JPEGLosslessSV1, JPEGLossless, JPEGLSLossless)
SYNTAXES = [
    pytest.param(uid, id=uid.name, marks=[pytest.mark.peers] if uid in MADE_BY_DCMTK else []) for uid in COMPRESS
]


def made(syntax: UID, images: list[Path]) -> list[Path]:
    if not has_decoder(syntax):
        pytest.fail(f"the decoder of {syntax.name} is not installed: pip install -e '.[test]'")
    for path in images:
        COMPRESS[syntax](path)
        assert pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID == syntax
    return images


def sent(receiver: Receiver, syntax: UID, images: list[Path]) -> list[Path]:
    with sending(receiver.port, syntax) as association:
        assert [association.send_c_store(path).Status for path in images] == [0x0000] * len(images)
    return [receiver.spool.root / received.path for received in receiver.sink.received]


def dataset_bytes(path: Path) -> bytes:
    meta = pydicom.dcmread(path, stop_before_pixels=True).file_meta
    return path.read_bytes()[144 + meta.FileMetaInformationGroupLength :]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_compressed_series_has_the_same_hounsfield_units(receiver: Receiver, images: list[Path], syntax: UID) -> None:
    stored = sent(receiver, syntax, made(syntax, images))
    assert [dataset_bytes(path) for path in stored] == [dataset_bytes(path) for path in images]
    volume = read_volume(gate([read_instance(path) for path in stored]))
    np.testing.assert_array_equal(volume.hu, phantom().hu)


@pytest.mark.parametrize(
    "syntax", [p for p in SYNTAXES if p.values[0] not in (JPEG2000Lossless, DeflatedExplicitVRLittleEndian)]
)
@pytest.mark.parametrize("bits", [12, 16])
def test_a_compressed_series_with_a_sign_has_the_same_hounsfield_units(
    receiver: Receiver, images: list[Path], syntax: UID, bits: int
) -> None:
    def with_sign(ds: pydicom.Dataset) -> None:
        values = ds.pixel_array.astype(np.int16) - 1024
        ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.RescaleIntercept = 1, bits, bits - 1, "0"
        ds.PixelData = values.astype("<i2").tobytes()

    for path in images:
        rewrite(path, with_sign)
    stored = sent(receiver, syntax, made(syntax, images))
    volume = read_volume(gate([read_instance(path) for path in stored]))
    np.testing.assert_array_equal(volume.hu, phantom().hu)


# What is deflated is inflated as it is received, and refused then.
@pytest.mark.parametrize("syntax", [p for p in SYNTAXES if p.values[0] != DeflatedExplicitVRLittleEndian])
def test_a_slice_that_does_not_decode_is_named(receiver: Receiver, images: list[Path], syntax: UID) -> None:
    def damage(ds: pydicom.Dataset) -> None:
        (frame,) = pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)
        ds.PixelData = encapsulate([frame[: len(frame) // 3]])
        ds["PixelData"].VR = "OB"

    made(syntax, images)
    rewrite(images[9], damage)
    series = gate([read_instance(path) for path in sent(receiver, syntax, images)])
    with pytest.raises(SeriesUnusable, match=r"slice z = -6\.25 mm cannot be decoded \(.+\); send it uncompressed"):
        read_volume(series)  # z = -28.75 + 9 x 2.5


def test_only_what_can_be_decoded_is_offered(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "DECODERS", {RLELossless: "pydicom", JPEGLSLossless: "no such plugin"})
    association = associate(start().port, RLELossless, JPEGLSLossless, JPEG2000Lossless, ExplicitVRLittleEndian)
    accepted = {c.transfer_syntax[0] for c in association.accepted_contexts if c.abstract_syntax == CTImageStorage}
    rejected = {c.transfer_syntax[0] for c in association.rejected_contexts}
    association.release()
    assert accepted == {RLELossless, ExplicitVRLittleEndian}
    assert rejected == {JPEGLSLossless, JPEG2000Lossless}


def test_of_several_syntaxes_in_one_context_the_uncompressed_is_chosen(receiver: Receiver) -> None:
    sender = AE("SCANNER")
    sender.add_requested_context(CTImageStorage, [RLELossless, ExplicitVRLittleEndian])
    association = sender.associate(LOOPBACK, receiver.port, ae_title="CONTOURD")
    (context,) = association.accepted_contexts
    association.release()
    assert context.transfer_syntax == [ExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_same_image_in_another_syntax_is_no_other_image(images: list[Path], syntax: UID) -> None:
    plain = images[0].with_name("plain.dcm")
    plain.write_bytes(images[0].read_bytes())
    (packed,) = made(syntax, images[:1])
    if syntax == JPEG2000Lossless:
        rewrite(plain, setting(BitsStored=16, HighBit=15))
    assert same_image(plain, packed)
    assert not same_image(images[1], packed)


BOMB = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
BOMB_BYTES = BOMB.compress(bytes(LARGEST_INFLATED_BYTES + 1)) + BOMB.flush()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: BOMB_BYTES, "inflates to more than 64 MiB; send it uncompressed"),
        (lambda whole: whole[: len(whole) // 2], "is cut off: its deflated bytes have no end; send it uncompressed"),
        (lambda whole: b"\xff" * 100, "cannot be inflated; send it uncompressed"),
    ],
    ids=["bomb", "cut off", "noise"],
)
def test_a_deflated_dataset_is_inflated_with_care(
    receiver: Receiver, images: list[Path], content: Callable[[bytes], bytes], reason: str
) -> None:
    deflated(images[0])
    whole = images[0].read_bytes()
    dataset = dataset_bytes(images[0])
    images[0].write_bytes(whole[: -len(dataset)] + content(dataset))
    with pytest.raises(SeriesUnusable) as caught:
        read_instance(images[0])
    assert str(caught.value) == f"CT_0000.dcm {reason}"
    with sending(receiver.port, DeflatedExplicitVRLittleEndian) as association:
        answer = association.send_c_store(images[0])
    assert answer.Status == 0xC000
    assert answer.ErrorComment == f"dataset {reason}"[:64]
    assert receiver.files() == []
