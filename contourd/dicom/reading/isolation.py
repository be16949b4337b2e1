"""Pixels decoded in a process of their own: a damaged JPEG makes GDCM abort, which no exception can catch.

The child reads a path a line and answers each with a line of JSON, followed by the stored values where there are any.
"""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from contourd.dicom.reading.decoders import DECODERS, LARGEST_IMAGE_BYTES, decode_pixels
from contourd.dicom.reading.files import read_dicom
from contourd.dicom.reading.instance import UNREADABLE

# pydicom's plugins raise RuntimeError on pixels that they cannot decode.
UNDECODABLE = (*UNREADABLE, RuntimeError, StopIteration)  # the last: there is no frame
IN_PROCESS = ("", "pydicom")
LONGEST_S = 60.0
MOST_BYTES = 4 * 2**30


class PixelDecoder:
    """Decodes images one after another; the child starts with the first that needs it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def decode(self, dataset: Dataset, path: Path) -> NDArray[Any]:
        """Return the stored values (rows, columns) of an image that was read from a path.

        Raises
        ------
        RuntimeError
            The decoder refuses the pixels, breaks down on them or does not come to an end; besides what pydicom raises.
        """
        if DECODERS.get(dataset.file_meta.TransferSyntaxUID, "") in IN_PROCESS:
            return decode_pixels(dataset)
        return self.decode_apart(path)

    def decode_apart(self, path: Path) -> NDArray[Any]:
        """Return the same by the child, whatever the transfer syntax is; raises RuntimeError as ``decode`` does."""
        if self._child is None:
            command = [sys.executable, "-P", "-m", "contourd.dicom.reading.isolation"]
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self._ask(self._child, path)

    def _ask(self, child: subprocess.Popen[bytes], path: Path) -> NDArray[Any]:
        assert child.stdin is not None
        assert child.stdout is not None
        limit = threading.Timer(LONGEST_S, child.kill)
        limit.start()
        try:
            child.stdin.write(json.dumps(str(path.absolute())).encode() + b"\n")
            child.stdin.flush()
            answer = json.loads(child.stdout.readline() or b'{"error": "the decoder broke down"}')
            if "error" in answer:
                raise RuntimeError(answer["error"])
            shape = tuple(answer["shape"])
            dtype = np.dtype(answer["dtype"])
            if not 0 < (size := math.prod(shape) * dtype.itemsize) <= LARGEST_IMAGE_BYTES:
                raise RuntimeError(f"the decoder gives {size} bytes")
            content = child.stdout.read(size)
        finally:
            limit.cancel()
        return np.frombuffer(content, dtype).reshape(shape)

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


class InProcessDecoder(PixelDecoder):
    """Decodes only what needs no child, which may take its time."""

    def decode_apart(self, path: Path) -> NDArray[Any]:  # noqa: ARG002
        """Refuse it, for it would take a child; raises RuntimeError."""
        raise RuntimeError("needs a process of its own")


def decoder_says(error: Exception) -> str:
    """Return the first line of what a decoder says of the pixels; other errors may quote the header: their kind."""
    kind = type(error).__name__
    return str(error).strip().split("\n", 1)[0].rstrip(":") or kind if type(error) is RuntimeError else kind


@contextmanager
def pixel_decoder() -> Iterator[PixelDecoder]:
    """Keep one decoder for several images."""
    decoder = PixelDecoder()
    try:
        yield decoder
    finally:
        decoder.close()


def main() -> None:
    """Answer until there are no more paths."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        for line in sys.stdin:
            try:
                stored = np.ascontiguousarray(decode_pixels(read_dicom(Path(json.loads(line)))))
            except (*UNDECODABLE, MemoryError) as error:
                answers.write(json.dumps({"error": decoder_says(error)}).encode() + b"\n")
            else:
                head = {"shape": stored.shape, "dtype": stored.dtype.str}
                answers.write(json.dumps(head).encode() + b"\n" + stored.tobytes())
            answers.flush()


if __name__ == "__main__":
    main()
