"""A checkpoint of another program, read once in a process of its own: its weights become a file that runs no code.

A pickle may call what it names. torch's reader for weights alone calls nothing that is not on its list; besides, the
process that reads has no network, and bounds on its memory, its time and what it writes.

    python -P -m contourd.model.checkpoint_reader CHECKPOINT OUTPUT

writes OUTPUT (safetensors) and answers with one line of JSON: what the checkpoint says of itself, or why it is refused.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pickle
import platform
import resource
import struct
import sys
from pathlib import Path
from typing import Any

MOST_S = 600
MOST_MEMORY_BYTES = 12 * 2**30
MOST_TENSORS = 20000
LONGEST_NAME = 256
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
# AUDIT_ARCH of <linux/audit.h>, and the numbers of socket and io_uring_setup there.
ARCHITECTURES = {"x86_64": (0xC000003E, (41, 425)), "aarch64": (0xC00000B7, (198, 425))}
# What torch raises of a file that is no checkpoint, or a damaged one; whatever else ends this process.
UNREADABLE = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
)
# Beside what torch takes of itself: numbers that nnU-Net logs.
NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
NUMPY_TYPES = ("Float64DType", "Float32DType", "Int64DType")


def shut_off_network() -> str:
    """Take the network from this process, and say how; empty where the system does not let it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return "a network namespace of its own"
    return "seccomp" if _refuse_sockets(libc) else ""


def _refuse_sockets(libc: Any) -> bool:
    """Have the kernel refuse every socket that is opened from now on (seccomp(2))."""
    if platform.machine() not in ARCHITECTURES:
        return False
    architecture, calls = ARCHITECTURES[platform.machine()]
    load = 0x20
    equal = 0x15
    answer = 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    lines = [(load, 0, 0, 4), (equal, 0, len(calls) + 2, architecture), (load, 0, 0, 0)]
    lines += [(equal, len(calls) - i, 0, number) for i, number in enumerate(calls)]
    lines += [(answer, 0, 0, allow), (answer, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code)))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) == 0)


def read_checkpoint(path: Path, output: Path) -> dict[str, Any]:
    """Write a checkpoint's weights, and return what it says of itself, or ``refused`` with what stands in the way."""
    import numpy as np
    import safetensors.torch
    import torch

    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, *(getattr(np.dtypes, name) for name in NUMPY_TYPES)]
    allowed += [(scalar, name) for name in NUMPY_SCALARS]
    with torch.serialization.safe_globals(allowed):
        try:
            if named := torch.serialization.get_unsafe_globals_in_checkpoint(str(path)):
                return {"refused": "it names what is no weight", "names": sorted(named)[:5]}
            content = torch.load(path, map_location="cpu", weights_only=True)
        except UNREADABLE as error:
            return {"refused": "it cannot be read as weights", "names": [type(error).__name__]}
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not 0 < len(weights) <= MOST_TENSORS:
        return {"refused": "it holds no network_weights", "names": []}
    strange = [
        str(key)[:LONGEST_NAME]
        for key, value in weights.items()
        if not (isinstance(key, str) and len(key) <= LONGEST_NAME and isinstance(value, torch.Tensor))
    ]
    if strange:
        return {"refused": "what it calls weights are none", "names": strange[:5]}
    safetensors.torch.save_file({key: value.detach().clone().contiguous() for key, value in weights.items()}, output)
    arguments, axes = content.get("init_args"), content.get("inference_allowed_mirroring_axes")
    return {
        "trainer": str(content.get("trainer_name"))[:LONGEST_NAME],
        "configuration": str(arguments.get("configuration") if isinstance(arguments, dict) else "")[:LONGEST_NAME],
        "mirroring_axes": [int(axis) for axis in axes][:4] if isinstance(axes, list | tuple) else [],
        "epoch": content["current_epoch"] if type(content.get("current_epoch")) is int else None,
    }


def main() -> None:
    """Read the checkpoint that is named, and answer."""
    checkpoint, output = map(Path, sys.argv[1:3])
    network = shut_off_network()  # before there are threads, which a namespace of its own does not take
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_S, MOST_S))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))
    most_written = 4 * checkpoint.stat().st_size + 2**20
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_written, most_written))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        try:
            answer = read_checkpoint(checkpoint, output)
        except MemoryError:
            answer = {"refused": f"it takes more than {MOST_MEMORY_BYTES >> 30} GiB of memory", "names": []}
        answers.write(json.dumps(answer | {"network": network}) + "\n")


if __name__ == "__main__":
    main()
